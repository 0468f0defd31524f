//! Whether bytes that came by a topic are a command for this rig that may be carried out now: a pure function.
//!
//! In this order, so that nothing is decoded before its signature is known to be good and nothing is believed of what is
//! refused earlier: size, frame, retained, keys, signatures, decode, audience, seen before, validity, nonce, counter, scopes,
//! revision. Numbers: a command is valid for [`LIFETIME_MS`] at most, and clocks may differ by [`SKEW_MS`].

use ring::digest;

use super::trust::{self, Needs, Trust};
use crate::setpoint::Source;
use crate::wire::{
    Audience, BadFrame, Command, CommandId, Desired, GroupId, GroupTopic, KeyId, Kind, LARGEST_FRAME, Message, Refusal,
    RigId, Signed, TrustedKey, decode_to_a_rig,
};

/// Longest validity of a command: 10 minutes.
pub const LIFETIME_MS: u64 = 10 * 60 * 1_000;
/// Most that the clocks of rig and control plane may differ: 30 s.
pub const SKEW_MS: u64 = 30 * 1_000;

/// SHA-256 of a message as it was signed.
pub type Digest = [u8; 32];

/// A message as it came.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// By this topic.
    pub topic: &'a str,
    /// Its payload.
    pub frame: &'a [u8],
    /// The broker had kept it.
    pub retained: bool,
}

/// Who this rig is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Me {
    /// Its name.
    pub rig: RigId,
    /// Groups that it is in.
    pub groups: Vec<GroupId>,
    /// Its site.
    pub site: Option<GroupId>,
}

impl Me {
    fn is(&self, audience: &Audience) -> bool {
        match audience {
            Audience::Rig(rig) => *rig == self.rig,
            Audience::Group(group) => self.groups.contains(group),
            Audience::Site(site) => self.site.as_ref() == Some(site),
        }
    }

    /// Who speaks by this topic, once a command that came by it is verified. A site's topic is no group's: their names must differ.
    #[must_use]
    pub fn speaker(&self, topic: &str) -> Source {
        let site = self.site.as_ref().map(|site| GroupTopic(site.clone()).to_string());
        if site.as_deref() == Some(topic) { Source::Site } else { Source::Command }
    }
}

/// What the rig knows at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Its clock, milliseconds since 1970; `None` where it is not known to be right.
    pub unix_ms: Option<u64>,
    /// The nonce in the birth of this start of the agent.
    pub nonce: u64,
    /// The desired revision that the rig has reached.
    pub revision: u64,
}

/// What was seen before: the journal.
pub trait Seen {
    /// What a command of this id was, where there was one.
    fn digest(&self, id: &CommandId) -> Option<Digest>;
    /// Whether a key never used this counter, for certain.
    fn fresh(&self, key: &KeyId, counter: u64) -> bool;
    /// Counters were lost, and a command that is valid from `not_before_ms` on, milliseconds since 1970, may have been carried out
    /// before the loss: it cannot be told from a new one.
    fn lost(&self, not_before_ms: u64) -> bool;
}

/// A command that may be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The command.
    pub command: Command,
    /// The keys that signed it, without the same one twice; it uses up its counter for each of them.
    pub keys: Vec<KeyId>,
    /// What was signed.
    pub digest: Digest,
}

/// What bytes turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A command that was never seen: journal it, then carry it out.
    New(Box<Verified>),
    /// A command that was seen before, byte by byte: say again what was said then.
    Again(CommandId),
}

/// A refusal, with what is known of the command: what a good signature stands behind, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its id.
    pub id: Option<CommandId>,
    /// The keys whose signatures are good.
    pub keys: Vec<KeyId>,
    /// Why.
    pub refusal: Refusal,
}

/// Signatures good, decoded, nothing more.
struct Opened<'a> {
    message: Message,
    keys: Vec<(KeyId, &'a TrustedKey)>,
    digest: Digest,
}

impl Opened<'_> {
    fn ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(|(id, _)| *id).collect()
    }
}

