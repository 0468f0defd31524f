//! `rigd-ctl collect`: the control plane of a small site. `rigd-ctl complete`: the proof that it has everything.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use rigd::collect::{LaneReport, Settings, Status, completeness};
use rigd::wire::{CONTROLLER, Controller, Message, RigId, decode};
use rigd::{clock, collect, logger};
use rumqttc::v5::mqttbytes::v5::{PubAckReason, PublishProperties};
use tokio::signal::unix::{SignalKind, signal};

use crate::broker::Flags;
use crate::people;
use crate::session::{Heard, Session};

/// A broker tells what is retained at once or not at all, and answers a message as fast.
const RETAINED: Duration = Duration::from_secs(2);

const TABLES: &str = "\
The store is one SQLite file in WAL mode; anybody may read it while it is written:
  messages   view: rig, boot, kind, seq, received_ms, payload (what `rigd-ctl decode` reads)
  newest     view: the last retained word of each rig and kind (online, birth)
  message    a message with a number; (lane, seq) is unique
  lane       rig, boot and kind; every number up to `complete` is accounted for
  range      numbers that are not there: `dropped` by the rig, `lost` with an agent that was killed, delivered
             `earlier` than this store was there to get them, or `expired` by --keep-days
  state      retained words, the newest 1000 of each rig and kind
  rejected   what was no message of a rig, with the reason, the newest 10 000
  rig        names
Times are ms since 1970 by this machine's clock.

Examples:
  rigd-ctl collect --store /var/lib/collect.db --broker mqtts://broker:8884 --ca ca.pem --cert ctl.control.pem --key ctl.control.key
  rigd-ctl collect --forget --broker mqtts://broker:8884 --ca ca.pem --cert ctl.control.pem --key ctl.control.key
  rigd-ctl complete /var/lib/collect.db
  rigd-ctl events --store /var/lib/collect.db -f";

/// The command line of `collect`.
#[derive(clap::Args)]
#[command(after_long_help = TABLES, after_help = "`--help` has the tables of the store, and examples.")]
pub(crate) struct Arguments {
    /// The store: a file, or a directory that `collect.db` is in; made where there is none
    #[arg(long, required_unless_present = "forget")]
    store: Option<PathBuf>,
    /// Collect nothing: take back the broker's retained word of a collector that will not come back, so that rigs stop holding
    /// their backlog for it. They do so by themselves after `max_age_h`
    #[arg(long, conflicts_with = "store")]
    forget: bool,
    #[command(flatten)]
    broker: Flags,
    /// Our name to the broker: it keeps the session by it
    #[arg(long, default_value = "collector")]
    name: String,
    /// Telemetry is deleted after so many days; events stay
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    keep_days: u32,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Some(store) = arguments.store.clone().filter(|_| !arguments.forget) else {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(forget(arguments.broker.clone()));
    };
    let (flags, name) = (arguments.broker.clone(), arguments.name.clone());
    let settings = Settings {
        broker: flags.url(),
        connect: Box::new(move || flags.options(&name).map_err(|error| format!("{error:#}"))),
        store,
        keep: Duration::from_secs(86_400) * arguments.keep_days,
        instance: u32::from_ne_bytes(crate::random()?),
    };
    logger::start();
    // The order of forgetting and acknowledging rests on one thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let stop = async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        let mut before = 0;
        let told = std::io::stderr().is_terminal();
        collect::run(settings, stop, |status| {
            if told {
                // With stderr gone there is nobody left to tell.
                let _ = writeln!(std::io::stderr(), "{}", line(status, before));
            }
            before = status.stored;
        })
        .await?;
        anyhow::Ok(())
    });
    runtime.shutdown_background();
    logger::finish();
    outcome
}

/// Clears the retained word of a collector that is not there any more.
async fn forget(flags: Flags) -> anyhow::Result<()> {
    let broker = flags.url();
    let mut session = Session::open(flags, vec![CONTROLLER.to_owned()]).await?;
    let until = clock::now() + RETAINED;
    let mut word = None;
    while let (None, Some(heard)) = (&word, session.next(until).await?) {
        let Heard::Message(publish) = heard else { continue };
        if let Ok((_, Message::Controller(controller))) = decode(&publish.payload) {
            word = Some(controller);
        }
    }
    match word {
        None => return crate::print(&format!("{broker}: no collector has left a word there\n")),
        Some(Controller { online: true, .. }) => bail!(
            "{broker}: a collector says that it is there; stop it first. One that was killed together with its broker is said to be \
             there until another one was started and stopped"
        ),
        Some(Controller { online: false, .. }) => {}
    }
    session.publish(CONTROLLER, true, Vec::new(), PublishProperties::default())?;
    let until = clock::now() + RETAINED;
    while let Some(heard) = session.next(until).await? {
        match heard {
            Heard::Taken(PubAckReason::Success | PubAckReason::NoMatchingSubscribers) => {
                return crate::print(&format!("{broker}: the collector is forgotten\n"));
            }
            Heard::Taken(reason) => bail!("{broker} does not take it: {reason:?}"),
            Heard::Message(_) => {}
        }
    }
    bail!("{broker} did not answer")
}

