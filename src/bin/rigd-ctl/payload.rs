//! `rigd-ctl ps`, `start`, `stop`, `restart`, `drain`, `clear`, `reload`, `logs`: the programs that the agent runs on this rig.

use std::fmt::Write;
use std::io::Write as _;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use rigd::config;
use rigd::local::{Get, Payload, PayloadOrder, Reply, Request};
use rigd::payload::supervisor::Reloaded;
use rigd::payload::{Hold, LogPart};
use rigd::units::MilliPerSecond;
use rigd::wire::{PayloadPhase, PayloadUnit};

use crate::agent::{Agent, is_away, unexpected};
use crate::people::{say, span};

/// A payload may take its whole grace to end, and its start-up to be refused.
const PATIENCE: Duration = Duration::from_secs(900);
/// Between two looks at a log that is followed.
const FOLLOW: Duration = Duration::from_millis(250);
/// A piece of log.
const PIECE: usize = 64 * 1024;

/// The command line of `ps`.
#[derive(clap::Args)]
pub(crate) struct Ps {
    #[command(flatten)]
    asked: Asked,
    /// Print JSON, one payload a line
    #[arg(long)]
    json: bool,
}

/// The command line of `start`, `stop`, `restart` and `clear`.
#[derive(clap::Args)]
pub(crate) struct One {
    /// The payload's name, as in `rigd-ctl ps`
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    asked: Asked,
}

/// The command line of `drain`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  rigd-ctl drain trainer --within 30m")]
pub(crate) struct Drain {
    #[command(flatten)]
    one: One,
    /// How long it may take to end by itself; then all of it is killed
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    within: Duration,
}

/// The command line of `reload`.
#[derive(clap::Args)]
pub(crate) struct Reload {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    asked: Asked,
}

/// The command line of `logs`.
#[derive(clap::Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    one: One,
    /// Go on as it grows, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// So many bytes from its end, 1024 at least, in whole lines; with --all everything that is kept
    #[arg(long, value_name = "BYTES", default_value_t = 16 * 1024)]
    tail: usize,
    /// Everything that is kept
    #[arg(long, conflicts_with = "tail")]
    all: bool,
}

#[derive(clap::Args)]
struct Asked {
    /// The agent's socket
    #[arg(long, value_name = "PATH", default_value = config::SOCKET)]
    socket: PathBuf,
}

pub(crate) fn ps(arguments: &Ps) -> anyhow::Result<()> {
    let mut agent = Agent::ask(&arguments.asked.socket, &Request::Get(Get::Payloads), None)?;
    let Reply::Payloads(count) = agent.reply()? else { return Err(unexpected()) };
    let mut payloads = Vec::new();
    for _ in 0..count {
        let Reply::Payload(payload) = agent.reply()? else { return Err(unexpected()) };
        payloads.push(*payload);
    }
    if arguments.json {
        let mut text = String::new();
        for payload in &payloads {
            writeln!(text, "{}", serde_json::to_string(payload)?)?;
        }
        return crate::print(&text);
    }
    crate::print(&table(&payloads))
}

pub(crate) fn order(one: &One, order: PayloadOrder) -> anyhow::Result<()> {
    let request = Request::Payload { name: one.name.clone(), order };
    let mut agent = Agent::ask(&one.asked.socket, &request, Some(PATIENCE))?;
    let Reply::Done = agent.reply()? else { return Err(unexpected()) };
    say(one.json, "", &serde_json::json!({ "payload": one.name, "done": true }))
}

pub(crate) fn reload(arguments: &Reload) -> anyhow::Result<()> {
    let mut agent = Agent::ask(&arguments.asked.socket, &Request::Reload, Some(PATIENCE))?;
    let Reply::Reloaded(reloaded) = agent.reply()? else { return Err(unexpected()) };
    if arguments.json {
        say(true, "", &serde_json::to_value(&reloaded)?)?;
        anyhow::ensure!(reloaded.problems.is_empty(), "not all was taken in");
        return Ok(());
    }
    let Reloaded { added, changed, removed, problems } = reloaded;
    let mut text = String::new();
    for (what, names) in [("added", added), ("changed", changed), ("removed", removed)] {
        names.iter().try_for_each(|name| writeln!(text, "{what} {name}"))?;
    }
    if text.is_empty() {
        text.push_str("No manifest has changed.\n");
    }
    crate::print(&text)?;
    anyhow::ensure!(problems.is_empty(), "not taken in:\n{}", problems.join("\n"));
    Ok(())
}

