//! `rigd-ctl desired`: what a rig shall be. The broker keeps it, signed and retained, and the rig reports how near it is.
//!
//! ```text
//! TOML ── signed, r1/{rig}/dn/des, retained ──> broker ──> rig
//!         taken, reached or refused ── r1/{rig}/up/rep, retained ──> here; the exit code tells
//! ```

mod show;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Subcommand;
use rigd::wire::{Desired, Encoding, Header, Kind, Message, Reported, RigId, Signed, SigningKey, Topic, encode};
use rigd::{clock, desired_file};
use rumqttc::v5::mqttbytes::v5::{PubAckReason, PublishProperties};

use crate::broker::Flags;
use crate::people::decode;
use crate::session::{Heard, Session};
use crate::trust::{self, Checked, Keys};
use crate::{keygen, print};

/// How long retained messages are waited for; a broker has them at once or not at all.
const RETAINED: Duration = Duration::from_secs(2);
/// No file that people write is longer.
const LONGEST: u64 = 256 * 1024;
/// Refused, or what the rig reports differs.
const EXIT_NOT: u8 = 1;
/// The rig said nothing to it in time.
const EXIT_SILENCE: u8 = 3;
/// It is in force, and the rig is not as it says yet.
const EXIT_UNDER_WAY: u8 = 4;

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Show what the broker holds for a rig, and what the rig reports
    Get(Get),
    /// Sign what is in a file, and let the rig become it
    Set(Box<Set>),
    /// Show what the rig reports as different; exit: 0 nothing is, 1 something is, 3 the rig never reported
    Diff(Get),
}

/// The command line of `get` and `diff`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  rigd-ctl desired get rig-7 --trust rigd.toml\n  rigd-ctl desired diff rig-7\n\nExit: get: 0 shown, 1 not, or a signature does not fit; diff: 0 nothing differs, 1 something does, 3 the rig never reported"
)]
pub(crate) struct Get {
    /// Its name
    rig: RigId,
    /// Say whether the signature fits, by the keys in this file: a rig's configuration, or what keygen printed
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    broker: Flags,
}

/// The command line of `set`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  rigd-ctl desired set --example > rig-7.toml     every key of the file\n  rigd-ctl desired set rig-7 rig-7.toml --sign ops.key\n\nExit: 0 reached, 1 refused, 3 the rig said nothing to it in time, 4 in force and not reached in time"
)]
pub(crate) struct Set {
    /// Its name
    #[arg(required_unless_present = "example")]
    rig: Option<RigId>,
    /// What it shall be, TOML; - is standard input
    #[arg(required_unless_present = "example")]
    file: Option<PathBuf>,
    /// Secret key that signs, from keygen; it needs the scopes operate, tune and payload
    #[arg(long, value_name = "FILE", required_unless_present = "example")]
    sign: Option<PathBuf>,
    /// Its number; one more than the last that broker or rig knows where none is given
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    revision: Option<u64>,
    /// How long to wait until it is reached
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    wait: Duration,
    /// Wait only until the rig has taken it
    #[arg(long)]
    taken: bool,
    /// What the rig reports as JSON, one a line
    #[arg(long)]
    json: bool,
    /// Print a file with every key, and do nothing
    #[arg(long)]
    example: bool,
    #[command(flatten)]
    broker: Flags,
}

pub(crate) fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = match verb {
        Verb::Set(set) if set.example => {
            print(desired_file::EXAMPLE)?;
            0
        }
        Verb::Set(set) => runtime.block_on(write(*set))?,
        Verb::Get(get) => runtime.block_on(read(&get, false))?,
        Verb::Diff(get) => runtime.block_on(read(&get, true))?,
    };
    Ok(ExitCode::from(code))
}

/// What is known of one rig.
struct Rig {
    id: RigId,
    session: Session,
    /// The frame that the broker holds.
    desired: Option<Vec<u8>>,
    reported: Option<Reported>,
}

impl Rig {
    async fn open(broker: &Flags, id: RigId) -> anyhow::Result<Self> {
        let filters = [Kind::Desired, Kind::Reported].map(|kind| Topic::new(id.clone(), kind).to_string());
        let session = Session::open(broker.clone(), filters.into()).await?;
        Ok(Self { id, session, desired: None, reported: None })
    }

