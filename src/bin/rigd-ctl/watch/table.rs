//! The table, the lines: text from what is known, nothing else.

use std::fmt::Write;
use std::time::Instant;

use rigd::gpu::{Driver, Presence};
use rigd::reading::Reading;
use rigd::units::{Millicelsius, Milliwatts, Rpm};
use rigd::wire::{Birth, Delivery, Event, Message, Power, Reported, RigId, Subject, Telemetry, Value};

use super::fleet::{Fleet, Rig};
use crate::people::{amperes, celsius, count, harmless_lines, milli, percent, short, volts, watts};

/// The screen: one rig in full, several in a line each.
pub(super) fn draw(fleet: &Fleet, state: &str, width: usize, height: usize, now: Instant) -> String {
    let mut text = format!("rigd-ctl watch · {state} · {} · Ctrl-C ends\n\n", count(fleet.rigs.len(), "rig"));
    let mut rigs = fleet.rigs.iter();
    match (rigs.next(), rigs.next()) {
        (None, _) => text.push_str("No rig has been heard of yet.\n"),
        (Some((name, rig)), None) => text.push_str(&one(name, rig, now)),
        _ => text.push_str(&all(fleet, now)),
    }
    let text = harmless_lines(&text);
    let lines = text.lines().take(height.saturating_sub(1).max(1));
    lines.map(|line| line.chars().take(width).collect::<String>() + "\n").collect()
}

/// A line per rig.
fn all(fleet: &Fleet, now: Instant) -> String {
    let mut text = row(&[
        "RIG", "STATE", "INPUT", "RAILS", "HOTTEST", "FANS", "DRIVE", "ZONE", "ALARMS", "MISSED", "AGE", "NOTES",
    ]);
    for (name, rig) in &fleet.rigs {
        let notes = notes(rig).join(", ");
        let Some((_, telemetry)) = rig.named() else {
            text += &row(&[name.as_str(), state(rig), "", "", "", "", "", "", "", "", "", &notes]);
            continue;
        };
        let input = telemetry.supplies.iter().map(|supply| supply.input.mw.0);
        let rails = telemetry.rails.iter().map(|rail| rail.mw.0);
        let hottest = telemetry.sensors.iter().map(|sensor| sensor.0.map(|t| t.0)).reduce(worst);
        let speeds: Vec<Rpm> = telemetry.fans.iter().filter_map(|fan| fan.rpm.0.ok()).collect();
        let fans = match (speeds.iter().min(), speeds.iter().max()) {
            (Some(low), Some(high)) => format!("{}-{}", low.0, high.0),
            _ => "-".to_owned(),
        };
        let zone = telemetry.zones.iter().max_by_key(|zone| zone.stage);
        text += &row(&[
            name.as_str(),
            state(rig),
            &sum(input),
            &sum(rails),
            &hottest.map_or("-".to_owned(), |t| cell(Value(t.map(Millicelsius)), celsius)),
            &fans,
            &zone.map_or("-".to_owned(), |zone| cell(zone.duty, percent)),
            &zone.map_or("-".to_owned(), |zone| zone.stage.to_string()),
            &telemetry.alarms.len().to_string(),
            &rig.missed.to_string(),
            &age(rig, now),
            &notes,
        ]);
    }
    text
}

/// What else is worth a look, by birth and report; none where all is as it should be.
fn notes(rig: &Rig) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(birth) = &rig.birth {
        // An agent that takes no commands has no nonce, and says nothing of its clock.
        if birth.nonce != 0 && !birth.clock_set {
            notes.push("clock not set".to_owned());
        }
        if birth.outbox.waiting > 0 {
            notes.push(format!("{} waited", birth.outbox.waiting));
        }
    }
    if let Some(cap) = rig.telemetry.as_ref().and_then(|telemetry| telemetry.power?.cap_mw) {
        notes.push(format!("cap {} W", cap.0 / 1000));
    }
    let dropped = rig.telemetry.as_ref().map_or(0, |telemetry| telemetry.dropped.saturating_add(telemetry.refused));
    if dropped > 0 {
        notes.push(format!("{dropped} dropped"));
    }
    if let Some(Reported { reached, accepted, refused, differences, standing: _, stale_h }) = &rig.reported {
        match (*accepted, differences.len()) {
            (0, _) => {}
            (accepted, 0) if accepted == *reached => notes.push(format!("revision {accepted}")),
            (accepted, different) => notes.push(format!("revision {accepted}: {different} differ")),
        }
        notes.extend(refused.as_ref().map(|refused| format!("revision {} REFUSED", refused.revision)));
        notes.extend(stale_h.map(|hours| format!("signed {hours} h ago")));
    }
    notes
}