pub(crate) fn drain(drain: &Drain) -> anyhow::Result<()> {
    let seconds = u32::try_from(drain.within.as_secs()).unwrap_or(u32::MAX);
    order(&drain.one, PayloadOrder::Drain(seconds))
}

pub(crate) fn logs(logs: &Logs) -> anyhow::Result<()> {
    let mut from = logs.all.then_some(0);
    let mut bytes = if logs.all { PIECE } else { logs.tail };
    // What is shown first may begin between the two characters of a line's end.
    let (mut told, mut shown) = (false, Shown { returned: from.is_none(), ..Shown::default() });
    loop {
        let part = match piece(&logs.one, from, bytes) {
            // The payload goes on without an agent, and so does its log.
            Err(error) if logs.follow && from.is_some() && is_away(&error) => {
                if !std::mem::replace(&mut told, true) {
                    // With stderr gone nobody reads that, and the log may still be read.
                    let _ = writeln!(std::io::stderr(), "rigd-ctl: {error:#}; waiting for it");
                }
                thread::sleep(FOLLOW);
                continue;
            }
            asked => asked?,
        };
        told = false;
        let (nothing, next) = (part.text.is_empty(), part.next);
        if logs.one.json {
            if !nothing || !logs.follow {
                say(true, "", &serde_json::json!({ "from": part.from, "next": next, "text": part.text }))?;
            }
        } else {
            if from.is_some_and(|from| part.from > from && from > 0) {
                crate::print("[… older than what is kept …]\n")?;
            }
            crate::print(&shown.harmless(&part.text))?;
        }
        // From its end on, the first piece is all that was asked for.
        if !logs.follow && (nothing || from.is_none()) {
            return Ok(());
        }
        (from, bytes) = (Some(next), PIECE);
        if nothing {
            thread::sleep(FOLLOW);
        }
    }
}

fn piece(one: &One, from: Option<u64>, bytes: usize) -> anyhow::Result<LogPart> {
    let request = Request::Log { name: one.name.clone(), from, bytes };
    let mut agent = Agent::ask(&one.asked.socket, &request, None)?;
    let Reply::Log(part) = agent.reply()? else { return Err(unexpected()) };
    Ok(part)
}

/// What was shown so far of a payload's words.
#[derive(Default)]
pub(crate) struct Shown {
    state: Escape,
    /// The last was the end of a line that a carriage return made.
    returned: bool,
}

/// Where a terminal would be in a control sequence (ECMA-48, 5.4 and 8.3.89).
#[derive(Clone, Copy, Default, PartialEq)]
enum Escape {
    #[default]
    None,
    Begun,
    /// Up to its last letter, `@` to `~`: colours, cursor.
    Sequence,
    /// Up to BEL or ESC \: titles, links.
    Text,
}

impl Shown {
    /// A payload's words move no cursor and change no title: control sequences go, a carriage return ends a line.
    pub(crate) fn harmless(&mut self, text: &str) -> String {
        let mut shown = String::with_capacity(text.len());
        for letter in text.chars() {
            self.state = match (self.state, letter) {
                (Escape::None | Escape::Begun, '\u{1b}') => Escape::Begun,
                (Escape::Sequence | Escape::Text, '\u{1b}') => Escape::Begun,
                (Escape::Begun, '[') => Escape::Sequence,
                (Escape::Begun, ']' | 'P' | '_' | '^' | 'X') => Escape::Text,
                // One that is cut short hides no line.
                (Escape::Begun | Escape::Sequence | Escape::Text, '\n' | '\r') | (Escape::None, _) => {
                    self.show(&mut shown, letter);
                    Escape::None
                }
                // Between the first and the last of a short one.
                (Escape::Begun, ' '..='/') => Escape::Begun,
                (Escape::Begun, _) | (Escape::Sequence, '@'..='~') | (Escape::Text, '\u{7}') => Escape::None,
                (state @ (Escape::Sequence | Escape::Text), _) => state,
            };
        }
        shown
    }

