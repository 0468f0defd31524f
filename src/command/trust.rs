//! Whose signatures count, and for what.
//!
//! Keys come from the configuration, which only root writes, and from [`Order::RotateKey`], which two keys sign; what came by
//! order is kept in the state directory. A revoked key stays revoked, also where the configuration still names it, and is revoked by
//! the configuration too: `[key.NAME] revoked = true`. Where both name a key it may what both let it. A file of rotations that cannot
//! be read may hide a revocation, and so does one that is gone though [`mark`] names it: then no key at all is trusted until somebody
//! looks.
//!
//! Numbers: [`MOST_KEYS`] that are or were trusted; beside them the [`MOST_UNKNOWN`] newest revocations of keys that never were, which
//! push out each other and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::mark;
use crate::sorted;
use crate::source::{Source, Table};
use crate::statefile::StateFile;
use crate::wire::{GroupId, KeyId, LONGEST_NAME, Order, PublicKey, Refusal, Scope, TrustedKey};

/// Keys at most, trusted and revoked together; one more is refused.
pub const MOST_KEYS: usize = 64;
/// Revocations kept of keys that this rig never trusted; the oldest goes first.
pub const MOST_UNKNOWN: usize = 32;
const FILE: &str = "keys.json";
/// All keys with their names take a third of that.
const LARGEST: u64 = 64 * 1024;

/// What an order takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Every signing key that counts has all of these.
    pub scopes: &'static [Scope],
    /// So many different keys.
    pub keys: usize,
}

/// What each order takes: the only such table.
#[must_use]
pub fn needs(order: &Order) -> Needs {
    let one = |scopes| Needs { scopes, keys: 1 };
    match order {
        Order::Logs { .. } | Order::FollowLogs { .. } | Order::Snapshot => one(&[Scope::Observe]),
        Order::Identify { .. }
        | Order::Probe
        | Order::Reload
        | Order::RestartAgent
        | Order::Reboot
        | Order::Maintenance { .. } => one(&[Scope::Operate]),
        Order::SetProfile { .. } | Order::SetPowerCap(_) | Order::SetFanTarget { .. } => one(&[Scope::Tune]),
        Order::Payload { .. } | Order::Assign { .. } => one(&[Scope::Payload]),
        // Who gives away the right to widen limits has it.
        Order::RotateKey { add: Some(key), .. } if key.scopes.contains(&Scope::Safety) => {
            Needs { scopes: &[Scope::Update, Scope::Safety], keys: 2 }
        }
        Order::RotateKey { .. } => Needs { scopes: &[Scope::Update], keys: 2 },
    }
}

/// What a desired state takes: it says all of it at once, also by what it leaves out.
pub const DESIRED: Needs = Needs { scopes: &[Scope::Operate, Scope::Tune, Scope::Payload], keys: 1 };

/// What the configuration says of the fleet: `[key.NAME]` and `[fleet]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetConfig {
    /// Keys that are trusted.
    pub keys: Vec<TrustedKey>,
    /// Keys that are not trusted, whoever says so later.
    pub revoked: Vec<KeyId>,
    /// Groups that this rig is in.
    pub groups: Vec<GroupId>,
    /// Its site.
    pub site: Option<GroupId>,
    /// The rig's clock is right whatever the kernel says: something keeps it in step that the kernel does not know.
    pub trust_clock: bool,
}

impl FleetConfig {
    /// Reads `[key]` and `[fleet]` of a configuration; mistakes are complained of there.
    pub(crate) fn read(root: &Table<'_>) -> Self {
        let (mut keys, mut gone): (Vec<TrustedKey>, Vec<TrustedKey>) = Default::default();
        for (name, table) in root.tables("key") {
            table.only(&["public", "scopes", "revoked"]);
            let text = table.needed_text("public");
            let public = public_key(&text);
            if public.is_none() && !text.is_empty() {
                table.complain("public", "must be the 32 bytes of an Ed25519 key: 64 hexadecimal digits or base64");
            }
            let revoked = table.flag("revoked").unwrap_or(false);
            // What a revoked one might have done need not be said any more.
            let scopes = if revoked && table.texts("scopes").is_empty() { Vec::new() } else { scopes(&table) };
            if name.is_empty() || name.len() > LONGEST_NAME {
                table.complain("", format!("a key's name has 1 to {LONGEST_NAME} bytes"));
            }
            let Some(public) = public else { continue };
            if let Some(other) = keys.iter().chain(&gone).find(|other| other.public == public) {
                table.complain("public", format!("is that of `{}` too", other.name));
            }
            if revoked { &mut gone } else { &mut keys }.push(TrustedKey { name, public, scopes });
        }
        if keys.len() + gone.len() > MOST_KEYS {
            root.complain("key", format!("more than {MOST_KEYS} keys"));
        }
        let fleet = root.table("fleet");
        fleet.only(&["groups", "site", "trust_clock"]);
        let group = |key: &str, name: String| {
            GroupId::try_from(name).map_err(|error| fleet.complain(key, error.to_string())).ok()
        };
        let groups: Vec<_> = fleet.texts("groups").into_iter().filter_map(|name| group("groups", name)).collect();
        let site = fleet.text("site").and_then(|name| group("site", name));
        if site.as_ref().is_some_and(|site| groups.contains(site)) {
            fleet.complain("site", "is one of `groups` too: names of sites and groups must differ");
        }
        let trust_clock = fleet.flag("trust_clock").unwrap_or(false);
        let revoked = gone.iter().map(|key| KeyId::of(&key.public)).collect();
        Self { keys, revoked, groups, site, trust_clock }
    }

