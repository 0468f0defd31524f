//! `rigd-ctl events`: alarms raised and cleared, the last ones from a collector's store, the next ones live.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::bail;
use rigd::collect::last_events;
use rigd::wire::{Header, Message, RigId, Topic};
use tokio::signal::unix::{SignalKind, signal};

use crate::broker::Flags;
use crate::people::decode;
use crate::watch::fleet::Fleet;
use crate::watch::session::{Heard, follow};
use crate::watch::table;

/// The command line.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  rigd-ctl events -f --broker mqtts://broker:8884 --ca ca.pem --cert me.pem --key me.key   as they come\n  rigd-ctl events --store /var/lib/collect.db          the last twenty\n  rigd-ctl events --store STORE -n 100 -f --rig rig-7  the last hundred of one rig, then as they come"
)]
pub(crate) struct Arguments {
    /// Only this rig; may be given several times
    #[arg(long)]
    rig: Vec<RigId>,
    /// Go on with events as they come
    #[arg(short, long)]
    follow: bool,
    /// A collector's store: its last events come first
    #[arg(long)]
    store: Option<PathBuf>,
    /// How many from the store
    #[arg(short = 'n', long, default_value_t = 20, requires = "store")]
    last: usize,
    #[command(flatten)]
    broker: Flags,
    /// Each event as a line of JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if !arguments.follow && arguments.store.is_none() {
        bail!("nothing to show: -f shows events as they come, --store FILE what a collector has");
    }
    let mut shown = Shown { json: arguments.json, seen: BTreeSet::new() };
    if !arguments.follow {
        return shown.stored(arguments);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(live(arguments, &mut shown));
    runtime.shutdown_background();
    outcome
}

async fn live(arguments: &Arguments, shown: &mut Shown) -> anyhow::Result<()> {
    let filters = match arguments.rig.as_slice() {
        [] => vec![Topic::events(None)],
        rigs => rigs.iter().map(|rig| Topic::events(Some(rig))).collect(),
    };
    let mut inbox = follow(arguments.broker.clone(), filters)?;
    let mut terminate = signal(SignalKind::terminate())?;
    // The store is read once the subscription is asked for: what falls between the two is in one of them, or in both, and is
    // shown once.
    let mut from_store = arguments.store.is_some();
    loop {
        let heard = tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            heard = inbox.recv() => heard,
        };
        match heard {
            Some(Heard::Message { topic, payload }) => {
                let Some(topic) = Topic::parse(&topic) else { continue };
                shown.show(&topic.rig, &payload)?;
            }
            Some(Heard::State(_)) if from_store => {
                from_store = false;
                shown.stored(arguments)?;
            }
            Some(Heard::State(_)) => {}
            Some(Heard::Failed(error)) => return Err(error),
            None => return Ok(()),
        }
    }
}

/// What was shown already, and how.
struct Shown {
    json: bool,
    /// Those of the store only: a bounded number, which live ones cannot add to.
    seen: BTreeSet<(RigId, u32, u64)>,
}

impl Shown {
    fn stored(&mut self, arguments: &Arguments) -> anyhow::Result<()> {
        let Some(store) = &arguments.store else { return Ok(()) };
        for event in last_events(store, &arguments.rig, arguments.last)? {
            if let Ok((header, _)) = decode(&event.payload) {
                self.seen.insert((event.rig.clone(), header.boot, header.seq));
            }
            crate::print(&text(&event.rig, &event.payload, self.json))?;
        }
        Ok(())
    }

    /// A live one; a message that is sent again is told again by nobody but the broker, and is shown once where the store
    /// had it.
    fn show(&mut self, rig: &RigId, payload: &[u8]) -> anyhow::Result<()> {
        if let Ok((Header { boot, seq, .. }, _)) = decode(payload)
            && self.seen.contains(&(rig.clone(), boot, seq))
        {
            return Ok(());
        }
        crate::print(&text(rig, payload, self.json))
    }
}

/// A line for an event, with the rig's own time.
fn text(rig: &RigId, payload: &[u8], json: bool) -> String {
    let message = match decode(payload) {
        Ok((_, message)) => message,
        Err(error) => return format!("{rig} {error}\n"),
    };
    if json {
        let json = crate::decode::to_json(payload, false).unwrap_or_default();
        let rest = json.strip_prefix('{').unwrap_or(&json);
        return format!("{{\"rig\":\"{rig}\",{rest}\n");
    }
    let line = table::line(&Fleet::default(), rig, &message);
    let Message::Event(event) = message else { return line };
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(event.unix_ms)).filter(|_| event.unix_ms < END_MS);
    let time = time.map_or("-".to_owned(), |time| humantime::format_rfc3339_seconds(time).to_string());
    format!("{time} {line}")
}

/// The year 10000: what is later has no four digits, and `humantime` refuses it.
const END_MS: u64 = 253_402_300_800_000;

#[cfg(test)]
mod tests {
    use rigd::alarm;
    use rigd::wire::{Encoding, Event, Kind, Subject, encode};

    use super::*;

    fn event(unix_ms: u64) -> Vec<u8> {
        let body = Event {
            birth: 1,
            unix_ms,
            uptime_ms: 5_000,
            alarm: alarm::Kind::FanStands,
            subject: Subject::Fan(2),
            name: "fan3\x1b[2J".to_owned(),
            raised: true,
            cause: None,
            rung: None,
        };
        encode(Encoding::Postcard, Header::new(Kind::Event, 7, 1), &body)
    }

    #[test]
    fn an_event_is_a_line_with_its_time_and_cannot_drive_the_terminal() {
        let rig: RigId = "rig-1".parse().unwrap();
        for (unix_ms, time) in [(1_700_000_000_000, "2023-11-14T22:13:20Z"), (u64::MAX, "-"), (END_MS, "-")] {
            let line = text(&rig, &event(unix_ms), false);
            assert_eq!(line, format!("{time} rig-1 event fan3\u{fffd}[2J: fan stands raised\n"));
        }
        let json: serde_json::Value = serde_json::from_str(&text(&rig, &event(5), true)).unwrap();
        assert_eq!((json["rig"].as_str(), json["body"]["unix_ms"].as_u64()), (Some("rig-1"), Some(5)));
        assert!(text(&rig, b"hello", false).starts_with("rig-1 this is no message"));
    }
}
