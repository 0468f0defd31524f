//! A profile into the configuration, as a transaction: everything else in the file stays as it is, to the letter.
//!
//! ```text
//! read ── parse ── edit ── parse again: one profile is other, nothing else ── FILE.old ── FILE.new, fsync, rename ── fsync
//! ```
//!
//! The edit works on the text by the places of keys and values that the reader gives, so comments stay; what came of it is
//! believed only where the project's own reader finds all other settings as they were. A power cut leaves the old file or
//! the new one.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use rigd::config::Config;
use rigd::gpu::config::GpuConfig;
use rigd::gpu::profile::{Limit, Profile};
use rigd::units::{Megahertz, Milliwatts};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The lowest core clock of a lock that had none: cards idle there.
const LOWEST: u32 = 210;
/// What is tuned.
const LIMIT: &str = "power_limit_w";
const PART: &str = "power_limit_pct";
const CORE: &str = "core_lock_mhz";
const MEMORY: &str = "memory_lock_mhz";

/// Settings that were found best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tuned {
    /// Power limit, W.
    pub(super) watts: u32,
    /// Highest core clock; none leaves that of the profile it was found with.
    pub(super) core: Option<u32>,
    /// Memory clock; the same.
    pub(super) memory: Option<u32>,
}

/// What is written where.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The configuration.
    pub(super) path: PathBuf,
    /// The new profile.
    pub(super) name: String,
    /// The profile in which it was found: all else of it is taken over.
    pub(super) base: Option<String>,
    /// One of this name may be there.
    pub(super) replace: bool,
}

impl Target {
    /// Whether it could be written, which is asked before a search of an hour.
    pub(super) fn check(&self, tuned: Tuned) -> anyhow::Result<()> {
        self.edited(tuned)?;
        let path = fs::canonicalize(&self.path)?;
        let folder = path.parent().context("a file is in a folder")?;
        is_open(folder)
    }

    /// Writes it; the old text is in the file that it gives.
    pub(super) fn write(&self, tuned: Tuned) -> anyhow::Result<PathBuf> {
        let (before, after) = self.edited(tuned)?;
        put(&self.path, &before, &after)
    }

    /// The file's text as it is, and as it is to be.
    fn edited(&self, tuned: Tuned) -> anyhow::Result<(String, String)> {
        let file = self.path.display().to_string();
        let before = fs::read_to_string(&self.path).with_context(|| format!("could not read {file}"))?;
        let parse = |text: &str| Config::parse(&file, text, "rig").map_err(|problems| anyhow!("{problems}"));
        let known = parse(&before)?;
        let Self { name, base, replace, .. } = self;
        if known.gpus.named_profile(name).is_some() && !replace {
            bail!("{file} has a profile `{name}` already: --replace writes over it");
        }
        let after = edit(&before, name, base.as_deref(), tuned).map_err(|why| anyhow!("{file}: {why}"))?;
        let found = parse(&after).context("the profile does not fit this file")?;
        ensure!(
            is_only(name, base.as_deref(), tuned, &known, &found),
            "{file} is written in a way that this does not understand: write [profile.{name}] by hand"
        );
        Ok((before, after))
    }
}

/// Whether files may be made in this folder.
pub(super) fn is_open(folder: &Path) -> anyhow::Result<()> {
    rustix::fs::access(folder, rustix::fs::Access::WRITE_OK)
        .with_context(|| format!("could not write into {}", folder.display()))
}

/// The text with that profile in it.
fn edit(text: &str, name: &str, base: Option<&str>, tuned: Tuned) -> Result<String, String> {
    let parsed = DeTable::parse(text).map_err(|error| error.message().to_owned())?;
    let profiles = parsed.get_ref().get("profile").map(Spanned::get_ref).and_then(table);
    let of = |name: &str| profiles.and_then(|profiles| profiles.iter().find(|(key, _)| key.get_ref() == name));
    let mut content: Vec<(String, String)> = Vec::new();
    if let Some(base) = base {
        let (_, base) = of(base).ok_or_else(|| format!("there is no [profile.{base}], which is in force"))?;
        for (key, value) in entries(base.get_ref()) {
            let own = key.get_ref().as_ref();
            let raw = text.get(value.span()).unwrap_or_default();
            let other = match own {
                LIMIT | PART => true,
                CORE => tuned.core.is_some(),
                MEMORY => tuned.memory.is_some(),
                _ => false,
            };
            if !other {
                content.push((own.to_owned(), raw.to_owned()));
            }
        }
    }
    content.push((LIMIT.to_owned(), tuned.watts.to_string()));
    if let Some(high) = tuned.core {
        let low = base.and_then(of).and_then(|(_, base)| lowest(base.get_ref())).unwrap_or(LOWEST).min(high);
        content.push((CORE.to_owned(), format!("[{low}, {high}]")));
    }
    content.extend(tuned.memory.map(|clock| (MEMORY.to_owned(), clock.to_string())));
    let Some((header, present)) = of(name) else {
        let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        return Ok(format!("{text}{gap}\n[profile.{}]\n{}", quoted(name), lines(&content)));
    };
    let mut present: Vec<_> = entries(present.get_ref()).collect();
    present.sort_by_key(|(key, _)| key.span().start);
    // What is new comes behind what is there.
    let last = present.last().map_or(header.span().end, |(_, value)| value.span().end);
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    for (key, value) in present {
        match content.iter().position(|(wanted, _)| wanted == key.get_ref()) {
            Some(known) => edits.push((value.span(), content.remove(known).1)),
            None => edits.push((line(text, key.span().start).start..line(text, value.span().end).end, String::new())),
        }
    }
    let end = line(text, last).end;
    let gap = if text.get(..end).is_some_and(|text| text.ends_with('\n')) { "" } else { "\n" };
    edits.push((end..end, format!("{gap}{}", lines(&content))));
    let mut text = text.to_owned();
    // From the end on, so that what is before stays where it is.
    for (place, new) in edits.into_iter().rev() {
        if text.get(place.clone()).is_none() {
            return Err(format!("the places in [profile.{name}] are not in their order"));
        }
        text.replace_range(place, &new);
    }
    Ok(text)
}

