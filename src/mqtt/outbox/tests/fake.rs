//! A file system in memory that knows what a power cut leaves.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::super::disk::Files;

#[derive(Clone, Debug, Default)]
struct Inode {
    now: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
pub(in super::super) struct Fake {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    /// As of the last sync of the directory.
    synced_names: BTreeMap<PathBuf, usize>,
    /// Operations that change something, so far.
    pub(in super::super) changes: usize,
    /// The power goes in the middle of this one.
    pub(in super::super) cut_at: Option<usize>,
    /// What each attempt to change something says.
    pub(in super::super) refuses: Option<io::ErrorKind>,
    /// What each attempt to read a file says.
    pub(in super::super) unreadable: Option<io::ErrorKind>,
    pub(in super::super) writes: usize,
    pub(in super::super) syncs: usize,
    pub(in super::super) bytes: usize,
}

impl Fake {
    pub(in super::super) fn that(refuses: Option<io::ErrorKind>, cut_at: Option<usize>) -> Self {
        Self { refuses, cut_at, ..Self::default() }
    }

    fn change(&mut self) -> io::Result<bool> {
        if let Some(kind) = self.refuses {
            return Err(kind.into());
        }
        self.changes += 1;
        match self.cut_at {
            Some(cut) if self.changes > cut + 1 => Err(io::ErrorKind::BrokenPipe.into()),
            Some(cut) => Ok(self.changes == cut + 1),
            None => Ok(false),
        }
    }

    fn inode(&mut self, path: &Path) -> io::Result<&mut Inode> {
        let index = *self.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(&mut self.inodes[index])
    }

    /// What the next start finds: all that was written, or only what was synced.
    pub(in super::super) fn after_the_cut(&self, everything: bool) -> Self {
        let mut left = Self::default();
        for (path, index) in if everything { &self.names } else { &self.synced_names } {
            let inode = &self.inodes[*index];
            let bytes = if everything { inode.now.clone() } else { inode.synced.clone() };
            left.names.insert(path.clone(), left.inodes.len());
            left.inodes.push(Inode { now: bytes.clone(), synced: bytes });
        }
        left.synced_names = left.names.clone();
        left
    }

    /// Names and lengths.
    pub(in super::super) fn files(&self) -> BTreeMap<PathBuf, usize> {
        self.names.iter().map(|(path, index)| (path.clone(), self.inodes[*index].now.len())).collect()
    }

    pub(in super::super) fn file(&mut self, path: &str) -> &mut Vec<u8> {
        &mut self.inode(Path::new(path)).unwrap().now
    }
}

impl Files for Fake {
    fn make(&mut self, _: &Path) -> io::Result<()> {
        self.refuses.map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn lock(&mut self, _: &Path) -> io::Result<bool> {
        Ok(true)
    }

    fn list(&mut self, directory: &Path) -> io::Result<Vec<String>> {
        let inside = self.names.keys().filter(|path| path.parent() == Some(directory));
        Ok(inside.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    }

    fn read(&mut self, path: &Path, from: u64, most: usize) -> io::Result<Vec<u8>> {
        if let Some(kind) = self.unreadable {
            return Err(kind.into());
        }
        let bytes = &self.inode(path)?.now;
        let from = usize::try_from(from).unwrap().min(bytes.len());
        Ok(bytes[from..bytes.len().min(from + most)].to_vec())
    }

    fn write(&mut self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
        let torn = self.change()?;
        self.writes += 1;
        self.bytes += bytes.len();
        if !self.names.contains_key(path) {
            self.names.insert(path.to_owned(), self.inodes.len());
            self.inodes.push(Inode::default());
        }
        let inode = self.inode(path)?;
        inode.now.truncate(usize::try_from(at).unwrap());
        inode.now.extend(if torn { &bytes[..bytes.len() / 2] } else { bytes });
        if torn { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }

    fn sync(&mut self, path: &Path) -> io::Result<()> {
        if self.change()? {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.syncs += 1;
        let inode = self.inode(path)?;
        inode.synced = inode.now.clone();
        Ok(())
    }

    fn sync_names(&mut self, directory: &Path) -> io::Result<()> {
        if self.change()? {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.syncs += 1;
        self.synced_names.retain(|path, _| path.parent() != Some(directory));
        let inside = self.names.iter().filter(|(path, _)| path.parent() == Some(directory));
        self.synced_names.extend(inside.map(|(path, index)| (path.clone(), *index)));
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        if self.change()? {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let index = self.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.names.insert(to.to_owned(), index);
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        if self.change()? {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.names.remove(path).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