    /// Takes in what comes, until `good`; false when the time is over.
    async fn until(&mut self, until: Instant, good: impl Fn(&Self) -> bool) -> anyhow::Result<bool> {
        while !good(self) {
            let Some(heard) = self.session.next(until).await? else { return Ok(false) };
            let publish = match heard {
                Heard::Message(publish) => publish,
                Heard::Taken(PubAckReason::Success | PubAckReason::NoMatchingSubscribers) => continue,
                Heard::Taken(reason) => bail!("{} does not take it: {reason:?}", self.session.broker()),
            };
            let kind = std::str::from_utf8(&publish.topic).ok().and_then(Topic::parse).map(|topic| topic.kind);
            match kind {
                // Nothing is how a retained message is taken away.
                Some(Kind::Desired) => self.desired = Some(publish.payload.to_vec()).filter(|frame| !frame.is_empty()),
                Some(Kind::Reported) => {
                    if let Ok((_, Message::Reported(reported))) = decode(&publish.payload) {
                        self.reported = Some(reported);
                    }
                }
                _ => {}
            }
        }
        Ok(true)
    }

    /// What the broker holds, taken apart; none where it holds nothing.
    fn held(&self, keys: Option<&Keys>) -> anyhow::Result<Option<(Desired, Vec<Checked>)>> {
        let Some(frame) = &self.desired else { return Ok(None) };
        let signed = Signed::parse(frame).context("what the broker holds is no signed frame")?;
        let checked = trust::check(&signed, keys, &self.topic());
        match decode(signed.message).context("what the broker holds")? {
            (_, Message::Desired(desired)) => Ok(Some((desired, checked))),
            (header, _) => bail!("what the broker holds is no desired state but a {:?}", header.kind),
        }
    }

    fn topic(&self) -> String {
        Topic::new(self.id.clone(), Kind::Desired).to_string()
    }
}

async fn read(get: &Get, differences: bool) -> anyhow::Result<u8> {
    let keys = get.trust.as_deref().map(Keys::load).transpose()?;
    let mut rig = Rig::open(&get.broker, get.rig.clone()).await?;
    rig.until(clock::now() + RETAINED, |rig| rig.reported.is_some() && (differences || rig.desired.is_some())).await?;
    let reported = rig.reported.as_ref();
    if differences {
        print(&if get.json { show::json(&get.rig, None, reported)? } else { show::differences(&get.rig, reported) })?;
        return Ok(match reported {
            None => EXIT_SILENCE,
            Some(Reported { differences, .. }) if differences.is_empty() => 0,
            Some(_) => EXIT_NOT,
        });
    }
    let held = rig.held(keys.as_ref())?;
    print(&if get.json {
        show::json(&get.rig, held.as_ref(), reported)?
    } else {
        show::held(&get.rig, held.as_ref()) + &show::reported(&get.rig, reported)
    })?;
    let bad = held.is_some_and(|(_, checked)| checked.iter().any(|one| one.fits == Some(false)));
    Ok(if bad { EXIT_NOT } else { 0 })
}

