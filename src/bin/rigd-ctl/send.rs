//! `rigd-ctl send`: signs an order, sends it, and waits for what the rig says to it.
//!
//! ```text
//! key file ── signed command, r1/{rig}/dn/cmd ──> broker ──> rig
//!                                     accepted, running, done ── r1/{rig}/up/ack ──> here; the exit code tells
//! ```

mod order;
mod session;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use rigd::clock;
use rigd::wire::{
    Ack, AckState, Audience, Command, CommandId, Encoding, GroupId, Header, Kind, LogLines, Order, Outcome, Refusal,
    RigId, SigningKey, encode,
};
use rustix::fs::{FlockOperation, flock};

use crate::broker::Flags;
use crate::people::harmless_lines;
use crate::{keygen, print};
use order::Verb;
use session::{Heard, Session};

/// Nothing came back in time.
const EXIT_SILENCE: u8 = 3;
/// It came while the rig had too many: nothing was used up, and it can be sent again.
const EXIT_BUSY: u8 = 4;
/// A rig takes no command that is valid for longer.
const LONGEST_VALID: Duration = Duration::from_secs(600);
/// How long the retained birth of the rig is waited for; a broker has it at once or not at all.
const BIRTH: Duration = Duration::from_secs(2);

/// The command line of `send`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  rigd-ctl send --rig rig-7 --sign ops.key set-profile eco\n  rigd-ctl send --group hall-2 --sign ops.key payload drain miner\n  rigd-ctl send --rig rig-7 --sign view.key logs miner --follow --for 5m\n  rigd-ctl send --rig rig-7 --sign ops.key --second safety.key rotate-key --add new.toml\n\nExit: 0 done, 1 refused or failed, 3 no rig said how it ended, 4 refused for now: too many at once, send it again"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    to: To,
    /// Secret key that signs, from keygen
    #[arg(long, value_name = "FILE")]
    sign: PathBuf,
    /// Second key, for an order that takes two
    #[arg(long, value_name = "FILE")]
    second: Option<PathBuf>,
    /// How long the order may be carried out, at most 10m
    #[arg(long, global = true, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    valid: Duration,
    /// How long to wait for the end of it; a group is listened to for all of that
    #[arg(long, global = true, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    wait: Duration,
    /// Answers as JSON, one a line
    #[arg(long, global = true)]
    json: bool,
    /// Print the signed frame in hexadecimal and send nothing
    #[arg(long, global = true)]
    dry_run: bool,
    #[command(flatten)]
    broker: Flags,
    #[command(subcommand)]
    verb: Verb,
}

/// Whom it is for.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct To {
    /// This rig
    #[arg(long)]
    rig: Option<RigId>,
    /// Every rig of this group
    #[arg(long)]
    group: Option<GroupId>,
    /// Every rig of this site
    #[arg(long)]
    site: Option<GroupId>,
}

