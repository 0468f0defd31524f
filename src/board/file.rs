//! A board file as it is written: keys, types, defaults. What the keys mean together is checked in `resolve`.

use crate::source::{Source, Table};

/// Tables by name, in the order of the names.
pub(super) type Named<T> = Vec<(String, T)>;

pub(super) struct Board {
    pub(super) name: String,
    pub(super) revision: String,
    pub(super) description: String,
    /// Refdes of the EEPROM that says which board this is.
    pub(super) identity: Option<String>,
    pub(super) bus: Named<Bus>,
    pub(super) mux: Named<Mux>,
    pub(super) chip: Named<Chip>,
    pub(super) hwmon: Named<Hwmon>,
    pub(super) rail: Named<Rail>,
    pub(super) supply: Named<Supply>,
    pub(super) sensor: Named<Sensor>,
    pub(super) fan: Named<Fan>,
    pub(super) zone: Named<Zone>,
}

pub(super) struct Bus {
    pub(super) adapter: Option<String>,
    pub(super) socket: Option<String>,
    pub(super) timeout_ms: Option<u32>,
}

pub(super) struct Mux {
    pub(super) part: String,
    pub(super) bus: String,
    pub(super) addr: u8,
}

pub(super) struct Chip {
    pub(super) part: String,
    /// The bus it is on, or the multiplexer that it is behind.
    pub(super) bus: Option<String>,
    pub(super) mux: Option<String>,
    pub(super) channel: Option<u8>,
    pub(super) addr: u8,
    pub(super) shunt_microohms: Option<u32>,
    pub(super) watchdog_s: Option<u8>,
    pub(super) pec: Option<bool>,
    pub(super) current_divisor: Option<u16>,
}

pub(super) struct Hwmon {
    pub(super) driver: String,
    pub(super) device: Option<String>,
}

pub(super) struct Rail {
    pub(super) chip: String,
    pub(super) channel: Option<String>,
    pub(super) min_mv: Option<u32>,
    pub(super) max_mv: Option<u32>,
    pub(super) max_ma: Option<i32>,
    pub(super) max_mw: Option<u32>,
}

pub(super) struct Supply {
    pub(super) chip: String,
    pub(super) input: Option<String>,
    pub(super) output: Option<String>,
    pub(super) max_input_mw: Option<u32>,
}

pub(super) struct Sensor {
    pub(super) chip: String,
    pub(super) channel: Option<String>,
    /// What a silicon sensor can mean at all: -40 to 150 °C unless the file says otherwise.
    pub(super) min_mc: i32,
    pub(super) max_mc: i32,
    pub(super) frozen_s: Option<u32>,
    pub(super) critical_mc: Option<i32>,
    /// A case or the air around a chip cannot change faster than this; 20 K/s is far above what any does.
    pub(super) max_k_per_s: u16,
}

pub(super) struct Fan {
    pub(super) chip: String,
    pub(super) channel: Option<String>,
    /// Nearly every fan gives two pulses a revolution.
    pub(super) pulses: u8,
    pub(super) min_rpm: u16,
    pub(super) max_rpm: u16,
    /// Intel's 4-wire PWM specification (rev. 1.3, 3.2) lets a fan need up to 30 % to start.
    pub(super) start_pct: u8,
    /// The slowest drive at which it keeps turning; `start_pct` unless it was measured.
    pub(super) min_pct: Option<u8>,
    /// Whether anybody measures its speed.
    pub(super) tachometer: bool,
    /// Who does, where it is not the chip that drives it.
    pub(super) tach_chip: Option<String>,
    pub(super) tach_channel: Option<String>,
}

pub(super) struct Zone {
    pub(super) sensors: Vec<String>,
    pub(super) fans: Vec<String>,
    pub(super) curve: Vec<(i32, u8)>,
    pub(super) critical_mc: i32,
    pub(super) hysteresis_mc: i32,
    pub(super) slew_pct_per_s: u8,
    pub(super) target_mc: Option<i32>,
    pub(super) gain_pct_per_k: Option<u8>,
    pub(super) integral_s: Option<u16>,
    pub(super) power: Vec<String>,
    pub(super) feed_forward_pct_per_kw: Option<u8>,
    pub(super) spare_fans: u8,
    pub(super) gpus: Vec<String>,
    pub(super) gpu_critical_mc: Option<i32>,
}

impl Board {
    pub(super) fn read(source: &Source<'_>) -> Self {
        let root = source.root();
        let tables = ["bus", "mux", "chip", "hwmon", "rail", "supply", "sensor", "fan", "zone"];
        root.only(&[&["name", "revision", "description", "identity"], &tables[..]].concat());
        Self {
            name: root.needed_text("name"),
            revision: root.needed_text("revision"),
            description: root.text("description").unwrap_or_default(),
            identity: root.text("identity"),
            bus: named(&root, "bus", Bus::read),
            mux: named(&root, "mux", Mux::read),
            chip: named(&root, "chip", Chip::read),
            hwmon: named(&root, "hwmon", Hwmon::read),
            rail: named(&root, "rail", Rail::read),
            supply: named(&root, "supply", Supply::read),
            sensor: named(&root, "sensor", Sensor::read),
            fan: named(&root, "fan", Fan::read),
            zone: named(&root, "zone", Zone::read),
        }
    }
}