    fn show(&mut self, shown: &mut String, letter: char) {
        let returned = std::mem::take(&mut self.returned);
        match letter {
            '\r' => {
                shown.push('\n');
                self.returned = true;
            }
            '\n' if returned => {}
            '\n' | '\t' => shown.push(letter),
            _ if letter.is_control() => {}
            _ => shown.push(letter),
        }
    }
}

fn table(payloads: &[Payload]) -> String {
    if payloads.is_empty() {
        return "No payloads: put manifests into /etc/rigd/payloads.d and `rigd-ctl reload`.\n".to_owned();
    }
    let mut text = format!(
        "{:<20} {:<7} {:<13} {:>9} {:>7} {:>8} {:>4} {:>16}  {}\n",
        "NAME", "KIND", "STATE", "FOR", "PID", "RESTARTS", "GPUS", "RATE", ""
    );
    for payload in payloads {
        let Payload { info, now, .. } = payload;
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:<20} {:<7} {:<13} {:>9} {:>7} {:>8} {:>4} {:>16}  {}",
            info.name,
            word(&info.kind),
            word(&now.phase),
            span(payload.for_s),
            payload.pid.map_or("-".to_owned(), |pid| pid.to_string()),
            now.restarts,
            now.gpus,
            now.rate.0.map_or("-".to_owned(), |rate| speed(rate, info.unit)),
            remark(payload)
        );
    }
    text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// A value's word on the wire, which is what people see everywhere.
fn word<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word.replace('_', " "),
        _ => "?".to_owned(),
    }
}

/// A rate with the prefix that leaves one to three digits before its point.
pub(crate) fn speed(MilliPerSecond(milli): MilliPerSecond, unit: Option<PayloadUnit>) -> String {
    amount(milli, &format!("{}/s", unit_name(unit)))
}

/// What a payload's work is counted in.
pub(crate) const fn unit_name(unit: Option<PayloadUnit>) -> &'static str {
    match unit {
        Some(PayloadUnit::Hashes) => "H",
        Some(PayloadUnit::Tokens) => "tok",
        Some(PayloadUnit::Requests) => "req",
        Some(PayloadUnit::Jobs) => "jobs",
        None => "",
    }
}

/// Thousandths of a unit with the prefix that leaves one to three digits before its point.
pub(crate) fn amount(milli: u64, unit: &str) -> String {
    const PREFIXES: [&str; 7] = ["m", "", "k", "M", "G", "T", "P"];
    let mut scale = 1_u64;
    let mut prefix = 0;
    while milli / scale >= 1_000 && prefix + 1 < PREFIXES.len() {
        scale = scale.saturating_mul(1_000);
        prefix += 1;
    }
    let prefix = PREFIXES.get(prefix).copied().unwrap_or_default();
    format!("{}.{:02} {prefix}{unit}", milli / scale, u128::from(milli % scale) * 100 / u128::from(scale))
}