impl To {
    fn audience(self) -> Option<Audience> {
        let rig = self.rig.map(Audience::Rig);
        rig.or(self.group.map(Audience::Group)).or(self.site.map(Audience::Site))
    }
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    if arguments.valid.is_zero() {
        bail!("--valid: an order that is over before it is sent is taken by no rig");
    }
    if arguments.valid > LONGEST_VALID {
        bail!(
            "--valid: no rig takes an order that is valid for more than {}",
            humantime::format_duration(LONGEST_VALID)
        );
    }
    let key = keygen::load(&arguments.sign)?;
    let second = arguments.second.as_deref().map(keygen::load).transpose()?;
    let now_ms = clock::unix_ms();
    let audience = arguments.to.clone().audience().context("nobody to send it to")?;
    let command = Command {
        audience,
        id: CommandId(crate::random()?),
        counter: 0,
        not_before_ms: now_ms,
        not_after_ms: now_ms.saturating_add(u64::try_from(arguments.valid.as_millis()).unwrap_or(u64::MAX)),
        nonce: None,
        revision: None,
        order: arguments.verb.clone().order(now_ms)?,
    };
    if let Err(why) = command.check() {
        bail!("no rig would take this: {why}");
    }
    let counters = [Some(&arguments.sign), arguments.second.as_ref()].into_iter().flatten();
    let signer = Signer { key, second, counters: counters.map(|path| Counter::beside(path)).collect() };
    if arguments.dry_run {
        let (_, frame) = signer.frame(command, now_ms)?;
        print(&format!("{}\n", rigd::wire::hex(&frame)))?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(converse(&arguments, &signer, command))
}

/// The conversation: find out whether the rig knows the time, send, listen.
async fn converse(arguments: &Arguments, signer: &Signer, mut command: Command) -> anyhow::Result<ExitCode> {
    let rig = arguments.to.rig.clone();
    let followed = if let Order::FollowLogs { payload, seconds: seconds @ 1.. } = &command.order {
        Some((payload.clone(), *seconds))
    } else {
        None
    };
    if followed.is_some() && rig.is_none() {
        bail!("a log is followed on one rig: --rig");
    }
    let mut session = Session::open(arguments.broker.clone(), rig.as_ref(), followed.is_some()).await?;
    if rig.is_some() {
        // A rig that does not know the time, or has lost count of what it carried out, takes only what carries the nonce of its
        // birth; and what carries it nobody can bring again to a later start.
        let until = clock::now() + BIRTH;
        while let Some(heard) = session.next(until).await? {
            if let Heard::Birth(birth) = heard {
                command.nonce = Some(birth.nonce).filter(|nonce| *nonce != 0);
                break;
            }
        }
    }
    let id = command.id;
    let (topic, frame) = signer.frame(command, clock::unix_ms())?;
    session.publish(&topic, frame, id, arguments.valid)?;
    let mut answers = Answers::default();
    let lasts = followed.as_ref().map_or(0, |(_, seconds)| *seconds);
    let until = clock::now() + arguments.wait + Duration::from_secs(lasts.into());
    let mut skipped = 0;
    while let Some(heard) = session.next(until).await? {
        let (from, ack) = match heard {
            Heard::Ack(from, ack) => (from, ack),
            Heard::Log(lines) if followed.as_ref().is_some_and(|(payload, _)| *payload == lines.payload) => {
                print(&if arguments.json {
                    format!("{}\n", serde_json::to_string(&lines)?)
                } else {
                    said(&lines, skipped)
                })?;
                skipped = lines.skipped;
                continue;
            }
            Heard::Log(_) | Heard::Birth(_) => continue,
        };
        if ack.id != id {
            continue;
        }
        print(&if arguments.json { json(&from, &ack)? } else { line(&from, &ack) })?;
        answers.take(from, &ack.state);
        if rig.is_some() && answers.ended() {
            break;
        }
    }
    let code = answers.code();
    if code == EXIT_SILENCE {
        let wait = humantime::format_duration(arguments.wait);
        writeln!(std::io::stderr(), "rigd-ctl: no rig said how it ended within {wait}").context("standard error")?;
    }
    Ok(ExitCode::from(code))
}

/// How far each rig has come.
#[derive(Debug, Default)]
struct Answers {
    /// Whether it has ended it.
    rigs: BTreeMap<RigId, bool>,
    /// One refused it, or failed.
    bad: bool,
    /// One had too many.
    busy: bool,
}

impl Answers {
    fn take(&mut self, rig: RigId, state: &AckState) {
        if state.last() {
            self.rigs.insert(rig, true);
            match state {
                AckState::Done(_) => {}
                AckState::Refused(Refusal::TooMany) => self.busy = true,
                AckState::Accepted
                | AckState::Running { .. }
                | AckState::Failed(_)
                | AckState::Refused(_)
                | AckState::Unknown => self.bad = true,
            }
        } else {
            self.rigs.entry(rig).or_insert(false);
        }
    }

