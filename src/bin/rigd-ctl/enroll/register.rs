//! What an authority has signed, and what of it holds no more: two files beside its key, a line for each certificate.
//!
//! ```text
//! rigs-issued    SERIAL NAME            everything that was ever signed
//! rigs-revoked   SERIAL NAME UNIX_S     and since when it does not hold
//! ```

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::authority::{Serial, Side};
use super::{open, put, text};

fn file(at: &Path, side: Side, what: &str) -> PathBuf {
    at.join(format!("{}-{what}", side.name()))
}

/// Notes that this is about to be signed.
///
/// # Errors
/// A file that cannot be written.
pub(super) fn issued(at: &Path, side: Side, name: &str, serial: Serial) -> anyhow::Result<()> {
    append(&file(at, side, "issued"), &format!("{serial} {name}\n"))
}

fn append(path: &Path, lines: &str) -> anyhow::Result<()> {
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    let written = opened.and_then(|mut file| file.write_all(lines.as_bytes()).and_then(|()| file.sync_all()));
    written.with_context(|| format!("{}: could not be written", path.display()))
}

/// Revokes all certificates of this name that are not revoked yet, and writes the list for the broker into `out`.
///
/// # Errors
/// A name under which nothing was ever signed; files.
pub(super) fn revoke(at: &Path, name: &str, out: &Path, now_s: u64) -> anyhow::Result<String> {
    // No rig's name has a dot.
    let side = if name.starts_with("ctl.") { Side::Control } else { Side::Rigs };
    let authority = open(at, side)?;
    let all = read(&file(at, side, "issued"))?;
    let before = read(&file(at, side, "revoked"))?;
    let known = |serial: Serial| before.iter().any(|line| line.serial == serial);
    let named: Vec<&Line> = all.iter().filter(|line| line.name == name).collect();
    if named.is_empty() {
        bail!("nothing was ever signed for {} here", crate::people::harmless(name));
    }
    let new: Vec<Line> = named
        .into_iter()
        .filter(|line| !known(line.serial))
        .map(|line| Line { since_s: now_s, ..line.clone() })
        .collect();
    let lines: String = new.iter().map(|line| format!("{} {} {now_s}\n", line.serial, line.name)).collect();
    append(&file(at, side, "revoked"), &lines)?;
    let revoked: Vec<(Serial, u64)> = before.iter().chain(&new).map(|line| (line.serial, line.since_s)).collect();
    // Rises with each list, and also where the one before was written again with nothing new.
    let list = authority.revoke(&revoked, now_s, now_s)?;
    let path = out.join(format!("{}.crl", side.name()));
    put(&path, &list)?;
    Ok(format!(
        "{} certificates of {name} revoked now, {} in all\nlist         {}\n\nThe broker takes it when `crlfile` names it: systemctl reload mosquitto\n",
        new.len(),
        revoked.len(),
        path.display()
    ))
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    serial: Serial,
    name: String,
    since_s: u64,
}

/// A file that is not there is empty; one that somebody spoilt is an error, for a certificate may be in what cannot be read.
fn read(path: &Path) -> anyhow::Result<Vec<Line>> {
    let content = match text(path) {
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::NotFound) => {
            return Ok(Vec::new());
        }
        content => content?,
    };
    let lines = content.lines().enumerate();
    lines
        .map(|(at, line)| parse(line).with_context(|| format!("{}:{}: not understood", path.display(), at + 1)))
        .collect()
}

fn parse(line: &str) -> Option<Line> {
    let mut words = line.split(' ');
    let serial = Serial::parse(words.next()?)?;
    let name = words.next()?.to_owned();
    let since_s = words.next().map_or(Some(0), |since| since.parse().ok())?;
    words.next().is_none().then_some(Line { serial, name, since_s })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_and_a_spoilt_one_is_told() {
        let serial = Serial::new([7; 16]);
        let line = |since_s| Some(Line { serial, name: "rig-7".to_owned(), since_s });
        for (text, expected) in [
            (format!("{serial} rig-7"), line(0)),
            (format!("{serial} rig-7 5"), line(5)),
            (format!("{serial} rig-7 x"), None),
            (format!("{serial}"), None),
            ("rig-7 5".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(parse(&text), expected, "{text}");
        }
        assert_eq!(read(Path::new("/nonexistent/rigs-issued")).unwrap(), []);
    }
}