/// What people should know of it beside its state.
fn remark(payload: &Payload) -> String {
    let mut remarks = Vec::new();
    if let Some(held) = payload.now.held {
        remarks.push(format!("held: {held}"));
    } else if let Some(why) = payload.now.cause.filter(|_| payload.now.phase != PayloadPhase::Running) {
        remarks.push(why.to_string());
    }
    match payload.paused {
        Some(by) => remarks.push(format!("paused for the rig's power or heat, {by}")),
        // What waits says so itself.
        None if payload.hold != Hold::Free && payload.error.is_none() => remarks.push(format!("is {}", payload.hold)),
        None => {}
    }
    remarks.extend(payload.error.clone());
    if payload.removed {
        remarks.push("has no manifest any more".to_owned());
    }
    if payload.belief.is_doubt() {
        remarks.push(format!("its rate cannot be believed: {}", payload.belief));
    }
    if !payload.unlimited.is_empty() {
        remarks.push(format!("does not hold here: {}", payload.unlimited.join(", ")));
    }
    let [_, missing] = &payload.layers;
    if !missing.is_empty() {
        remarks.push(format!("sandbox without {missing}"));
    }
    remarks.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_a_prefix_that_fits() {
        for (milli, unit, expected) in [
            (0, Some(PayloadUnit::Hashes), "0.00 mH/s"),
            (999, None, "999.00 m/s"),
            (1_500, Some(PayloadUnit::Tokens), "1.50 tok/s"),
            (61_430_000_000, Some(PayloadUnit::Hashes), "61.43 MH/s"),
            (u64::MAX, Some(PayloadUnit::Jobs), "18.44 Pjobs/s"),
        ] {
            assert_eq!(speed(MilliPerSecond(milli), unit), expected);
        }
    }

    #[test]
    fn what_is_held_back_says_so_and_by_what() {
        use rigd::payload::By;
        use rigd::payload::meter::Flag;
        use rigd::reading::Missing;
        use rigd::wire::{self, PayloadKind, Value};
        let of = |phase, hold, paused: Option<By>, error: Option<&str>| Payload {
            info: wire::PayloadInfo { name: "miner".to_owned(), kind: PayloadKind::Mining, unit: None },
            now: wire::Payload {
                phase,
                cause: None,
                held: None,
                restarts: 0,
                adopted: false,
                layers: 0,
                missing_layers: 0,
                gpus: 1,
                rate: Value(Err(Missing::NotPresent)),
                accepted: Value(Err(Missing::NotPresent)),
                rejected: Value(Err(Missing::NotPresent)),
                stale: Value(Err(Missing::NotPresent)),
                queue: Value(Err(Missing::NotPresent)),
            },
            pid: paused.map(|_| 42),
            gpus: vec![],
            for_s: 7,
            error: error.map(str::to_owned),
            belief: Flag::Unknown,
            expected: None,
            removed: false,
            hold,
            paused,
            unlimited: vec![],
            layers: [String::new(), String::new()],
        };
        let waits = "waits, to be drained for the rig's power or heat; it starts when that is over";
        for (payload, state, remark) in [
            (of(PayloadPhase::Running, Hold::Free, None, None), "running", ""),
            (
                of(PayloadPhase::Paused, Hold::Pause, Some(By::Freezer), None),
                "paused",
                "paused for the rig's power or heat, frozen",
            ),
            (of(PayloadPhase::Draining, Hold::Drain, None, None), "draining", "is to be drained"),
            (of(PayloadPhase::Waiting, Hold::Drain, None, Some(waits)), "waiting", waits),
        ] {
            let shown = table(&[payload]);
            let line = shown.lines().nth(1).unwrap();
            assert_eq!(line.split_whitespace().nth(2), Some(state), "{line}");
            assert!(line.ends_with(if remark.is_empty() { "-" } else { remark }), "{line}");
        }
    }

    #[test]
    fn a_log_moves_no_cursor() {
        for (said, expected) in [
            ("a\u{1b}[2Jb\r\n\tc\u{7}", "ab\n\tc"),
            ("\u{1b}[1;32maccepted\u{1b}[0m (1/0)\n", "accepted (1/0)\n"),
            ("\u{1b}]0;title\u{7}x\u{1b}]8;;http://a\u{1b}\\y", "xy"),
            ("10 %\r20 %\r\n", "10 %\n20 %\n"),
            ("\u{1b}(Bplain \u{1b}=x", "plain x"),
            // Cut short, by a line's end.
            ("\u{1b}[12\nnext \u{1b}]0;x\nlast", "\nnext \nlast"),
        ] {
            assert_eq!(Shown::default().harmless(said), expected, "{said:?}");
            // In pieces it is the same.
            let mut shown = Shown::default();
            let pieces: String = said.chars().map(|letter| shown.harmless(&letter.to_string())).collect();
            assert_eq!(pieces, expected, "{said:?}");
        }
    }
}