    /// Parses these tables of a text that may have others: a rig's whole configuration.
    ///
    /// # Errors
    /// Every problem found, with file, line and key.
    #[cfg(feature = "ctl")]
    pub fn parse_within(file: &str, text: &str) -> Result<Self, crate::source::Problems> {
        let source = Source::parse(file, text)?;
        let config = Self::read(&source.root());
        source.finish().map(|()| config)
    }

    /// Parses a text that has nothing else in it.
    ///
    /// # Errors
    /// Every problem found, with file, line and key.
    pub fn parse(file: &str, text: &str) -> Result<Self, crate::source::Problems> {
        let source = Source::parse(file, text)?;
        let root = source.root();
        root.only(&["key", "fleet"]);
        let config = Self::read(&root);
        source.finish().map(|()| config)
    }
}

fn scopes(table: &Table<'_>) -> Vec<Scope> {
    let mut found = Vec::new();
    for name in table.texts("scopes") {
        match Scope::ALL.into_iter().find(|scope| scope.name() == name) {
            Some(scope) if !found.contains(&scope) => found.push(scope),
            Some(_) => table.complain("scopes", format!("`{name}` is there twice")),
            None => {
                let known = Scope::ALL.map(Scope::name).join(", ");
                table.complain("scopes", format!("`{name}` is none of {known}"));
            }
        }
    }
    if found.is_empty() && table.texts("scopes").is_empty() {
        table.complain("scopes", "is missing: a key without scopes may order nothing");
    }
    found
}

/// 64 hexadecimal digits, or the base64 of the same 32 bytes, with or without its last `=`.
#[must_use]
pub fn public_key(text: &str) -> Option<PublicKey> {
    text.parse().ok().or_else(|| base64(text.strip_suffix('=').unwrap_or(text)).map(PublicKey))
}

/// 43 letters of base64 (RFC 4648, 4): 32 bytes and two bits, which are zero.
fn base64(text: &str) -> Option<[u8; 32]> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if text.len() != 43 {
        return None;
    }
    let (mut bytes, mut at) = ([0; 32], 0);
    let (mut bits, mut count) = (0_u32, 0);
    for letter in text.bytes() {
        let value = LETTERS.iter().position(|known| *known == letter)?;
        bits = bits << 6 | u32::try_from(value).ok()?;
        count += 6;
        if count >= 8 {
            count -= 8;
            *bytes.get_mut(at)? = u8::try_from(bits >> count & 0xff).ok()?;
            at += 1;
            bits &= (1 << count) - 1;
        }
    }
    (bits == 0).then_some(bytes)
}

/// What orders changed about the keys, as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Rotations {
    added: Vec<TrustedKey>,
    revoked: Vec<KeyId>,
    /// Revoked, and never trusted here; the oldest first.
    #[serde(default)]
    unknown: Vec<KeyId>,
}

/// Who is trusted now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    keys: BTreeMap<KeyId, TrustedKey>,
    revoked: BTreeSet<KeyId>,
    rotations: Rotations,
    /// What the configuration lets a key do that it names.
    named: BTreeMap<KeyId, Vec<Scope>>,
}

impl Trust {
    /// The keys of the configuration and no other.
    #[must_use]
    pub fn new(config: &FleetConfig) -> Self {
        Self::with(config, Rotations::default())
    }

    fn with(config: &FleetConfig, mut rotations: Rotations) -> Self {
        let named = sorted::map(config.keys.iter().map(|key| (KeyId::of(&key.public), key.scopes.clone())));
        // One that the configuration has come to name since is known now, and stays.
        let (known, unknown) =
            rotations.unknown.into_iter().partition(|id| named.contains_key(id) || config.revoked.contains(id));
        rotations.unknown = unknown;
        rotations.revoked.extend::<Vec<_>>(known);
        let all = rotations.revoked.iter().chain(&rotations.unknown).chain(&config.revoked);
        let revoked = sorted::set(all.copied());
        let added = rotations.added.iter().map(|key| narrowed(key, &named));
        let all = config.keys.iter().cloned().chain(added).map(|key| (KeyId::of(&key.public), key));
        let keys = sorted::map(all.filter(|(id, _)| !revoked.contains(id)));
        Self { keys, revoked, rotations, named }
    }

