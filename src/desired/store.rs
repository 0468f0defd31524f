//! The last good desired state on disk, as the frame that it came in: it is verified again when it is read, so that whoever can
//! write the file can still order nothing. With it the highest revision ever taken, so that an older one stays old.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::command::trust::Trust;
use crate::command::verify::{self, Me, Received, Refused};
use crate::wire::Desired;
use crate::{compact, framed};

const FILE: &str = "desired.bin";
const NEW: &str = "desired.new";
/// A frame of 64 KiB, its topic and what is around them.
const LARGEST: u64 = 128 * 1024;

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The highest revision ever taken.
    pub revision: u64,
    /// The topic that the frame came by.
    pub topic: String,
    /// The frame; empty where there is none.
    pub frame: Vec<u8>,
}

/// The file.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// The one in this state directory.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// What is kept; nothing where there is no file.
    ///
    /// # Errors
    /// What the system says, or that the file is damaged. The rig goes on without a desired state then, and which revision the
    /// next one must be above is not known: an old one that a broker kept could come back until the next good one is taken.
    pub fn load(&self) -> io::Result<Kept> {
        let path = self.directory.join(FILE);
        match fs::metadata(&path) {
            Ok(found) if found.len() > LARGEST => {
                return Err(io::Error::other(format!("longer than {LARGEST} bytes, which nothing of ours is")));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
            Err(error) => return Err(error),
        }
        let bytes = fs::read(&path)?;
        let damaged = || io::Error::other("the last desired state is damaged");
        let (body, _) = framed::next(&bytes).ok_or_else(damaged)?;
        postcard::from_bytes(body).map_err(|_| damaged())
    }

    /// Keeps this; it is on the disk when this returns.
    ///
    /// # Errors
    /// What the system says; the old one is there then.
    pub fn save(&self, kept: &Kept) -> io::Result<()> {
        let body = compact::write(kept).map_err(io::Error::other)?;
        let new = self.directory.join(NEW);
        let mut file = File::create(&new)?;
        file.write_all(&framed::frame(&body))?;
        file.sync_all()?;
        fs::rename(&new, self.directory.join(FILE))?;
        File::open(&self.directory)?.sync_all()
    }
}

impl Kept {
    /// The state, where the frame is still one that this rig believes: its key may have been revoked since.
    ///
    /// # Errors
    /// Why it is not; then there is no desired state, and the revision stays.
    pub fn desired(&self, trust: &Trust, me: &Me) -> Result<Option<Desired>, Refused> {
        if self.frame.is_empty() {
            return Ok(None);
        }
        let received = Received { topic: &self.topic, frame: &self.frame, retained: true };
        verify::desired(&received, trust, me, None, false).map(|(desired, _)| Some(desired))
    }
}
