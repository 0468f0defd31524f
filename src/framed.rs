//! A file that is only appended to, and that a power cut leaves whole up to some record.
//!
//! ```text
//! byte   0..4             4..8             8..
//!       length u32 LE    crc32 u32 LE     body           … and the next record
//! ```
//!
//! The checksum is CRC-32 (IEEE 802.3, reflected) over the length's four bytes and the body. [`scan`] reads records until the
//! first that is not whole; what comes after that was being written when the power went, and [`Framed::open`] cuts it off.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Bytes in front of each body.
pub const OVERHEAD: usize = 8;
/// Longest body; a length that says more is damage.
pub const LONGEST: usize = 1024 * 1024;

/// One record as bytes; a body over [`LONGEST`] is cut to it, which no caller's is.
#[must_use]
pub fn frame(body: &[u8]) -> Vec<u8> {
    let body = body.get(..LONGEST).unwrap_or(body);
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut record = Vec::with_capacity(OVERHEAD + body.len());
    record.extend(length);
    record.extend(checksum(length, body).to_le_bytes());
    record.extend(body);
    record
}

fn checksum(length: [u8; 4], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&length);
    crc.update(body);
    crc.finalize()
}

/// The whole records at the start of `bytes`, as their bodies, and how many bytes they take.
#[must_use]
pub fn scan(bytes: &[u8]) -> (Vec<&[u8]>, usize) {
    let mut bodies = Vec::new();
    let mut rest = bytes;
    while let Some((body, after)) = next(rest) {
        bodies.push(body);
        rest = after;
    }
    (bodies, bytes.len() - rest.len())
}

/// The first record's body and what comes after it; none where it is not whole.
#[must_use]
pub fn next(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let size = usize::try_from(u32::from_le_bytes(*length)).ok().filter(|size| *size <= LONGEST)?;
    let (body, after) = rest.split_at_checked(size)?;
    (checksum(*length, body) == u32::from_le_bytes(*crc)).then_some((body, after))
}

/// Whether a whole record, not an empty one, stands anywhere in what [`scan`] left over: then that is damage, and not the end
/// that a power cut tore. A record that somebody changed at the very end cannot be told from a torn one.
#[must_use]
pub fn follows(left: &[u8]) -> bool {
    (1..left.len()).any(|at| left.get(at..).and_then(next).is_some_and(|(body, _)| !body.is_empty()))
}

/// Every whole record, those behind damage too, where their bodies are no longer than this; an empty one only before it. Where a
/// record was changed, what follows it is found by its checksum.
#[must_use]
pub fn salvage(bytes: &[u8], longest: usize) -> Vec<&[u8]> {
    let (mut bodies, good) = scan(bytes);
    let mut rest = bytes.get(good..).unwrap_or_default();
    let short = |rest: &[u8]| {
        let length = rest.first_chunk().map(|length| u32::from_le_bytes(*length));
        length.and_then(|length| usize::try_from(length).ok()).is_some_and(|length| (1..=longest).contains(&length))
    };
    while !rest.is_empty() {
        match Some(rest).filter(|rest| short(rest)).and_then(next) {
            Some((body, after)) => {
                bodies.push(body);
                rest = after;
            }
            None => rest = rest.get(1..).unwrap_or_default(),
        }
    }
    bodies
}

/// Such a file, open to be appended to.
#[derive(Debug)]
pub struct Framed {
    file: File,
    /// Bytes of whole records.
    length: u64,
}

impl Framed {
    /// Opens or makes the file, hands each body to `each`, and cuts off what is not whole. Returns the file and how many bytes
    /// were cut.
    ///
    /// # Errors
    /// What the system says; a file longer than `largest` bytes is refused, nothing of ours comes near.
    pub fn open(path: &Path, largest: u64, mut each: impl FnMut(&[u8])) -> io::Result<(Self, u64)> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let found = file.metadata()?.len();
        if found > largest {
            return Err(io::Error::other(format!("longer than {largest} bytes, which nothing of ours is")));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (bodies, good) = scan(&bytes);
        bodies.into_iter().for_each(&mut each);
        let length = u64::try_from(good).unwrap_or(u64::MAX);
        if length < found {
            file.set_len(length)?;
            file.sync_all()?;
        }
        file.seek(SeekFrom::Start(length))?;
        if found == 0
            && let Some(directory) = path.parent()
        {
            // The name itself has to survive too.
            File::open(directory)?.sync_all()?;
        }
        Ok((Self { file, length }, found.saturating_sub(length)))
    }

