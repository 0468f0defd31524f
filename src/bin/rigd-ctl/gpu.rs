//! `rigd-ctl gpu`: the GPUs as the agent sees them, and a self-test of their driver.

use std::fmt::{Display, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Subcommand;
use rigd::board::Board;
use rigd::config::{self, Config};
use rigd::gpu::helper::Helper;
use rigd::gpu::wire::{Answer, Device, Probe, Request};
use rigd::gpu::{Phase, Released, reasons, xid};
use rigd::local::{Get, Gpu, Gpus, MAX_RELEASE, Reply};
use rigd::wire::Value;

use crate::agent::{Agent, unexpected};
use crate::people::{self, say};

/// The command line.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// One line for each GPU
    List(Asked),
    /// All that is known of one GPU, or of each
    Show {
        /// PCI address or UUID, or the end of one; every GPU where none is given
        gpu: Option<String>,
        #[command(flatten)]
        asked: Asked,
    },
    /// Let profiles out of quarantine on one GPU: they are tried again
    Clear {
        /// PCI address or UUID, or the end of one
        gpu: String,
        /// Only this profile
        #[arg(long, value_name = "NAME")]
        profile: Option<String>,
        /// The agent's socket
        #[arg(long, value_name = "PATH", default_value = config::SOCKET)]
        socket: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give GPUs back to their driver and let go of it for a time, so that one can be reset
    #[command(
        after_help = "Profiles and fan rules are taken back first and set again afterwards; frame fans run at full air where GPUs count for them.\n\nExample:\n  rigd-ctl gpu release --for 5m && nvidia-smi --gpu-reset -i 0; rigd-ctl gpu release --for 0s"
    )]
    Release {
        /// How long, as 90s, 5m or 1h, at most an hour; 0s ends it at once
        #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
        time: u32,
        /// The agent's socket
        #[arg(long, value_name = "PATH", default_value = config::SOCKET)]
        socket: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Call each function of the driver that the agent uses, and tell what came back and how long it took
    #[command(
        after_help = "Changes nothing and does not ask the agent: it starts a driver's helper of its own. Attach what it prints to a report of a fault."
    )]
    Selftest {
        /// PCI address or UUID, or the end of one; every GPU where none is given
        gpu: Option<String>,
        /// The agent's configuration
        #[arg(long, value_name = "FILE", default_value = config::PATH)]
        config: PathBuf,
        /// Print JSON, one GPU a line
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
struct Asked {
    /// The agent's socket
    #[arg(long, value_name = "PATH", default_value = config::SOCKET)]
    socket: PathBuf,
    /// Print JSON, one GPU a line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.verb {
        Verb::List(asked) => {
            let (gpus, found) = ask(&asked.socket)?;
            if asked.json { json(&found) } else { crate::print(&list(&gpus, &found)) }
        }
        Verb::Show { gpu, asked } => {
            let (_, mut found) = ask(&asked.socket)?;
            if let Some(name) = gpu {
                found.retain(|gpu| is(name, &gpu.info.pci, &gpu.info.uuid));
                one(name, found.len())?;
            }
            if asked.json { json(&found) } else { crate::print(&found.iter().map(show).collect::<String>()) }
        }
        Verb::Clear { gpu, profile, socket, json } => clear(gpu, profile.clone(), socket, *json),
        Verb::Release { time, socket, json } => release(*time, socket, *json),
        Verb::Selftest { gpu, config, json } => selftest(gpu.as_deref(), config, *json),
    }
}

fn ask(socket: &Path) -> anyhow::Result<(Gpus, Vec<Gpu>)> {
    let mut agent = Agent::ask(socket, &rigd::local::Request::Get(Get::Gpus), None)?;
    let Reply::Gpus(gpus) = agent.reply()? else { return Err(unexpected()) };
    let mut found = Vec::new();
    for _ in 0..gpus.count {
        let Reply::Gpu(gpu) = agent.reply()? else { return Err(unexpected()) };
        found.push(*gpu);
    }
    Ok((gpus, found))
}

/// The agent's GPU thread may be in the middle of a call that takes long.
const SILENCE: Duration = Duration::from_secs(60);

