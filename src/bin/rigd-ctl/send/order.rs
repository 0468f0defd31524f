//! The orders of the wire as a command line. A new order is a variant here and an arm below.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Subcommand, ValueEnum};
use rigd::command::trust::FleetConfig;
use rigd::units::{Millicelsius, Milliwatts};
use rigd::wire::{KeyId, Order, PayloadAct, PowerCap, TrustedKey};

/// What to order.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Verb {
    /// Give a profile of the rig's configuration to a GPU, or to all
    SetProfile {
        /// Its name; `none` leaves the GPU alone
        #[arg(required_unless_present = "clear")]
        profile: Option<String>,
        /// Only this GPU, by UUID
        #[arg(long, value_name = "UUID")]
        gpu: Option<String>,
        /// Take back what was asked for: the configuration holds again
        #[arg(long, conflicts_with = "profile")]
        clear: bool,
    },
    /// Keep the rig's input below so many watts
    SetPowerCap {
        /// The limit, W
        #[arg(required_unless_present = "clear")]
        watts: Option<u32>,
        /// How fast it may change, W a second; at once where none is given
        #[arg(long, value_name = "W/S", default_value_t = 0)]
        ramp: u32,
        /// Reached after this time, however slow the ramp
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        within: Option<Duration>,
        /// Ends by itself after this time
        #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
        lasts: Option<Duration>,
        /// A cap below it is refused, W: for caps that something computes
        #[arg(long, value_name = "W")]
        floor: Option<u32>,
        /// Take the cap away
        #[arg(long, conflicts_with = "watts")]
        clear: bool,
    },
    /// Move the temperature that a zone holds
    SetFanTarget {
        /// Its name on the board
        zone: String,
        /// To be held, °C; the board's where none is given
        celsius: Option<i16>,
    },
    /// Start, stop, restart or drain a payload
    Payload {
        /// What
        act: Act,
        /// Its name
        name: String,
    },
    /// Give GPUs to a payload, by UUID; none leaves them to its manifest
    Assign {
        /// Its name
        payload: String,
        /// The GPUs
        gpus: Vec<String>,
    },
    /// Let the rig be heard: its fans go to full air and back, by turns
    Identify {
        /// For so long
        #[arg(default_value = "30s", value_parser = humantime::parse_duration)]
        time: Duration,
    },
    /// Ask which chips and GPUs answer
    Probe,
    /// Show the last lines of a payload's log
    Logs {
        /// Its name
        payload: String,
        /// So many
        #[arg(long, default_value_t = 50)]
        lines: u16,
        /// Show what it writes from now on, as it writes it; for 0s only what is being shown elsewhere ends
        #[arg(short, long, conflicts_with = "lines")]
        follow: bool,
        /// Follow for so long, at most 10m
        #[arg(long = "for", value_name = "TIME", default_value = "1m", requires = "follow", value_parser = humantime::parse_duration)]
        lasts: Duration,
    },
    /// Ask for birth and telemetry now
    Snapshot,
    /// Let the agent read its payloads' manifests again
    Reload,
    /// Start the agent anew; payloads go on
    RestartAgent,
    /// Boot the rig anew
    Reboot,
    /// Trust a key, or trust one no more; takes two keys
    RotateKey {
        /// File with the `[key.NAME]` table that keygen printed
        #[arg(long, value_name = "FILE", required_unless_present = "revoke")]
        add: Option<PathBuf>,
        /// Id of the key that is not trusted any more
        #[arg(long, value_name = "ID")]
        revoke: Option<KeyId>,
    },
    /// Let payloads rest while somebody works at the rig, or end that
    Maintenance {
        /// Begins or ends
        state: Switch,
        /// Ends by itself after this time
        #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
        lasts: Option<Duration>,
    },
}

/// What to do with a payload.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Act {
    Start,
    Stop,
    Restart,
    Drain,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