fn row(cells: &[&str]) -> String {
    const WIDTHS: [usize; 12] = [16, 10, 9, 9, 8, 11, 7, 11, 6, 6, 5, 0];
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(WIDTHS) {
        let pad = width.saturating_sub(cell.chars().count());
        line += cell;
        line += &" ".repeat(pad + 1);
    }
    line.trim_end().to_owned() + "\n"
}

/// Everything of one rig.
fn one(name: &RigId, rig: &Rig, now: Instant) -> String {
    let mut text = String::new();
    let Some((birth, telemetry)) = rig.named() else { return format!("{name}  {}  (no readings yet)\n", state(rig)) };
    let simulated = if birth.simulated { "  SIMULATED" } else { "" };
    text += &format!(
        "{name}  {}  {} revision {}  rigd {}{simulated}  {} old  {} missed\n",
        state(rig),
        birth.board.name,
        birth.board.revision,
        birth.agent,
        age(rig, now),
        rig.missed
    );
    let delivery = match birth.delivery {
        Delivery::Puback => "delivered to the broker",
        Delivery::Watermark => "delivered to the control plane",
    };
    text += &format!("{}\n", std::iter::once(delivery.to_owned()).chain(notes(rig)).collect::<Vec<_>>().join(", "));
    power_table(&mut text, birth, telemetry);
    text.push('\n');
    text += &air_row(["SENSOR", "°C", "FAN", "RPM", "DRIVE", "ZONE", "DRIVE", "STATE"]);
    let rows = telemetry.sensors.len().max(telemetry.fans.len()).max(telemetry.zones.len());
    for i in 0..rows {
        let sensor = birth.sensors.get(i).zip(telemetry.sensors.get(i));
        let (a, b) = sensor.map_or_else(Default::default, |(info, value)| (info.name.clone(), cell(*value, celsius)));
        let fan = birth.fans.get(i).zip(telemetry.fans.get(i));
        let (c, d, e) = fan.map_or_else(Default::default, |(info, fan)| {
            let rpm = cell(fan.rpm, |rpm: Rpm| rpm.0.to_string());
            (info.name.clone(), rpm, cell(fan.duty, percent))
        });
        let zone = birth.zones.get(i).zip(telemetry.zones.get(i));
        let (f, g, h) = zone.map_or_else(Default::default, |(info, zone)| {
            (info.name.clone(), cell(zone.duty, percent), zone.stage.to_string())
        });
        text += &air_row([&a, &b, &c, &d, &e, &f, &g, &h]);
    }
    gpus(&mut text, birth, telemetry);
    alarms(&mut text, birth, telemetry);
    for event in rig.events.iter().rev() {
        let edge = edge(event);
        text += &format!("event  {}: {} {edge} at {} s\n", event.name, event.alarm, event.uptime_ms / 1000);
    }
    text
}

/// How an event is told: a moment is not raised and cleared, it happens.
const fn edge(event: &Event) -> &'static str {
    match (event.alarm.is_moment(), event.raised) {
        (true, _) => "happened",
        (false, true) => "raised",
        (false, false) => "over",
    }
}

fn gpus(text: &mut String, birth: &Birth, telemetry: &Telemetry) {
    if telemetry.driver == Driver::None && telemetry.gpus.is_empty() {
        return;
    }
    let version = birth.driver.as_deref().map(|version| format!(" {version}")).unwrap_or_default();
    *text += &format!("\nGPU driver{version}: {}\n", telemetry.driver);
    if telemetry.gpus.is_empty() {
        return;
    }
    *text += &format!(
        "{:<13} {:<26} {:>4} {:>7} {:>6} {:>6} {:>5} {:>6}  {}\n",
        "GPU", "", "°C", "W", "SM MHz", "memory", "load", "fan", "PROFILE"
    );
    for (info, gpu) in birth.gpus.iter().zip(&telemetry.gpus) {
        let standing = if gpu.presence == Presence::Seen { gpu.profile.to_string() } else { gpu.presence.to_string() };
        *text += &format!(
            "{:<13} {:<26.26} {:>4} {:>7} {:>6} {:>6} {:>5} {:>6}  {standing}\n",
            info.pci,
            info.name,
            cell(gpu.temperature, |t| milli(t.0, 0)),
            cell(gpu.power, watts),
            cell(gpu.sm_mhz, |clock| clock.0.to_string()),
            cell(gpu.memory_mhz, |clock| clock.0.to_string()),
            cell(gpu.load, |load| load.to_string()),
            cell(gpu.fan_duty, percent),
        );
    }
}