/// A time as people write it, s.
fn seconds(text: &str) -> Result<u32, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err("a time is a whole number with its unit, as 90s, 5m or 1h".to_owned()),
    };
    let seconds = number.parse().ok().and_then(|number: u32| number.checked_mul(unit));
    seconds.filter(|seconds| *seconds <= MAX_RELEASE).ok_or_else(|| format!("at most {MAX_RELEASE}s"))
}

fn clear(name: &str, profile: Option<String>, socket: &Path, json: bool) -> anyhow::Result<()> {
    let (_, mut found) = ask(socket)?;
    found.retain(|gpu| is(name, &gpu.info.pci, &gpu.info.uuid));
    one(name, found.len())?;
    let Some(Gpu { info, .. }) = found.pop() else { bail!("there is no GPU `{name}`") };
    let what = profile.as_ref().map_or_else(|| "profiles".to_owned(), |name| format!("`{name}`"));
    let request = rigd::local::Request::GpuClear { gpu: info.pci.clone(), profile };
    let Reply::GpuCleared(count) = Agent::ask(socket, &request, Some(SILENCE))?.reply()? else {
        return Err(unexpected());
    };
    let text = match count {
        0 => bail!("GPU {} has no {what} in quarantine", info.pci),
        1 => format!("GPU {}: one profile is out of quarantine and tried again\n", info.pci),
        _ => format!("GPU {}: {count} profiles are out of quarantine and tried again\n", info.pci),
    };
    say(json, &text, &serde_json::json!({ "gpu": info.pci, "cleared": count }))
}

fn release(seconds: u32, socket: &Path, json: bool) -> anyhow::Result<()> {
    let request = rigd::local::Request::GpuRelease { seconds };
    let Reply::GpuReleased(released) = Agent::ask(socket, &request, Some(SILENCE))?.reply()? else {
        return Err(unexpected());
    };
    let time = if seconds == 0 {
        "the agent takes the driver up again now".to_owned()
    } else {
        format!("the agent has let go of the driver and takes it up again in {seconds} s")
    };
    let (clean, text) = match released {
        Released::Clean => (true, format!("{time}\n")),
        Released::Partly => (
            false,
            format!("{time}; not every setting or fan is known to be the driver's again: see the agent's log\n"),
        ),
        Released::Hung => bail!("the driver hangs and its helper cannot be ended: only a reboot helps"),
    };
    say(json, &text, &serde_json::json!({ "seconds": seconds, "clean": clean }))
}

fn json<T: serde::Serialize>(all: &[T]) -> anyhow::Result<()> {
    let mut text = String::new();
    for one in all {
        writeln!(text, "{}", serde_json::to_string(one)?)?;
    }
    crate::print(&text)
}

/// Whether people mean this GPU by that.
fn is(name: &str, pci: &str, uuid: &str) -> bool {
    let name = name.to_lowercase();
    let whole = |of: &str| of.to_lowercase().ends_with(&name) || of.to_lowercase().starts_with(&name);
    name.len() >= 4 && (whole(pci) || whole(pci.trim_end_matches(".0")) || (!uuid.is_empty() && whole(uuid)))
}

fn one(name: &str, found: usize) -> anyhow::Result<()> {
    match found {
        1 => Ok(()),
        0 => bail!("there is no GPU `{name}`; `rigd-ctl gpu list` shows them"),
        _ => bail!("`{name}` is more than one GPU: write more of its PCI address or UUID"),
    }
}

fn known<T>(value: &Value<T>, say: impl FnOnce(&T) -> String) -> String {
    value.0.as_ref().map_or_else(|missing| format!("- ({missing})"), say)
}

fn short<T>(value: &Value<T>, say: impl FnOnce(&T) -> String) -> String {
    value.0.as_ref().map_or_else(|_| "-".to_owned(), say)
}

