//! A board file as it is written: keys, types, defaults. What the keys mean together is checked in `resolve`.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

pub(super) type Named<T> = BTreeMap<String, T>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Board {
    pub(super) name: String,
    pub(super) revision: String,
    #[serde(default)]
    pub(super) description: String,
    #[serde(default)]
    pub(super) bus: Named<Bus>,
    #[serde(default)]
    pub(super) chip: Named<Chip>,
    #[serde(default)]
    pub(super) hwmon: Named<Hwmon>,
    #[serde(default)]
    pub(super) rail: Named<Rail>,
    #[serde(default)]
    pub(super) supply: Named<Supply>,
    #[serde(default)]
    pub(super) sensor: Named<Sensor>,
    #[serde(default)]
    pub(super) fan: Named<Fan>,
    #[serde(default)]
    pub(super) zone: Named<Zone>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bus {
    pub(super) adapter: Option<String>,
    pub(super) socket: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Chip {
    pub(super) part: String,
    pub(super) bus: String,
    pub(super) addr: u8,
    pub(super) shunt_microohms: Option<u32>,
    pub(super) watchdog_s: Option<u8>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hwmon {
    pub(super) driver: String,
    pub(super) device: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rail {
    pub(super) chip: String,
    pub(super) channel: Option<Channel>,
    pub(super) min_mv: Option<u32>,
    pub(super) max_mv: Option<u32>,
    pub(super) max_ma: Option<i32>,
    pub(super) max_mw: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Supply {
    pub(super) chip: String,
    pub(super) input: Channel,
    pub(super) output: Channel,
    pub(super) max_input_mw: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sensor {
    pub(super) chip: String,
    pub(super) channel: Option<Channel>,
    #[serde(default = "Sensor::min_mc")]
    pub(super) min_mc: i32,
    #[serde(default = "Sensor::max_mc")]
    pub(super) max_mc: i32,
    pub(super) frozen_s: Option<u32>,
}

impl Sensor {
    /// What a silicon sensor can mean at all: -40 to 150 °C.
    fn min_mc() -> i32 {
        -40_000
    }

    fn max_mc() -> i32 {
        150_000
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fan {
    pub(super) chip: String,
    pub(super) channel: Option<Channel>,
    #[serde(default = "Fan::pulses")]
    pub(super) pulses: u8,
    pub(super) min_rpm: u16,
    pub(super) max_rpm: u16,
    #[serde(default = "Fan::start_pct")]
    pub(super) start_pct: u8,
}

impl Fan {
    /// Nearly every fan gives two pulses a revolution.
    fn pulses() -> u8 {
        2
    }

    /// Intel's 4-wire PWM specification (rev. 1.3, 3.2) lets a fan need up to 30 % to start.
    fn start_pct() -> u8 {
        30
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Zone {
    pub(super) sensors: Vec<String>,
    pub(super) fans: Vec<String>,
    pub(super) curve: Vec<(i32, u8)>,
    pub(super) critical_mc: i32,
    #[serde(default = "Zone::hysteresis_mc")]
    pub(super) hysteresis_mc: i32,
    #[serde(default = "Zone::slew_pct_per_s")]
    pub(super) slew_pct_per_s: u8,
}

impl Zone {
    fn hysteresis_mc() -> i32 {
        2_000
    }

    fn slew_pct_per_s() -> u8 {
        5
    }
}

/// A channel's name; a whole number is taken as its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Channel(pub(super) String);

impl<'de> Deserialize<'de> for Channel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrName;
        impl Visitor<'_> for NumberOrName {
            type Value = Channel;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a channel's number or name")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Channel, E> {
                Ok(Channel(number.to_string()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Channel, E> {
                Ok(Channel(number.to_string()))
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Channel, E> {
                Ok(Channel(name.to_owned()))
            }
        }
        deserializer.deserialize_any(NumberOrName)
    }
}