fn air_row([a, b, c, d, e, f, g, h]: [&str; 8]) -> String {
    let line = format!("{a:<12} {b:>7}    {c:<12} {d:>7} {e:>8}    {f:<12} {g:>6}    {h}");
    line.trim_end().to_owned() + "\n"
}

fn power_table(text: &mut String, birth: &Birth, telemetry: &Telemetry) {
    let header = |name: &str| format!("{name:<12} {:>8} {:>8} {:>8}", "V", "A", "W");
    *text += &format!("\n{}    {}\n", header("RAIL"), header("SUPPLY"));
    let supplies: Vec<(String, Power)> = birth
        .supplies
        .iter()
        .zip(&telemetry.supplies)
        .flat_map(|(info, supply)| {
            [(format!("{} in", info.name), supply.input), (format!("{} out", info.name), supply.output)]
        })
        .collect();
    for i in 0..telemetry.rails.len().max(supplies.len()) {
        let rail = birth.rails.get(i).zip(telemetry.rails.get(i)).map(|(info, power)| power_cells(&info.name, power));
        let supply = supplies.get(i).map(|(name, power)| power_cells(name, power));
        let line = format!("{:<39}    {}", rail.unwrap_or_default(), supply.unwrap_or_default());
        *text += line.trim_end();
        text.push('\n');
    }
}

fn power_cells(name: &str, power: &Power) -> String {
    let (v, a, w) = (cell(power.mv, volts), cell(power.ma, amperes), cell(power.mw, watts));
    format!("{name:<12} {v:>8} {a:>8} {w:>8}")
}

fn alarms(text: &mut String, birth: &Birth, telemetry: &Telemetry) {
    text.push('\n');
    if telemetry.alarms.is_empty() {
        *text += "No alarm.\n";
    }
    for alarm in &telemetry.alarms {
        *text += &format!("ALARM  {}: {}\n", subject(birth, alarm.subject), alarm.alarm);
    }
    for trouble in &telemetry.troubles {
        let chip = birth.chips.get(usize::from(trouble.chip)).map_or("?", |chip| &chip.refdes);
        let lost = trouble.lost.map(|reason| format!(" lost: {reason}")).unwrap_or_default();
        let faults: Vec<String> = trouble.faults.iter().map(|fault| format!("{fault:?}")).collect();
        *text += &format!("chip   {chip}{lost} {}\n", faults.join(" "));
    }
}

/// The name that the birth has for it.
fn subject(birth: &Birth, subject: Subject) -> &str {
    let name = match subject {
        Subject::Chip(i) => birth.chips.get(usize::from(i)).map(|chip| &chip.refdes),
        Subject::Fan(i) => birth.fans.get(usize::from(i)).map(|fan| &fan.name),
        Subject::Zone(i) => birth.zones.get(usize::from(i)).map(|zone| &zone.name),
        Subject::Rail(i) => birth.rails.get(usize::from(i)).map(|rail| &rail.name),
        Subject::Supply(i) => birth.supplies.get(usize::from(i)).map(|supply| &supply.name),
        Subject::Sensor(i) => birth.sensors.get(usize::from(i)).map(|sensor| &sensor.name),
        Subject::Gpu(i) => birth.gpus.get(usize::from(i)).map(|gpu| &gpu.pci),
        Subject::Driver => return "nvidia",
        Subject::Payload(i) => birth.payloads.get(usize::from(i)).map(|payload| &payload.name),
    };
    name.map_or("?", String::as_str)
}