fn table<'a, 'b>(value: &'b DeValue<'a>) -> Option<&'b DeTable<'a>> {
    if let DeValue::Table(table) = value { Some(table) } else { None }
}

fn entries<'a, 'b>(
    value: &'b DeValue<'a>,
) -> impl Iterator<Item = (&'b Spanned<std::borrow::Cow<'a, str>>, &'b Spanned<DeValue<'a>>)> {
    table(value).into_iter().flat_map(|table| table.iter())
}

/// The lowest clock of the lock in this profile.
fn lowest(profile: &DeValue<'_>) -> Option<u32> {
    let (_, lock) = entries(profile).find(|(key, _)| key.get_ref() == CORE)?;
    let first = lock.get_ref().as_array().and_then(|both| both.first()).map_or(lock.get_ref(), Spanned::get_ref);
    if let DeValue::Integer(low) = first { u32::from_str_radix(low.as_str(), low.radix()).ok() } else { None }
}

fn lines(content: &[(String, String)]) -> String {
    content.iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
}

/// The line around a place, with its newline.
fn line(text: &str, at: usize) -> Range<usize> {
    let start = text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
    let end = text.get(at..).and_then(|after| after.find('\n')).map_or(text.len(), |newline| at + newline + 1);
    start..end
}

/// A key as TOML takes it.
fn quoted(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(bare) {
        return name.to_owned();
    }
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Nothing else has become another, and the profile is what it is to be.
fn is_only(name: &str, base: Option<&str>, tuned: Tuned, before: &Config, after: &Config) -> bool {
    let rest = |config: &Config| Config { gpus: GpuConfig::default(), ..config.clone() };
    let others = |config: &Config| -> Vec<Profile> {
        config.gpus.profiles.iter().filter(|profile| profile.name != name).cloned().collect()
    };
    let gpus = |config: &Config| {
        let GpuConfig { probation, start, helper, library, .. } = config.gpus.clone();
        (probation, start, helper, library)
    };
    let base = base.and_then(|base| before.gpus.named_profile(base)).cloned().unwrap_or_default();
    let low = base.core_lock.map_or(Megahertz(LOWEST), |(low, _)| low);
    let core_lock = tuned.core.map(Megahertz).map(|high| (low.min(high), high)).or(base.core_lock);
    let memory_lock = tuned.memory.map(Megahertz).map(|clock| (clock, clock)).or(base.memory_lock);
    let power_limit = Some(Limit::Power(Milliwatts(tuned.watts.saturating_mul(1000))));
    let wanted = Profile { name: name.to_owned(), power_limit, core_lock, memory_lock, ..base };
    rest(before) == rest(after)
        && others(before) == others(after)
        && gpus(before) == gpus(after)
        && after.gpus.named_profile(name) == Some(&wanted)
}

/// Puts the new text into the place of the old one, which is kept beside it.
fn put(path: &Path, before: &str, after: &str) -> anyhow::Result<PathBuf> {
    // Of a link, what it leads to.
    let path = fs::canonicalize(path)?;
    let like = fs::metadata(&path)?;
    let beside = |ending: &str| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(ending);
        path.with_file_name(name)
    };
    let old = beside(".old");
    let same = || match fs::read_to_string(&path) {
        Ok(now) if now != before => Err(std::io::Error::other("somebody else has changed it meanwhile")),
        read => read.map(drop),
    };
    for (text, place) in [(before, &old), (after, &path)] {
        let new = beside(".new");
        let done = same().and_then(|()| whole(&new, text, &like)).and_then(|()| same());
        let done = done.and_then(|()| fs::rename(&new, place));
        if done.is_err() {
            // It may not even be there.
            let _ = fs::remove_file(&new);
        }
        done.with_context(|| format!("could not write {}", place.display()))?;
    }
    let folder = path.parent().context("a file is in a folder")?;
    File::open(folder)?.sync_all().with_context(|| format!("could not write {}", folder.display()))?;
    Ok(old)
}

/// A file with this text on the disk, for those who may read the other one.
fn whole(path: &Path, text: &str, like: &fs::Metadata) -> std::io::Result<()> {
    // One that was left over may be another's, or a link.
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    // Whoever may write here and is not root keeps it for himself.
    if fchown(&file, Some(like.uid()), Some(like.gid())).is_ok() {
        file.set_permissions(Permissions::from_mode(like.mode() & 0o7777))?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests;