    /// Every rig that answered has ended it.
    fn ended(&self) -> bool {
        !self.rigs.is_empty() && self.rigs.values().all(|ended| *ended)
    }

    fn code(&self) -> u8 {
        match (self.ended(), self.bad, self.busy) {
            (_, true, _) => 1,
            (_, false, true) => EXIT_BUSY,
            (true, false, false) => 0,
            (false, false, false) => EXIT_SILENCE,
        }
    }
}

/// Who signs, and with which number.
struct Signer {
    key: SigningKey,
    second: Option<SigningKey>,
    /// One for each.
    counters: Vec<Counter>,
}

impl Signer {
    /// Topic and frame, under a number that none of the keys ever used.
    fn frame(&self, mut command: Command, now_ms: u64) -> anyhow::Result<(String, Vec<u8>)> {
        command.counter = next(&self.counters, now_ms)?;
        let topic = command.audience.topic(Kind::Command).context("nobody listens there")?;
        let message = encode(Encoding::Postcard, Header::new(Kind::Command, 0, 0), &command);
        let frame = self.key.frame(self.second.as_ref(), &topic, &message);
        Ok((topic, frame))
    }
}

/// The last number that a key has used, in a file beside it. Numbers are milliseconds since 1970 where those are ahead, so that
/// a lost file costs nothing.
struct Counter(PathBuf);

impl Counter {
    fn beside(key: &Path) -> Self {
        let mut path = key.as_os_str().to_owned();
        path.push(".counter");
        Self(path.into())
    }

    /// A number that is not used yet, not below `at_least`; it is used then.
    fn next(&self, at_least: u64) -> anyhow::Result<u64> {
        self.moved(|last| last.saturating_add(1).max(at_least))
    }

    /// This number is used, and every one below it.
    fn reach(&self, used: u64) -> anyhow::Result<u64> {
        self.moved(|last| last.max(used))
    }

    fn moved(&self, to: impl Fn(u64) -> u64) -> anyhow::Result<u64> {
        let shown = self.0.display();
        let held = File::options().read(true).write(true).create(true).truncate(false).open(&self.0);
        let file = held.with_context(|| format!("{shown}: could not be written"))?;
        // Two orders at a time under one key have two numbers.
        flock(&file, FlockOperation::LockExclusive).with_context(|| format!("{shown}: could not be locked"))?;
        let last: u64 = fs::read_to_string(&self.0).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let next = to(last);
        fs::write(&self.0, format!("{next}\n")).with_context(|| format!("{shown}: could not be written"))?;
        file.sync_all().with_context(|| format!("{shown}: could not be written"))?;
        Ok(next)
    }
}

/// A number that is not used under any of these: the highest that any has next is taken from all.
fn next(counters: &[Counter], now_ms: u64) -> anyhow::Result<u64> {
    let highest = counters.iter().try_fold(now_ms, |highest, counter| counter.next(highest))?;
    for counter in counters.iter().rev().skip(1) {
        // The last one has it; each before it stands at it or lower.
        counter.reach(highest)?;
    }
    Ok(highest)
}

/// A piece of a log for people; `skipped` is what was passed over before the last one.
fn said(lines: &LogLines, skipped: u64) -> String {
    let more = lines.skipped.saturating_sub(skipped);
    let gap = if more > 0 { format!("[… {more} bytes are not shown …]\n") } else { String::new() };
    let end = if lines.text.ends_with('\n') { "" } else { "\n" };
    format!("{gap}{}{end}", harmless_lines(&lines.text))
}

fn json(from: &RigId, ack: &Ack) -> anyhow::Result<String> {
    #[derive(serde::Serialize)]
    struct Line<'a> {
        rig: &'a RigId,
        #[serde(flatten)]
        ack: &'a Ack,
    }
    Ok(format!("{}\n", serde_json::to_string(&Line { rig: from, ack })?))
}

