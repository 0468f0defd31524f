//! `rigd-ctl power`: what holds this rig's power back, and how far.

use std::fmt::Write;
use std::path::PathBuf;

use rigd::alarm::Cause;
use rigd::config;
use rigd::control::step::ladder;
use rigd::control::step::power::{self, Basis};
use rigd::local::{Get, GpuHeld, PowerHeld, Reply, Request};
use rigd::units::Milliwatts;
use rigd::wire::{PowerNow, Value};

use crate::agent::{Agent, unexpected};
use crate::people::watts;

/// The command line.
#[derive(clap::Args)]
#[command(
    after_help = "What a cap is set by: the configuration ([power] cap_w), `rigd-ctl send --rig NAME set-power-cap 1200`, the same\nwith --site (the grid: a slot of its own, lifted by --site alone), or a desired state. The tightest holds. Limits of supplies and rails are beside all of them and nothing lifts them."
)]
pub(crate) struct Arguments {
    /// The agent's socket
    #[arg(long, value_name = "PATH", default_value = config::SOCKET)]
    socket: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut agent = Agent::ask(&arguments.socket, &Request::Get(Get::Power), None)?;
    let Reply::Power(held) = agent.reply()? else { return Err(unexpected()) };
    if arguments.json {
        return crate::print(&format!("{}\n", serde_json::to_string(&held)?));
    }
    crate::print(&show(&held))
}

fn show(held: &PowerHeld) -> String {
    let PowerHeld { now, meter, gpus } = held;
    let meter = value(*meter);
    let mut text = match now {
        None => format!("Nothing is held back. At the input: {meter}\n"),
        Some(PowerNow { cap_mw, source, basis, estimate_mw }) => {
            let by = source.map(|source| format!(" by {source}")).unwrap_or_default();
            let cap = cap_mw.map_or_else(|| "none".to_owned(), |cap| format!("{} W{by}", watts(cap)));
            let basis = match basis {
                Basis::Meter => format!("its meter: {meter}"),
                Basis::Parts { margin } => format!(
                    "the sum of the parts: {} W, with {} % to spare; its meter is not believed: {meter}",
                    watts(*estimate_mw),
                    margin.0
                ),
            };
            format!("Cap      {cap}\nHeld by  {basis}\n")
        }
    };
    if gpus.is_empty() {
        return text;
    }
    let line = |cells: [&str; 6]| {
        let [pci, power, limit, clock, by_power, by_heat] = cells;
        format!("{pci:<14}{power:>9}{limit:>9}{clock:>10}  {by_power:<42}{by_heat}").trim_end().to_owned() + "\n"
    };
    text += &line(["GPU", "W", "LIMIT W", "CLOCK MHZ", "POWER", "HEAT"]);
    for GpuHeld { pci, power, limit, clock, rungs } in gpus {
        let limit = limit.map_or_else(|| "-".to_owned(), watts);
        let clock = clock.map_or_else(|| "-".to_owned(), |clock| clock.0.to_string());
        let drawn = power.0.map_or_else(|missing| missing.to_string(), watts);
        let by_power = because(of_power(rungs.power), rungs.power_cause);
        let by_heat = because(of_heat(rungs.heat), rungs.heat_cause);
        text += &line([pci, &drawn, &limit, &clock, &by_power, &by_heat]);
    }
    text
}

fn value(Value(reading): Value<Milliwatts>) -> String {
    reading.map_or_else(|missing| missing.to_string(), |power| format!("{} W", watts(power)))
}

fn because(rung: &str, cause: Option<Cause>) -> String {
    let mut text = rung.to_owned();
    if let Some(cause) = cause {
        // Writing to a String does not fail.
        let _ = if let Cause::Limit { value, limit } = cause {
            write!(text, " ({} of {} °C)", value / 1000, limit / 1000)
        } else {
            write!(text, " ({cause})")
        };
    }
    text
}

const fn of_power(rung: power::Rung) -> &'static str {
    match rung {
        power::Rung::Free => "free",
        power::Rung::Limit => "limit",
        power::Rung::Clocks => "clocks",
        power::Rung::Pause => "paused",
        power::Rung::Drain => "asked to end",
        power::Rung::Stop => "ended",
    }
}

const fn of_heat(rung: ladder::Rung) -> &'static str {
    match rung {
        ladder::Rung::Free => "free",
        ladder::Rung::Air => "full air",
        ladder::Rung::Limit => "limit",
        ladder::Rung::Pause => "paused",
        ladder::Rung::Stop => "ended",
    }
}

#[cfg(test)]
mod tests {
    use rigd::reading::Missing;
    use rigd::units::{Megahertz, Percent};
    use rigd::wire::Rungs;

    use super::*;

    #[test]
    fn what_holds_is_said_with_its_cause_and_what_it_rests_on() {
        let free = Rungs { power: power::Rung::Free, power_cause: None, heat: ladder::Rung::Free, heat_cause: None };
        let nothing = PowerHeld { now: None, meter: Value(Ok(Milliwatts(1_950_400))), gpus: Vec::new() };
        assert_eq!(show(&nothing), "Nothing is held back. At the input: 1950.4 W\n");
        let rungs = Rungs {
            power: power::Rung::Clocks,
            power_cause: Some(Cause::Cap(power::Source::Grid)),
            heat: ladder::Rung::Limit,
            heat_cause: Some(Cause::Limit { value: 93_000, limit: 92_000 }),
        };
        let gpu = |rungs, limit: Option<u32>| GpuHeld {
            pci: "0000:01:00.0".to_owned(),
            power: Value(Ok(Milliwatts(99_500))),
            limit: limit.map(Milliwatts),
            clock: limit.map(|_| Megahertz(900)),
            rungs,
        };
        let now = PowerNow {
            cap_mw: Some(Milliwatts(600_000)),
            source: Some(power::Source::Grid),
            basis: Basis::Parts { margin: Percent(3) },
            estimate_mw: Milliwatts(590_000),
        };
        let meter = Value(Err(Missing::Bus));
        let held = PowerHeld { now: Some(now), meter, gpus: vec![gpu(rungs, Some(100_000)), gpu(free, None)] };
        let text = show(&held);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "Cap      600.0 W by the grid");
        assert!(
            lines[1].starts_with("Held by  the sum of the parts: 590.0 W, with 3 % to spare; its meter is not"),
            "{text}"
        );
        assert_eq!(
            lines[3],
            "0000:01:00.0       99.5    100.0       900  clocks (cap by the grid)                  limit (93 of 92 °C)"
        );
        assert_eq!(
            lines[4],
            "0000:01:00.0       99.5        -         -  free                                      free"
        );
    }
}
