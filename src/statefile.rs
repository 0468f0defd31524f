//! A small JSON file in the state directory: whole or not at all.
//!
//! Writing is a file beside it, fsync, rename, fsync of the directory: a power cut at any instant leaves the old file or
//! the new one. A file that cannot be read or understood never stops a start: it is put aside under another name, for
//! whoever wants to look, and reported.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use log::warn;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One such file.
#[derive(Clone, Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    /// What is longer is not read, bytes: nothing of ours comes near.
    largest: u64,
}

impl StateFile {
    /// The file of this name, which ends in `.json`, in this directory.
    pub(crate) fn new(directory: &Path, name: &str, largest: u64) -> Self {
        Self { path: directory.join(name), largest }
    }

    /// What it holds; the default where there is none yet, or where it was damaged. `consequence` says in the warning what
    /// that means.
    pub(crate) fn load<T: DeserializeOwned + Default>(&self, consequence: &str) -> T {
        match self.read() {
            Ok(kept) => kept,
            Err(error) if error.kind() == io::ErrorKind::NotFound => T::default(),
            Err(error) => {
                let aside = self.path.with_extension("json.bad");
                // The one that was put aside before goes: one is kept, so that they do not fill the disk.
                let put = match fs::rename(&self.path, &aside) {
                    Ok(()) => format!("it is kept as {}", aside.display()),
                    Err(error) => format!("it could not be put aside: {error}"),
                };
                warn!("{}: {error}; {consequence}; {put}", self.path.display());
                T::default()
            }
        }
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// What the system says; the old file is there then.
    pub(crate) fn save<T: Serialize>(&self, kept: &T) -> io::Result<()> {
        replace(&self.path, "json.new", &spread(&serde_json::to_vec(kept)?))
    }

    fn read<T: DeserializeOwned>(&self) -> io::Result<T> {
        if fs::metadata(&self.path)?.len() > self.largest {
            return Err(io::Error::other(format!("longer than {} bytes, which nothing of ours is", self.largest)));
        }
        Ok(serde_json::from_slice(&fs::read(&self.path)?)?)
    }
}

/// JSON without spaces, a value a line, as `serde_json::to_vec_pretty` has it: that would be a second writer for everything that is
/// kept.
fn spread(json: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(2 * json.len());
    let (mut depth, mut text, mut escaped) = (0_usize, false, false);
    let break_line = |lines: &mut Vec<u8>, depth: usize| {
        lines.push(b'\n');
        lines.resize(lines.len() + 2 * depth, b' ');
    };
    for (at, byte) in json.iter().copied().enumerate() {
        let before = at.checked_sub(1).and_then(|before| json.get(before));
        // An empty list or table stays together.
        match byte {
            b'}' | b']' if !text => {
                depth = depth.saturating_sub(1);
                if !matches!(before, Some(b'{' | b'[')) {
                    break_line(&mut lines, depth);
                }
            }
            _ if !text && matches!(before, Some(b'{' | b'[' | b',')) => break_line(&mut lines, depth),
            _ => {}
        }
        lines.push(byte);
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => text = !text,
            b'{' | b'[' if !text => depth += 1,
            b':' if !text => lines.push(b' '),
            _ => {}
        }
    }
    lines
}

/// Puts these bytes into the place of a file, in one step: a power cut leaves the old file or the new one. They are written beside
/// it first, under its name with this extension.
///
/// # Errors
/// What the system says; the old file is there then.
pub(crate) fn replace(path: &Path, extension: &str, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension(extension);
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i32>().prop_map(Value::from),
            "[a\"\\\\{}\\[\\]:, \n]{0,9}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("[a\"\\\\{}:,]{0,4}", inner, 0..5).prop_map(|table| json!(table)),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_file_is_as_serde_json_lays_it_out(value in any_json()) {
            prop_assert_eq!(spread(&serde_json::to_vec(&value).unwrap()), serde_json::to_vec_pretty(&value).unwrap());
        }
    }
}