    /// The keys of the configuration, with what orders changed.
    ///
    /// # Errors
    /// A file of rotations that is there and cannot be read or understood, or that was there and is gone: nobody may be trusted then.
    pub fn load(config: &FleetConfig, directory: &Path) -> io::Result<Self> {
        let path = path(directory);
        let rotations = match fs::metadata(&path) {
            Ok(found) if found.len() > LARGEST => {
                return Err(io::Error::other(format!("longer than {LARGEST} bytes, which nothing of ours is")));
            }
            Ok(_) => {
                let rotations = serde_json::from_slice(&fs::read(&path)?)?;
                mark::name(directory, FILE)?;
                rotations
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && mark::names(directory, FILE)? => {
                let text = "is gone, and with it who was revoked: bring it back, or remove trust.mark beside it where nobody was";
                return Err(io::Error::other(text));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Rotations::default(),
            Err(error) => return Err(error),
        };
        Ok(Self::with(config, rotations))
    }

    /// Writes down what orders changed.
    ///
    /// # Errors
    /// What the system says; the old file is there then.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        StateFile::new(directory, FILE, LARGEST).save(&self.rotations)?;
        mark::name(directory, FILE)
    }

    /// The key of this id.
    ///
    /// # Errors
    /// `UnknownKey` or `RevokedKey`.
    pub fn key(&self, id: &KeyId) -> Result<&TrustedKey, Refusal> {
        match self.keys.get(id) {
            Some(key) => Ok(key),
            None if self.revoked.contains(id) => Err(Refusal::RevokedKey),
            None => Err(Refusal::UnknownKey),
        }
    }

    /// Every key that is trusted, by id.
    #[must_use]
    pub const fn keys(&self) -> &BTreeMap<KeyId, TrustedKey> {
        &self.keys
    }

    /// Who is trusted when a key was added, or revoked, or both. The same order twice changes nothing the second time.
    ///
    /// # Errors
    /// `Policy`: a key that was revoked never comes back; one that the configuration names gets no scope that it does not give; two
    /// keys that may rotate stay; the number of keys is bounded.
    pub fn rotated(&self, add: Option<&TrustedKey>, revoke: Option<KeyId>) -> Result<Self, Refusal> {
        let refuse = |text: &str| Err(Refusal::Policy(text.to_owned()));
        let mut next = self.clone();
        if let Some(key) = add {
            let id = KeyId::of(&key.public);
            if self.revoked.contains(&id) || revoke == Some(id) {
                return refuse("a key that was revoked is not trusted again");
            }
            if narrowed(key, &self.named).scopes != key.scopes {
                return refuse("the configuration names this key, and gives it fewer scopes");
            }
            next.rotations.added.retain(|other| other.public != key.public);
            next.rotations.added.push(key.clone());
            next.keys.insert(id, key.clone());
        }
        if let Some(id) = revoke {
            next.rotations.added.retain(|key| KeyId::of(&key.public) != id);
            let known = next.keys.remove(&id).is_some();
            let new = next.revoked.insert(id);
            if new && known {
                next.rotations.revoked.push(id);
            } else if new {
                next.rotations.unknown.push(id);
                if next.rotations.unknown.len() > MOST_UNKNOWN {
                    next.revoked.remove(&next.rotations.unknown.remove(0));
                }
            }
        }
        if next.keys.len() + next.revoked.len() - next.rotations.unknown.len() > MOST_KEYS {
            return refuse("too many keys");
        }
        let rotators = |trust: &Self| trust.keys.values().filter(|key| key.scopes.contains(&Scope::Update)).count();
        if rotators(&next) < 2 && rotators(&next) < rotators(self) {
            return refuse("fewer than two keys would be left that may change keys");
        }
        Ok(next)
    }
}

/// The key with no scope that the configuration does not give it, where that names it.
fn narrowed(key: &TrustedKey, named: &BTreeMap<KeyId, Vec<Scope>>) -> TrustedKey {
    let given = named.get(&KeyId::of(&key.public));
    let may = |scope: &&Scope| given.is_none_or(|given| given.contains(scope));
    TrustedKey { scopes: key.scopes.iter().filter(may).copied().collect(), ..key.clone() }
}

fn path(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

#[cfg(test)]
mod tests;