/// How it stands, every 10 s; `before` is what was stored at the last line.
fn line(status: &Status, before: u64) -> String {
    let Status { connected, rigs, stored, duplicates, rejected, dropped, waiting, lag } = status;
    let tenths = stored.saturating_sub(before);
    let mut line = format!(
        "{}{}, {}.{} messages/s, {stored} stored, {waiting} waiting for {} ms",
        if *connected { "" } else { "not connected; " },
        people::count(rigs.len(), "rig"),
        tenths / 10,
        tenths % 10,
        lag.as_millis()
    );
    for (count, what) in [(duplicates, "came again"), (rejected, "rejected"), (dropped, "without QoS dropped")] {
        if *count > 0 {
            line += &format!(", {count} {what}");
        }
    }
    line
}

/// The command line of `complete`.
#[derive(clap::Args)]
#[command(
    after_help = "It looks for each number from 1 to the highest of every lane; what a rig sent after that nobody can know of. DROPPED is what the rig\ngave up for want of room, or lost with an agent that was killed, EARLIER what it had delivered before there was a collector, or to\nanother store: both by its own word.\nThe exit code is 1 where a number is missing.\n\nExamples:\n  rigd-ctl complete /var/lib/collect.db\n  rigd-ctl complete STORE --json | jq 'select(.missing > 0)'"
)]
pub(crate) struct Complete {
    /// The store: a file, or a directory that `collect.db` is in
    store: PathBuf,
    /// Only this rig
    #[arg(long)]
    rig: Option<RigId>,
    /// Each lane as a line of JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn complete(arguments: &Complete) -> anyhow::Result<()> {
    let lanes = completeness(&arguments.store, arguments.rig.as_ref())?;
    let mut text = String::new();
    for lane in &lanes {
        text += &if arguments.json { serde_json::to_string(lane)? } else { row(lane) };
        text.push('\n');
    }
    if !arguments.json {
        let head = "RIG                  BOOT     LANE           HIGHEST     STORED    DROPPED    EXPIRED    EARLIER    MISSING\n";
        text.insert_str(0, head);
    }
    crate::print(&text)?;
    match lanes.iter().map(|lane| lane.missing).sum::<u64>() {
        0 => Ok(()),
        missing => bail!("{missing} numbers are missing"),
    }
}

fn row(lane: &LaneReport) -> String {
    const SHOWN: usize = 8;
    let LaneReport { rig, boot, lane, highest, stored, dropped, expired, earlier, missing, missing_ranges, .. } = lane;
    let mut row = format!(
        "{rig:<20} {boot:08x} {lane:<10} {highest:>11} {stored:>10} {dropped:>10} {expired:>10} {earlier:>10} {missing:>10}"
    );
    for (first, last) in missing_ranges.iter().take(SHOWN) {
        row += &if first == last { format!(" {first}") } else { format!(" {first}-{last}") };
    }
    if missing_ranges.len() > SHOWN {
        row += " …";
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_names_what_is_missing() {
        let mut lane = LaneReport {
            rig: "rig-1".to_owned(),
            boot: 0xfeed,
            lane: "event".to_owned(),
            highest: 9,
            stored: 4,
            dropped: 2,
            missing: 3,
            missing_ranges: vec![(2, 2), (5, 6)],
            ..LaneReport::default()
        };
        let text = row(&lane);
        assert!(
            text.starts_with("rig-1                0000feed event                9          4          2"),
            "{text}"
        );
        assert!(text.ends_with("          3 2 5-6"), "{text}");
        lane.missing_ranges = vec![(1, 1); 9];
        assert!(row(&lane).ends_with("1 1 1 1 1 1 1 1 …"));
    }

    #[test]
    fn the_status_is_one_line() {
        let status = Status {
            connected: true,
            rigs: ["a".parse().unwrap()].into(),
            stored: 1_234,
            duplicates: 5,
            waiting: 3,
            lag: Duration::from_millis(12),
            ..Status::default()
        };
        assert_eq!(line(&status, 1_000), "1 rig, 23.4 messages/s, 1234 stored, 3 waiting for 12 ms, 5 came again");
    }
}