/// A message as one line, for files and pipes.
pub(crate) fn line(fleet: &Fleet, name: &RigId, message: &Message) -> String {
    let mut line = format!("{name} ");
    let written = match message {
        Message::Watermark(_) | Message::Controller(_) | Message::Command(_) | Message::Desired(_) => {
            writeln!(line, "said by the control plane")
        }
        Message::Ack(ack) => writeln!(line, "ack {} {:?}", ack.id, ack.state),
        Message::Receipt(receipt) => match receipt.interval() {
            Some(one) => {
                let used = one.rig.energy.milliwatt_hours();
                writeln!(line, "receipt {} of {used} mWh, {} ms of it a gap", one.index, one.rig.gap_ms)
            }
            None => writeln!(line, "receipt that cannot be read"),
        },
        Message::Log(log) => writeln!(line, "log {} {} bytes", log.payload, log.text.len()),
        Message::Reported(reported) => writeln!(
            line,
            "reported revision {} of {}, {} differences",
            reported.reached,
            reported.accepted,
            reported.differences.len()
        ),
        Message::Online(online) => {
            writeln!(line, "{} ({:?})", if online.online { "online" } else { "offline" }, online.reason)
        }
        Message::Birth(birth) => {
            let simulated = if birth.simulated { " simulated" } else { "" };
            writeln!(
                line,
                "birth board={} agent={} connection={}{simulated}",
                birth.board.name, birth.agent, birth.connection
            )
        }
        Message::Event(event) => {
            let edge = edge(event);
            let cause = event.cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
            let rung = event.rung.map(|rung| format!(", {rung}")).unwrap_or_default();
            writeln!(line, "event {}: {} {edge}{cause}{rung}", event.name, event.alarm)
        }
        Message::Telemetry(telemetry) => {
            let birth =
                fleet.rigs.get(name).and_then(|rig| rig.birth.as_ref()).filter(|birth| birth.id == telemetry.birth);
            telemetry_line(&mut line, birth, telemetry)
        }
    };
    if written.is_err() { String::new() } else { harmless_lines(&line) }
}

fn telemetry_line(line: &mut String, birth: Option<&Birth>, telemetry: &Telemetry) -> std::fmt::Result {
    write!(line, "telemetry")?;
    let rail = |i: usize| {
        birth.and_then(|birth| birth.rails.get(i)).map_or_else(|| format!("rail{i}"), |info| info.name.clone())
    };
    for (i, power) in telemetry.rails.iter().enumerate() {
        write!(line, " {}={}W", rail(i), cell(power.mw, watts))?;
    }
    let supply = |i: usize| {
        birth.and_then(|birth| birth.supplies.get(i)).map_or_else(|| format!("supply{i}"), |info| info.name.clone())
    };
    for (i, power) in telemetry.supplies.iter().enumerate() {
        write!(line, " {}={}W", supply(i), cell(power.input.mw, watts))?;
    }
    let sensor = |i: usize| {
        birth.and_then(|birth| birth.sensors.get(i)).map_or_else(|| format!("sensor{i}"), |info| info.name.clone())
    };
    for (i, value) in telemetry.sensors.iter().enumerate() {
        write!(line, " {}={}C", sensor(i), cell(*value, celsius))?;
    }
    let fan = |i: usize| {
        birth.and_then(|birth| birth.fans.get(i)).map_or_else(|| format!("fan{i}"), |info| info.name.clone())
    };
    for (i, value) in telemetry.fans.iter().enumerate() {
        write!(line, " {}={}rpm", fan(i), cell(value.rpm, |rpm: Rpm| rpm.0.to_string()))?;
    }
    for zone in &telemetry.zones {
        write!(line, " drive={} stage={}", cell(zone.duty, percent), zone.stage)?;
    }
    if !telemetry.gpus.is_empty() {
        let seen = telemetry.gpus.iter().filter(|gpu| gpu.presence == Presence::Seen).count();
        write!(line, " gpus={seen}/{}", telemetry.gpus.len())?;
    }
    writeln!(line, " alarms={}", telemetry.alarms.len())
}

const fn state(rig: &Rig) -> &'static str {
    match &rig.online {
        Some(online) if online.online => "online",
        Some(_) => "OFFLINE",
        None => "unknown",
    }
}

fn age(rig: &Rig, now: Instant) -> String {
    rig.heard.map_or("-".to_owned(), |heard| format!("{} s", now.saturating_duration_since(heard).as_secs()))
}

fn cell<T>(value: Value<T>, show: impl Fn(T) -> String) -> String {
    match value.0 {
        Ok(value) => show(value),
        Err(missing) => short(missing).to_owned(),
    }
}

/// The sum of what is known; a `+` where something is missing.
fn sum(powers: impl Iterator<Item = Reading<Milliwatts>>) -> String {
    let (mut total, mut missing) = (0_i64, false);
    for power in powers {
        match power {
            Ok(power) => total += i64::from(power.0),
            Err(_) => missing = true,
        }
    }
    format!("{} W{}", milli(total, 0), if missing { "+" } else { "" })
}

/// The hotter of two; a missing one hides nothing.
fn worst(a: Reading<i32>, b: Reading<i32>) -> Reading<i32> {
    match (a, b) {
        (Ok(a), Ok(b)) => Ok(a.max(b)),
        (Ok(a), Err(_)) | (Err(_), Ok(a)) => Ok(a),
        (Err(reason), Err(_)) => Err(reason),
    }
}

#[cfg(test)]
mod tests;