impl Verb {
    /// The order on the wire; `now_ms` is ms since 1970.
    ///
    /// # Errors
    /// A file that cannot be read, or a number that no rig has.
    pub(super) fn order(self, now_ms: u64) -> anyhow::Result<Order> {
        let then = |time: Duration| now_ms.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let milliwatts = |watts: u32| watts.checked_mul(1_000).map(Milliwatts).context("so many watts no rig has");
        Ok(match self {
            Self::SetProfile { profile, gpu, clear: _ } => Order::SetProfile { gpu, profile },
            Self::SetPowerCap { watts: None, .. } => Order::SetPowerCap(None),
            Self::SetPowerCap { watts: Some(watts), ramp, within, lasts, floor, clear: _ } => {
                Order::SetPowerCap(Some(PowerCap {
                    cap_mw: milliwatts(watts)?,
                    ramp_mw_per_s: ramp.saturating_mul(1_000),
                    deadline_ms: within.map_or(0, then),
                    until_ms: lasts.map(then),
                    floor_mw: floor.map(milliwatts).transpose()?,
                }))
            }
            Self::SetFanTarget { zone, celsius } => {
                let target_mc = celsius.map(|celsius| Millicelsius(i32::from(celsius) * 1_000));
                Order::SetFanTarget { zone, target_mc }
            }
            Self::Payload { act, name } => {
                let act = match act {
                    Act::Start => PayloadAct::Start,
                    Act::Stop => PayloadAct::Stop,
                    Act::Restart => PayloadAct::Restart,
                    Act::Drain => PayloadAct::Drain,
                };
                Order::Payload { name, act }
            }
            Self::Assign { payload, gpus } => Order::Assign { payload, gpus },
            Self::Identify { time } => {
                Order::Identify { seconds: u16::try_from(time.as_secs()).context("so long no rig is heard")? }
            }
            Self::Probe => Order::Probe,
            Self::Logs { payload, follow: true, lasts, .. } => Order::FollowLogs {
                payload,
                seconds: u16::try_from(lasts.as_secs()).context("so long no log is followed")?,
            },
            Self::Logs { payload, lines, .. } => Order::Logs { payload, lines },
            Self::Snapshot => Order::Snapshot,
            Self::Reload => Order::Reload,
            Self::RestartAgent => Order::RestartAgent,
            Self::Reboot => Order::Reboot,
            Self::RotateKey { add, revoke } => {
                Order::RotateKey { add: add.map(|path| trusted(&path)).transpose()?, revoke }
            }
            Self::Maintenance { state, lasts } => {
                Order::Maintenance { on: state == Switch::On, until_ms: lasts.map(then) }
            }
        })
    }
}

/// The key in the table that `keygen` printed.
fn trusted(path: &std::path::Path) -> anyhow::Result<TrustedKey> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| format!("{shown}: could not be read"))?;
    let keys = FleetConfig::parse(&shown, &text)?.keys;
    let [key] =
        <[TrustedKey; 1]>::try_from(keys).map_err(|_| anyhow!("{shown}: must have one [key.NAME] and no other"))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        verb: Verb,
    }

    fn order(line: &str) -> Result<Order, String> {
        let words = std::iter::once("send").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        line.verb.order(1_000_000).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn every_order_can_be_typed() {
        let name = |name: &str| name.to_owned();
        for (line, expected) in [
            ("set-profile eco", Order::SetProfile { gpu: None, profile: Some(name("eco")) }),
            ("set-profile --clear --gpu GPU-1", Order::SetProfile { gpu: Some(name("GPU-1")), profile: None }),
            (
                "set-power-cap 1200 --ramp 50 --within 10s --for 1m --floor 300",
                Order::SetPowerCap(Some(PowerCap {
                    cap_mw: Milliwatts(1_200_000),
                    ramp_mw_per_s: 50_000,
                    deadline_ms: 1_010_000,
                    until_ms: Some(1_060_000),
                    floor_mw: Some(Milliwatts(300_000)),
                })),
            ),
            ("set-power-cap --clear", Order::SetPowerCap(None)),
            (
                "set-fan-target cards 55",
                Order::SetFanTarget { zone: name("cards"), target_mc: Some(Millicelsius(55_000)) },
            ),
            ("payload drain llm", Order::Payload { name: name("llm"), act: PayloadAct::Drain }),
            (
                "assign llm GPU-1 GPU-2",
                Order::Assign { payload: name("llm"), gpus: vec![name("GPU-1"), name("GPU-2")] },
            ),
            ("identify 1m", Order::Identify { seconds: 60 }),
            ("probe", Order::Probe),
            ("logs llm --lines 9", Order::Logs { payload: name("llm"), lines: 9 }),
            ("logs llm -f", Order::FollowLogs { payload: name("llm"), seconds: 60 }),
            ("logs llm --follow --for 10m", Order::FollowLogs { payload: name("llm"), seconds: 600 }),
            ("snapshot", Order::Snapshot),
            ("reload", Order::Reload),
            ("restart-agent", Order::RestartAgent),
            ("reboot", Order::Reboot),
            (
                "rotate-key --revoke 21fe31dfa154a261",
                Order::RotateKey { add: None, revoke: Some("21fe31dfa154a261".parse().unwrap()) },
            ),
            ("maintenance on --for 1m", Order::Maintenance { on: true, until_ms: Some(1_060_000) }),
            ("maintenance off", Order::Maintenance { on: false, until_ms: None }),
        ] {
            assert_eq!(order(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in [
            "set-profile",
            "set-power-cap",
            "set-power-cap 5000000",
            "payload sing llm",
            "identify 90000s",
            "logs llm --follow --lines 9",
            "logs llm --for 1m",
            "rotate-key",
            "rotate-key --revoke xyz",
            "rotate-key --add /nonexistent",
            "maintenance perhaps",
            "shell ls",
        ] {
            assert!(order(line).is_err(), "{line}");
        }
    }
}