fn list(gpus: &Gpus, found: &[Gpu]) -> String {
    let mut text =
        format!("driver: {}{}\n", gpus.driver, gpus.version.as_deref().map(|v| format!(", {v}")).unwrap_or_default());
    if found.is_empty() {
        return text;
    }
    let head = ["PCI", "GPU", "°C", "W", "limit", "SM MHz", "mem MHz", "load", "fan", "Xids", "profile", ""];
    let mut rows = vec![head.map(str::to_owned)];
    for Gpu { info, now, more, memory_clocks: _ } in found {
        rows.push([
            info.pci.clone(),
            if info.name.is_empty() { "?".to_owned() } else { info.name.clone() },
            short(&now.temperature, |t| people::milli(t.0, 0)),
            short(&now.power, |p| people::milli(p.0, 0)),
            short(&more.limit, |p| people::milli(p.0, 0)),
            short(&now.sm_mhz, |clock| clock.0.to_string()),
            short(&now.memory_mhz, |clock| clock.0.to_string()),
            short(&now.load, |load| format!("{} %", load.0)),
            short(&now.fan_duty, |duty| format!("{} %", duty.hundredths() / 100)),
            more.xids.to_string(),
            profile(now, more),
            if now.presence == rigd::gpu::Presence::Seen { String::new() } else { now.presence.to_string() },
        ]);
    }
    let mut widths = [0; 12];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Its name, and what an operator should know of it: that it is not kept yet, or that one is in quarantine.
fn profile(now: &rigd::wire::Gpu, more: &rigd::wire::GpuDetail) -> String {
    let mut text = more.profile.clone().unwrap_or_else(|| "-".to_owned());
    if !matches!(now.profile, Phase::Default | Phase::Committed) {
        let _ = write!(text, ", {}", now.profile);
    }
    if more.quarantined > 0 {
        let _ = write!(text, ", {} in quarantine", more.quarantined);
    }
    text
}

fn show(Gpu { info, now, more, memory_clocks }: &Gpu) -> String {
    let mut text = format!("{} {} {}\n", info.pci, info.name, info.uuid);
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {name:<20} {value}");
    };
    let option = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    line("presence", now.presence.to_string());
    line("serial, vbios", format!("{}, {}", option(&info.serial), option(&info.vbios)));
    line("temperature", known(&now.temperature, |t| format!("{} °C", people::milli(t.0, 0))));
    line("to slowing down", known(&more.margin, |t| format!("{} K", people::milli(t.0, 0))));
    line("memory temperature", known(&now.memory_temperature, |t| format!("{} °C", people::milli(t.0, 0))));
    line("power", known(&now.power, |p| format!("{} W", people::milli(p.0, 1))));
    line("power now", known(&more.power_now, |p| format!("{} W", people::milli(p.0, 1))));
    let watts =
        |limit: Option<rigd::units::Milliwatts>| limit.map_or("-".to_owned(), |limit| people::milli(limit.0, 0));
    let range = format!(
        "{} to {} W, made for {} W",
        watts(info.min_limit_mw),
        watts(info.max_limit_mw),
        watts(info.default_limit_mw)
    );
    line("power limit", known(&more.limit, |limit| format!("{} W, {range}", people::milli(limit.0, 1))));
    line("limit that holds", known(&more.enforced_limit, |limit| format!("{} W", people::milli(limit.0, 1))));
    line("energy", known(&more.energy, |energy| format!("{} Wh since the driver was loaded", energy.0 / 3_600_000)));
    line("SM clock", known(&now.sm_mhz, |clock| clock.to_string()));
    let clocks: Vec<String> = memory_clocks.iter().map(|(state, clock)| format!("{} in P{state}", clock.0)).collect();
    let clocks = if clocks.is_empty() { String::new() } else { format!(", of {}", clocks.join(", ")) };
    line("memory clock", known(&now.memory_mhz, |clock| clock.to_string()) + &clocks);
    line("performance state", known(&more.pstate, |state| format!("P{state}")));
    line("held back by", known(&now.reasons, |bits| reasons(*bits).join(", ")));
    line(
        "load",
        format!("{}, memory {}", known(&now.load, |l| l.to_string()), known(&more.memory_load, |l| l.to_string())),
    );
    let memory = info.memory_mib.map_or(String::new(), |all| format!(" of {all}"));
    line("memory used", known(&now.memory_used, |used| format!("{used}{memory}")));
    for (index, (duty, rpm)) in more.fans.iter().enumerate() {
        let speed = known(rpm, |rpm| rpm.to_string());
        line(&format!("fan {index}"), format!("{}, {speed}", known(duty, |duty| duty.to_string())));
    }
    let most = |value: Option<u8>| value.map_or("-".to_owned(), |value| value.to_string());
    let link = format!(
        "generation {} of {}, {} lanes of {}, {} packets sent again",
        known(&more.pcie_generation, |g| g.to_string()),
        most(info.pcie_max_generation),
        known(&more.pcie_width, |w| w.to_string()),
        most(info.pcie_max_width),
        known(&more.replays, |r| r.to_string())
    );
    line("PCIe", link);
    if let Some((corrected, uncorrected)) = more.ecc {
        line("memory errors", format!("{corrected} corrected, {uncorrected} not"));
    }
    if let Some((corrected, uncorrected, pending, failed)) = more.remapped {
        let more = format!(
            "{}{}",
            if pending { ", one waits for a reset" } else { "" },
            if failed { ", one failed" } else { "" }
        );
        line("rows remapped", format!("{corrected} for corrected errors, {uncorrected} for others{more}"));
    }
    let last = more.last_xid.map_or(String::new(), |code| format!(", the last {code}: {}", xid::name(code)));
    line("Xids", format!("{}{last}", more.xids));
    line("profile", format!("{} ({}), {} in quarantine", option(&more.profile), now.profile, more.quarantined));
    for (pid, memory) in &more.processes {
        line("process", format!("{pid}, {}", known(memory, |memory| memory.to_string())));
    }
    text
}