fn open<'a>(received: &Received<'_>, trust: &'a Trust) -> Result<Opened<'a>, Refused> {
    let unknown = |refusal| Refused { id: None, keys: Vec::new(), refusal };
    let frame = Signed::parse(received.frame).map_err(|error: BadFrame| unknown(malformed(error)))?;
    let mut keys: Vec<(KeyId, &TrustedKey)> = Vec::new();
    for signature in frame.signatures() {
        let key = trust.key(&signature.key).map_err(unknown)?;
        if !signature.fits(&key.public, received.topic, frame.message) {
            return Err(unknown(Refusal::BadSignature));
        }
        if keys.iter().all(|(id, _)| *id != signature.key) {
            keys.push((signature.key, key));
        }
    }
    let hash = digest::digest(&digest::SHA256, frame.message);
    let digest = hash.as_ref().try_into().unwrap_or_default();
    match decode_to_a_rig(frame.message) {
        Ok((_, message)) => Ok(Opened { message, keys, digest }),
        Err(error) => {
            let keys = keys.iter().map(|(id, _)| *id).collect();
            Err(Refused { id: None, keys, refusal: malformed(error) })
        }
    }
}

fn malformed(error: impl std::fmt::Display) -> Refusal {
    let mut text = error.to_string();
    // Decoders repeat what they read.
    text.truncate(text.floor_char_boundary(200));
    Refusal::Malformed(text)
}

/// Whether this is a command for this rig that may be carried out now.
///
/// # Errors
/// Why it is not. Bytes may come from anybody, on any topic.
pub fn command(
    received: &Received<'_>,
    trust: &Trust,
    me: &Me,
    now: &Now,
    seen: &impl Seen,
) -> Result<Verdict, Refused> {
    if received.retained && received.frame.len() <= LARGEST_FRAME {
        return Err(Refused { id: None, keys: Vec::new(), refusal: Refusal::Retained });
    }
    let opened = open(received, trust)?;
    let keys = opened.ids();
    let Message::Command(command) = &opened.message else {
        return Err(Refused { id: None, keys, refusal: Refusal::Malformed("not a command".to_owned()) });
    };
    match judge(command, &opened, received.topic, me, now, seen) {
        Ok(true) => Ok(Verdict::Again(command.id)),
        Ok(false) => {
            let Opened { message: Message::Command(command), digest, .. } = opened else {
                return Err(Refused { id: None, keys, refusal: Refusal::Malformed("not a command".to_owned()) });
            };
            Ok(Verdict::New(Box::new(Verified { command, keys, digest })))
        }
        Err(refusal) => Err(Refused { id: Some(command.id), keys, refusal }),
    }
}

/// `true` where it was seen before.
fn judge(
    command: &Command,
    opened: &Opened<'_>,
    topic: &str,
    me: &Me,
    now: &Now,
    seen: &impl Seen,
) -> Result<bool, Refusal> {
    command.check().map_err(malformed)?;
    addressed(&command.audience, Kind::Command, topic, me)?;
    match seen.digest(&command.id) {
        Some(digest) if digest == opened.digest => return Ok(true),
        // Another command under a used name: it can never be told apart by its answers.
        Some(_) => return Err(Refusal::Replayed),
        None => {}
    }
    if command.not_after_ms < command.not_before_ms {
        return Err(Refusal::Malformed("it ends before it begins".to_owned()));
    }
    if command.not_after_ms - command.not_before_ms > LIFETIME_MS {
        return Err(Refusal::NotYet);
    }
    if let Some(unix_ms) = now.unix_ms {
        in_time(command.not_before_ms, Some(command.not_after_ms), unix_ms)?;
    }
    match command.nonce {
        Some(nonce) if nonce != now.nonce => return Err(Refusal::Replayed),
        Some(_) => {}
        None if now.unix_ms.is_none() => return Err(Refusal::ClockUnset),
        None if seen.lost(command.not_before_ms) => {
            let text = "counters were lost with the journal: what was signed before must carry the nonce of the birth";
            return Err(Refusal::Policy(text.to_owned()));
        }
        None => {}
    }
    if !unused(command, opened, seen) {
        return Err(Refusal::Replayed);
    }
    allowed(trust::needs(&command.order), &opened.keys)?;
    match command.revision {
        Some(revision) if revision != now.revision => {
            Err(Refusal::Policy(format!("the rig is at revision {}, not {revision}", now.revision)))
        }
        Some(_) | None => Ok(false),
    }
}