/// An answer for people.
fn line(from: &RigId, ack: &Ack) -> String {
    let state = match &ack.state {
        AckState::Accepted => "accepted".to_owned(),
        AckState::Running { percent, text } => format!("{percent} % {text}"),
        AckState::Done(Outcome::Nothing) => "done".to_owned(),
        AckState::Done(Outcome::Text(text)) => format!("done: {text}"),
        AckState::Done(Outcome::Lines(lines)) if lines.is_empty() => "done".to_owned(),
        AckState::Done(Outcome::Lines(lines)) => format!("done\n  {}", lines.join("\n  ")),
        AckState::Failed(why) => format!("failed: {why}"),
        AckState::Refused(refusal) => format!("refused: {refusal}"),
        AckState::Unknown => "was under way when the agent restarted: whether it was done is not known".to_owned(),
    };
    format!("{from}: {}\n", harmless_lines(&state))
}

#[cfg(test)]
mod tests {
    use rigd::wire::Signed;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("rigd-send-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn no_number_is_used_twice_whatever_the_clock_says() {
        let directory = scratch("counter");
        let counter = Counter::beside(&directory.join("ops.key"));
        let numbers: Vec<u64> = [1_000, 1_000, 500, 2_000].map(|now| counter.next(now).unwrap()).into();
        assert_eq!(numbers, [1_000, 1_001, 1_002, 2_000]);
        fs::write(directory.join("ops.key.counter"), "nonsense").unwrap();
        assert_eq!(counter.next(3_000).unwrap(), 3_000);
        // Of two keys, one that the other never used either: it is used up for both.
        let both = [counter, Counter::beside(&directory.join("root.key"))];
        both[1].next(9_000).unwrap();
        assert_eq!(next(&both, 4_000).unwrap(), 9_001);
        assert_eq!((both[0].next(0).unwrap(), both[1].next(0).unwrap()), (9_002, 9_002));
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_frame_is_signed_for_the_topic_of_its_audience() {
        let directory = scratch("frame");
        let key = SigningKey::from_seed(&[7; 32]).unwrap();
        let public = key.public();
        let signer = Signer { key, second: None, counters: vec![Counter::beside(&directory.join("k"))] };
        for (audience, expected) in [
            (Audience::Rig("rig-7".parse().unwrap()), "r1/rig-7/dn/cmd"),
            (Audience::Group("hall-2".parse().unwrap()), "r1/g/hall-2/dn/cmd"),
        ] {
            let command = Command {
                audience,
                id: CommandId([1; 16]),
                counter: 0,
                not_before_ms: 0,
                not_after_ms: 9,
                nonce: None,
                revision: None,
                order: rigd::wire::Order::Snapshot,
            };
            let (topic, frame) = signer.frame(command, 5).unwrap();
            let signed = Signed::parse(&frame).unwrap();
            assert_eq!(topic, expected);
            assert!(signed.first.fits(&public, &topic, signed.message));
        }
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn the_exit_code_tells_how_it_ended() {
        let done = AckState::Done(Outcome::Nothing);
        let refused = AckState::Refused(Refusal::Expired);
        let busy = AckState::Refused(Refusal::TooMany);
        for (states, code) in [
            (vec![], EXIT_SILENCE),
            (vec![("a", AckState::Accepted)], EXIT_SILENCE),
            (vec![("a", AckState::Accepted), ("a", done.clone())], 0),
            (vec![("a", done.clone()), ("b", AckState::Accepted)], EXIT_SILENCE),
            (vec![("a", done.clone()), ("b", refused)], 1),
            (vec![("a", AckState::Unknown)], 1),
            (vec![("a", busy.clone())], EXIT_BUSY),
            (vec![("a", done.clone()), ("b", busy.clone())], EXIT_BUSY),
            (vec![("a", AckState::Unknown), ("b", busy)], 1),
        ] {
            let mut answers = Answers::default();
            for (rig, state) in &states {
                answers.take(rig.parse().unwrap(), state);
            }
            assert_eq!(answers.code(), code, "{states:?}");
        }
    }
}