fn selftest(gpu: Option<&str>, path: &Path, json: bool) -> anyhow::Result<()> {
    let config = Config::load(path)?;
    let board = Board::load(&config.place.board)?;
    let host = config.place.host(path, &board)?;
    let launch =
        config.gpus.places(&host).launch.context("no GPUs are configured: a simulated rig needs gpu.library")?;
    let mut helper = Helper::start(&launch).map_err(|(failure, _)| anyhow!("{failure}"))?;
    let versions = std::sync::Arc::clone(&helper.versions);
    let mut text = String::new();
    if !json {
        let system = rustix_name();
        writeln!(text, "driver {}, NVML {}, {system}", versions.driver, versions.nvml)?;
    }
    let Answer::Inventory(devices) = helper.call(Request::Inventory)? else { bail!("the helper is confused") };
    let mut devices: Vec<Device> = devices?.into_iter().filter_map(Result::ok).collect();
    if let Some(name) = gpu {
        devices.retain(|device| is(name, &device.pci.to_string(), &device.uuid));
        one(name, devices.len())?;
    }
    for device in devices {
        let Answer::Selftest(probes) = helper.call(Request::Selftest(device.pci))? else {
            bail!("the helper is confused")
        };
        let probes = probes?;
        if json {
            writeln!(text, "{}", serde_json::to_string(&(&device, &probes))?)?;
        } else {
            text.push_str(&transcript(&device, &probes));
        }
    }
    let _ = helper.give_up();
    crate::print(&text)
}

fn rustix_name() -> impl Display {
    let name = rustix::system::uname();
    format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy())
}

fn transcript(device: &Device, probes: &[Probe]) -> String {
    let mut text = format!("\n{} {} {}\n", device.pci, device.name, device.uuid);
    for Probe { call, result, micros } in probes {
        let result = result.as_ref().map_or_else(ToString::to_string, Clone::clone);
        let _ = writeln!(text, "  {call:<52} {micros:>7} µs  {result}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit_and_an_end() {
        for (text, expected) in [
            ("0s", Some(0)),
            ("90s", Some(90)),
            ("5m", Some(300)),
            ("1h", Some(3_600)),
            ("3601s", None),
            ("5", None),
            ("", None),
            ("m", None),
            ("-1s", None),
            ("1.5m", None),
            ("99999999999s", None),
        ] {
            assert_eq!(seconds(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_gpu_is_meant_by_the_end_of_its_address_or_either_end_of_its_uuid() {
        let (pci, uuid) = ("0000:0a:00.0", "GPU-fa4e0001-1111");
        for (name, meant) in [
            ("0000:0a:00.0", true),
            ("0a:00.0", true),
            ("0A:00", true),
            ("GPU-fa4e0001", true),
            ("gpu-FA4E0001-1111", true),
            ("-1111", true),
            ("0b:00.0", false),
            ("0", false),
            ("", false),
        ] {
            assert_eq!(is(name, pci, uuid), meant, "{name}");
        }
        assert!(one("a", 0).is_err() && one("a", 2).is_err() && one("a", 1).is_ok());
    }
}