fn named<T>(root: &Table<'_>, key: &str, read: impl Fn(&Table<'_>) -> T) -> Named<T> {
    root.tables(key).into_iter().map(|(name, table)| (name, read(&table))).collect()
}

impl Bus {
    fn read(table: &Table<'_>) -> Self {
        table.only(&["adapter", "socket", "timeout_ms"]);
        Self { adapter: table.text("adapter"), socket: table.text("socket"), timeout_ms: table.number("timeout_ms") }
    }
}

impl Mux {
    fn read(table: &Table<'_>) -> Self {
        table.only(&["part", "bus", "addr"]);
        Self { part: table.needed_text("part"), bus: table.needed_text("bus"), addr: table.needed_number("addr") }
    }
}

impl Chip {
    fn read(table: &Table<'_>) -> Self {
        table.only(&[
            "part",
            "bus",
            "mux",
            "channel",
            "addr",
            "shunt_microohms",
            "watchdog_s",
            "pec",
            "current_divisor",
        ]);
        Self {
            part: table.needed_text("part"),
            bus: table.text("bus"),
            mux: table.text("mux"),
            channel: table.number("channel"),
            addr: table.needed_number("addr"),
            shunt_microohms: table.number("shunt_microohms"),
            watchdog_s: table.number("watchdog_s"),
            pec: table.flag("pec"),
            current_divisor: table.number("current_divisor"),
        }
    }
}

impl Hwmon {
    fn read(table: &Table<'_>) -> Self {
        table.only(&["driver", "device"]);
        Self { driver: table.needed_text("driver"), device: table.text("device") }
    }
}

impl Rail {
    fn read(table: &Table<'_>) -> Self {
        table.only(&["chip", "channel", "min_mv", "max_mv", "max_ma", "max_mw"]);
        Self {
            chip: table.needed_text("chip"),
            channel: table.name("channel"),
            min_mv: table.number("min_mv"),
            max_mv: table.number("max_mv"),
            max_ma: table.number("max_ma"),
            max_mw: table.number("max_mw"),
        }
    }
}

impl Supply {
    fn read(table: &Table<'_>) -> Self {
        table.only(&["chip", "input", "output", "max_input_mw"]);
        Self {
            chip: table.needed_text("chip"),
            input: table.name("input"),
            output: table.name("output"),
            max_input_mw: table.number("max_input_mw"),
        }
    }
}

impl Sensor {
    fn read(table: &Table<'_>) -> Self {
        table.only(&["chip", "channel", "min_mc", "max_mc", "frozen_s", "critical_mc", "max_k_per_s"]);
        Self {
            chip: table.needed_text("chip"),
            channel: table.name("channel"),
            min_mc: table.number("min_mc").unwrap_or(-40_000),
            max_mc: table.number("max_mc").unwrap_or(150_000),
            frozen_s: table.number("frozen_s"),
            critical_mc: table.number("critical_mc"),
            max_k_per_s: table.number("max_k_per_s").unwrap_or(20),
        }
    }
}

impl Fan {
    fn read(table: &Table<'_>) -> Self {
        table.only(&[
            "chip",
            "channel",
            "pulses",
            "min_rpm",
            "max_rpm",
            "start_pct",
            "min_pct",
            "tachometer",
            "tach_chip",
            "tach_channel",
        ]);
        let tachometer = table.flag("tachometer").unwrap_or(true);
        let rpm = |key| if tachometer { table.needed_number(key) } else { table.number(key).unwrap_or(0) };
        Self {
            chip: table.needed_text("chip"),
            channel: table.name("channel"),
            pulses: table.number("pulses").unwrap_or(2),
            min_rpm: rpm("min_rpm"),
            max_rpm: rpm("max_rpm"),
            start_pct: table.number("start_pct").unwrap_or(30),
            min_pct: table.number("min_pct"),
            tachometer,
            tach_chip: table.text("tach_chip"),
            tach_channel: table.name("tach_channel"),
        }
    }
}

impl Zone {
    fn read(table: &Table<'_>) -> Self {
        table.only(&[
            "sensors",
            "fans",
            "curve",
            "critical_mc",
            "hysteresis_mc",
            "slew_pct_per_s",
            "target_mc",
            "gain_pct_per_k",
            "integral_s",
            "power",
            "feed_forward_pct_per_kw",
            "spare_fans",
            "gpus",
            "gpu_critical_mc",
        ]);
        Self {
            sensors: table.texts("sensors"),
            fans: table.texts("fans"),
            curve: table.pairs("curve"),
            critical_mc: table.needed_number("critical_mc"),
            hysteresis_mc: table.number("hysteresis_mc").unwrap_or(2_000),
            slew_pct_per_s: table.number("slew_pct_per_s").unwrap_or(5),
            target_mc: table.number("target_mc"),
            gain_pct_per_k: table.number("gain_pct_per_k"),
            integral_s: table.number("integral_s"),
            power: table.texts("power"),
            feed_forward_pct_per_kw: table.number("feed_forward_pct_per_kw"),
            spare_fans: table.number("spare_fans").unwrap_or(0),
            gpus: table.texts("gpus"),
            gpu_critical_mc: table.number("gpu_critical_mc"),
        }
    }
}