/// Of every key that signed, not only of the first: signatures stand beside each other in a frame, and who exchanged two of them, or
/// left one out, would else have the same order under a counter that nobody used.
fn unused(command: &Command, opened: &Opened<'_>, seen: &impl Seen) -> bool {
    opened.keys.iter().all(|(key, _)| seen.fresh(key, command.counter))
}

/// What to refuse as one too many: the name of a command that keys of ours signed, that was never seen, and that uses up no counter
/// twice. Whatever else may be wrong with it is told when it comes again.
#[must_use]
pub fn in_excess(received: &Received<'_>, trust: &Trust, seen: &impl Seen) -> Option<(CommandId, Vec<KeyId>)> {
    let opened = open(received, trust).ok().filter(|_| !received.retained)?;
    let Message::Command(command) = &opened.message else { return None };
    // What was answered once gets no other end.
    let new = seen.digest(&command.id).is_none() && unused(command, &opened, seen);
    new.then(|| (command.id, opened.ids()))
}

/// Whether this is a desired state for this rig, by a key that may say it. `fresh`: it comes from the broker and not from
/// the rig's own disk, so that its time to be taken must not be over. Whether its revision is new is told by
/// [`crate::desired::accept`].
///
/// # Errors
/// Why it is not. Bytes may come from anybody.
pub fn desired(
    received: &Received<'_>,
    trust: &Trust,
    me: &Me,
    unix_ms: Option<u64>,
    fresh: bool,
) -> Result<(Desired, Vec<KeyId>), Refused> {
    let opened = open(received, trust)?;
    let keys = opened.ids();
    let Message::Desired(desired) = &opened.message else {
        return Err(Refused { id: None, keys, refusal: Refusal::Malformed("not a desired state".to_owned()) });
    };
    let judged = desired.check().map_err(malformed).and_then(|()| {
        addressed(&desired.audience, Kind::Desired, received.topic, me)?;
        if let (Some(unix_ms), true) = (unix_ms, fresh) {
            in_time(desired.issued_ms, desired.not_after_ms, unix_ms)?;
        }
        allowed(trust::DESIRED, &opened.keys)
    });
    match (judged, opened.message) {
        (Ok(()), Message::Desired(desired)) => Ok((desired, keys)),
        (Ok(()), _) => Err(Refused { id: None, keys, refusal: Refusal::Malformed("not a desired state".to_owned()) }),
        (Err(refusal), _) => Err(Refused { id: None, keys, refusal }),
    }
}

fn addressed(audience: &Audience, kind: Kind, topic: &str, me: &Me) -> Result<(), Refusal> {
    let ours = me.is(audience) && audience.topic(kind).as_deref() == Some(topic);
    if ours { Ok(()) } else { Err(Refusal::WrongAudience) }
}

fn in_time(not_before_ms: u64, not_after_ms: Option<u64>, unix_ms: u64) -> Result<(), Refusal> {
    if unix_ms.saturating_add(SKEW_MS) < not_before_ms {
        Err(Refusal::NotYet)
    } else if not_after_ms.is_some_and(|end| unix_ms > end.saturating_add(SKEW_MS)) {
        Err(Refusal::Expired)
    } else {
        Ok(())
    }
}

/// So many different keys as needed have every scope that is needed.
fn allowed(needs: Needs, keys: &[(KeyId, &TrustedKey)]) -> Result<(), Refusal> {
    let missing = |key: &TrustedKey| needs.scopes.iter().find(|scope| !key.scopes.contains(scope)).copied();
    let lacks: Vec<_> = keys.iter().map(|(_, key)| missing(key)).collect();
    let good = lacks.iter().filter(|lack| lack.is_none()).count();
    if good >= needs.keys {
        return Ok(());
    }
    // A key that may not is told before one that is missing.
    Err(lacks.into_iter().flatten().next().map_or(Refusal::SecondKey, Refusal::Scope))
}

#[cfg(test)]
mod tests;