async fn write(set: Set) -> anyhow::Result<u8> {
    let (Some(id), Some(file), Some(sign)) = (set.rig, set.file, set.sign) else { bail!("nothing to set") };
    let key = keygen::load(&sign)?;
    let text = contents(&file)?;
    let parse =
        |revision| desired_file::parse(&file.display().to_string(), &text, id.clone(), revision, clock::unix_ms());
    // Mistakes first: nobody waits for a broker to hear of them.
    parse(0)?;
    let mut rig = Rig::open(&set.broker, id.clone()).await?;
    rig.until(clock::now() + RETAINED, |rig| rig.reported.is_some() && rig.desired.is_some()).await?;
    let before = rig.reported.take();
    // What is there and is no desired state is written over.
    let held = rig.held(None).ok().flatten().map(|(desired, _)| desired.revision);
    let desired = parse(set.revision.unwrap_or_else(|| next(held, before.as_ref())))?;
    let revision = desired.revision;
    rig.session.publish(&rig.topic(), true, frame(&key, &rig.topic(), &desired), PublishProperties::default())?;
    let mut told = before;
    let until = clock::now() + set.wait;
    loop {
        let news = rig.until(until, |rig| rig.reported.is_some() && rig.reported != told).await?;
        if !news {
            let code = standing(revision, told.as_ref()).map_or(EXIT_SILENCE, Standing::code);
            let wait = humantime::format_duration(set.wait);
            let why = if code == EXIT_SILENCE {
                format!(
                    "said nothing to revision {revision} within {wait}: it is away, or trusts no key that signed it"
                )
            } else {
                format!(
                    "is not as revision {revision} says after {wait}; `rigd-ctl desired diff {id}` says what differs"
                )
            };
            writeln!(std::io::stderr(), "rigd-ctl: {id} {why}").context("standard error")?;
            return Ok(code);
        }
        told.clone_from(&rig.reported);
        let Some(standing) = standing(revision, told.as_ref()) else { continue };
        print(&if set.json { show::json(&id, None, told.as_ref())? } else { show::reported(&id, told.as_ref()) })?;
        match standing {
            Standing::UnderWay if set.taken => return Ok(0),
            Standing::UnderWay => {}
            Standing::Reached | Standing::Refused => return Ok(standing.code()),
        }
    }
}

fn contents(file: &std::path::Path) -> anyhow::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().lock().take(LONGEST).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(LONGEST).read_to_string(&mut text))
    };
    read.with_context(|| format!("{}: could not be read", file.display()))?;
    Ok(text)
}

fn frame(key: &SigningKey, topic: &str, desired: &Desired) -> Vec<u8> {
    key.frame(None, topic, &encode(Encoding::Postcard, Header::new(Kind::Desired, 0, 0), desired))
}

/// The number after every one that is known of.
fn next(held: Option<u64>, reported: Option<&Reported>) -> u64 {
    let refused = reported.and_then(|reported| reported.refused.as_ref()).map(|refused| refused.revision);
    let known = [held, reported.map(|reported| reported.accepted), refused];
    known.into_iter().flatten().max().unwrap_or(0).saturating_add(1)
}

/// How a rig stands to a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Reached,
    UnderWay,
    Refused,
}

impl Standing {
    const fn code(self) -> u8 {
        match self {
            Self::Reached => 0,
            Self::Refused => EXIT_NOT,
            Self::UnderWay => EXIT_UNDER_WAY,
        }
    }
}

/// None where it does not speak of it.
fn standing(revision: u64, reported: Option<&Reported>) -> Option<Standing> {
    let reported = reported?;
    if reported.refused.as_ref().is_some_and(|refused| refused.revision == revision) {
        Some(Standing::Refused)
    } else if reported.reached == revision {
        Some(Standing::Reached)
    } else {
        (reported.accepted == revision).then_some(Standing::UnderWay)
    }
}

#[cfg(test)]
mod tests {
    use rigd::wire::RefusedRevision;

    use super::*;

    #[test]
    fn what_a_report_says_of_a_revision_and_the_number_after_all() {
        let refused = |revision| Some(RefusedRevision { revision, reason: "no".to_owned() });
        let report = |reached, accepted, refused| Reported { reached, accepted, refused, ..Reported::default() };
        for (reported, expected, after) in [
            (report(5, 5, None), Some(Standing::Reached), 6),
            (report(0, 5, None), Some(Standing::UnderWay), 6),
            (report(4, 4, refused(5)), Some(Standing::Refused), 6),
            (report(4, 4, None), None, 5),
            (report(0, 5, refused(3)), Some(Standing::UnderWay), 6),
        ] {
            assert_eq!(standing(5, Some(&reported)), expected, "{reported:?}");
            assert_eq!(next(None, Some(&reported)), after, "{reported:?}");
        }
        assert_eq!(standing(5, None), None);
        assert_eq!([next(None, None), next(Some(8), None), next(Some(8), Some(&report(9, 9, None)))], [1, 9, 10]);
    }
}
