//! Desired and reported states as text.

use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use rigd::wire::{Desired, DesiredPayload, PowerCap, Reported, RigId, Window};
use serde::Serialize;

use crate::people::{harmless_lines, milli};
use crate::trust::{Checked, told};

/// One object, a line.
pub(super) fn json(
    rig: &RigId,
    held: Option<&(Desired, Vec<Checked>)>,
    reported: Option<&Reported>,
) -> anyhow::Result<String> {
    #[derive(Serialize)]
    struct Line<'a> {
        rig: &'a RigId,
        desired: Option<&'a Desired>,
        signatures: &'a [Checked],
        reported: Option<&'a Reported>,
    }
    let signatures = held.map_or(&[][..], |(_, checked)| checked);
    let line = Line { rig, desired: held.map(|(desired, _)| desired), signatures, reported };
    Ok(serde_json::to_string(&line)? + "\n")
}

/// What the broker holds.
pub(super) fn held(rig: &RigId, held: Option<&(Desired, Vec<Checked>)>) -> String {
    let Some((desired, signatures)) = held else { return format!("{rig}: the broker holds no desired state\n") };
    let by: Vec<String> = signatures.iter().map(told).collect();
    let mut text =
        format!("{rig}: revision {}, signed {} by {}\n", desired.revision, at(desired.issued_ms), by.join(" and "));
    for line in lines(desired) {
        text += &format!("  {line}\n");
    }
    harmless_lines(&text)
}

fn lines(desired: &Desired) -> Vec<String> {
    let Desired { audience: _, revision: _, issued_ms: _, not_after_ms, payloads, .. } = desired;
    let mut lines: Vec<String> = payloads.iter().map(payload).collect();
    for entry in &desired.profiles {
        lines.push(format!("profile {} on {}", entry.profile, entry.gpu.as_deref().unwrap_or("every GPU")));
    }
    lines.extend(desired.power_cap.as_ref().map(cap));
    for target in &desired.fan_targets {
        let at = target.target_mc.map_or("the board's own".to_owned(), |target| format!("{} °C", milli(target.0, 1)));
        lines.push(format!("zone {} at {at}", target.zone));
    }
    if desired.maintenance {
        lines.push("maintenance".to_owned());
    }
    for order in &desired.standing {
        let clock = if order.utc { "UTC" } else { "the rig's time" };
        let mut text = format!("standing {}, {} {clock}:", order.name, window(order.when));
        let all = order.power_cap.as_ref().map(cap).into_iter().chain(order.payloads.iter().map(payload));
        text += &all.map(|part| format!(" {part}")).collect::<Vec<_>>().join(",");
        lines.push(text);
    }
    if let Some(until) = not_after_ms {
        lines.push(format!("not to be taken after {}", at(*until)));
    }
    lines
}

fn payload(payload: &DesiredPayload) -> String {
    let does = if payload.run { "runs" } else { "does not run" };
    match &payload.gpus {
        Some(gpus) => format!("payload {} {does}, on {}", payload.name, gpus.join(" ")),
        None => format!("payload {} {does}", payload.name),
    }
}

fn cap(cap: &PowerCap) -> String {
    let until = cap.until_ms.map(|until| format!(" until {}", at(until))).unwrap_or_default();
    format!("at most {} W{until}", milli(cap.cap_mw.0, 0))
}

fn window(window: Window) -> String {
    const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let days: Vec<&str> =
        DAYS.iter().enumerate().filter(|(bit, _)| window.days >> bit & 1 == 1).map(|(_, d)| *d).collect();
    let days = if days.len() == DAYS.len() { "every day".to_owned() } else { days.join(" ") };
    let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
    format!("{days} {} to {}", clock(window.from_min), clock(window.to_min))
}

fn at(unix_ms: u64) -> String {
    // Beyond the year 9999 there is no such text; whoever wrote that number may read it.
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(unix_ms)).filter(|_| unix_ms < 253_402_300_800_000);
    at.map_or_else(|| format!("{unix_ms} ms"), |at| humantime::format_rfc3339_seconds(at).to_string())
}

/// How the rig says that it stands.
pub(super) fn reported(rig: &RigId, reported: Option<&Reported>) -> String {
    let Some(reported) = reported else { return format!("{rig}: has reported nothing\n") };
    let Reported { reached, accepted, refused, differences, standing, stale_h } = reported;
    let mut text = match (accepted, reached) {
        (0, _) => format!("{rig}: no revision is in force\n"),
        (accepted, reached) if accepted == reached => format!("{rig}: revision {accepted} is reached\n"),
        (accepted, _) => format!("{rig}: revision {accepted} is in force, {} not so yet\n", differences.len()),
    };
    if let Some(refused) = refused {
        text += &format!("{rig}: revision {} was refused: {}\n", refused.revision, refused.reason);
    }
    if !standing.is_empty() {
        text += &format!("{rig}: standing orders that hold now: {}\n", standing.join(", "));
    }
    if let Some(hours) = stale_h {
        text += &format!("{rig}: what is in force was signed {hours} hours ago\n");
    }
    harmless_lines(&(text + &table(reported)))
}

/// What is different, and nothing else.
pub(super) fn differences(rig: &RigId, reported: Option<&Reported>) -> String {
    match reported {
        None => format!("{rig}: has reported nothing\n"),
        Some(reported) if reported.differences.is_empty() => format!("{rig}: nothing differs\n"),
        Some(reported) => harmless_lines(&table(reported)),
    }
}

fn table(reported: &Reported) -> String {
    let mut text = String::new();
    for one in &reported.differences {
        // Writing to a text does not fail.
        let _ = writeln!(text, "  {:<24} want {}, have {}: {}", one.what, one.want, one.have, one.why);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_in_words() {
        let text = rigd::desired_file::EXAMPLE;
        let desired = rigd::desired_file::parse("x", text, "rig-7".parse().unwrap(), 3, 1_700_000_000_000).unwrap();
        let checked = Checked { key: rigd::wire::KeyId([1; 8]), name: Some("ops".to_owned()), fits: Some(true) };
        let shown = held(&"rig-7".parse().unwrap(), Some(&(desired, vec![checked])));
        for expected in [
            "rig-7: revision 3, signed 2023-11-14T22:13:20Z by ops, which fits\n",
            "  payload llm runs, on GPU-8f0a4cc6-0f0a-4b6f-9a53-5bd1a1c0a001\n",
            "  profile eco on every GPU\n",
            "  at most 1200 W\n",
            "  zone cards at 55.0 °C\n",
            "  standing night, mon tue wed thu fri 22:00 to 06:00 the rig's time: at most 600 W, payload miner does not run\n",
        ] {
            assert!(shown.contains(expected), "{shown}");
        }
    }
}