    /// Appends one record; it survives a killed agent at once and a power cut after [`sync`](Self::sync).
    ///
    /// # Errors
    /// What the system says (no room, a read-only disk); then nothing of the record stays.
    pub fn append(&mut self, body: &[u8]) -> io::Result<()> {
        let record = frame(body);
        if let Err(error) = self.file.write_all(&record) {
            // Half a record would hide each one after it.
            self.cut(self.length);
            return Err(error);
        }
        self.length += u64::try_from(record.len()).unwrap_or(0);
        Ok(())
    }

    /// Appends one record and waits until the disk has it.
    ///
    /// # Errors
    /// What the system says; then nothing of the record stays. After a sync that has failed the next one says that all is well:
    /// Linux takes what it could not write for written, as PostgreSQL learnt in 2018. Only what is appended anew is written anew.
    pub fn append_synced(&mut self, body: &[u8]) -> io::Result<()> {
        let before = self.length;
        self.append(body)?;
        let synced = self.sync();
        if synced.is_err() {
            self.cut(before);
        }
        synced
    }

    /// Takes away what stands behind so many bytes; where that fails too, it is written over.
    fn cut(&mut self, length: u64) {
        self.length = length;
        let _ = self.file.set_len(length);
        let _ = self.file.seek(SeekFrom::Start(length));
    }

    /// Waits until the disk has it.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Bytes of all records.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn three() -> (Vec<Vec<u8>>, Vec<u8>) {
        let bodies = vec![b"first".to_vec(), Vec::new(), vec![0xa5; 300]];
        let bytes = bodies.iter().flat_map(|body| frame(body)).collect();
        (bodies, bytes)
    }

    fn open(path: &Path) -> (Framed, u64, Vec<Vec<u8>>) {
        let mut found = Vec::new();
        let (file, cut) = Framed::open(path, 1 << 20, |body| found.push(body.to_vec())).unwrap();
        (file, cut, found)
    }

    #[test]
    fn cut_at_any_byte_it_is_whole_up_to_there() {
        let (bodies, bytes) = three();
        for end in 0..=bytes.len() {
            let (found, good) = scan(&bytes[..end]);
            assert!(good <= end);
            assert_eq!(found, bodies.iter().take(found.len()).collect::<Vec<_>>(), "cut at {end}");
            let whole = bodies.iter().scan(0, |sum, body| {
                *sum += OVERHEAD + body.len();
                Some(*sum)
            });
            assert_eq!(found.len(), whole.filter(|whole| *whole <= end).count(), "cut at {end}");
        }
    }

    #[test]
    fn a_byte_changed_anywhere_hides_its_record_and_what_follows() {
        let (bodies, bytes) = three();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            let (found, _) = scan(&damaged);
            assert!(found.len() < bodies.len(), "byte {at}");
            assert_eq!(found, bodies.iter().take(found.len()).collect::<Vec<_>>(), "byte {at}");
        }
    }

    #[test]
    fn what_stands_behind_damage_is_found() {
        let (bodies, bytes) = three();
        let last = bodies[2].as_slice();
        for at in 0..OVERHEAD + 5 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(salvage(&damaged, 300).last(), Some(&last), "byte {at}");
            assert!(!salvage(&damaged, 299).contains(&last), "too long to be looked for");
        }
        assert_eq!(salvage(&bytes, 300), bodies.iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_torn_end_is_told_from_damage() {
        let (_, bytes) = three();
        for end in 0..bytes.len() {
            let (_, good) = scan(&bytes[..end]);
            assert!(!follows(&bytes[good..end]), "cut at {end}");
        }
        for at in 0..OVERHEAD + 5 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(follows(&damaged), "byte {at}");
        }
    }

    #[test]
    fn a_torn_end_is_cut_off_and_appending_goes_on() {
        let directory = std::env::temp_dir().join(format!("rigd-framed-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("log");
        let (bodies, bytes) = three();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let (mut file, cut, found) = open(&path);
        assert_eq!((cut, found.as_slice()), (307, &bodies[..2]));
        file.append(b"more").unwrap();
        file.sync().unwrap();
        let (_, cut, found) = open(&path);
        assert_eq!((cut, found.last().map(Vec::as_slice)), (0, Some(&b"more"[..])));
        fs::remove_dir_all(&directory).unwrap();
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let (_, good) = scan(&bytes);
            prop_assert!(good <= bytes.len());
        }
    }
}
