//! The audit log's own thread: whoever has something to write down never waits for the disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use log::warn;
use tokio::sync::watch;

use super::{Audit, Entry, Head, START, Who};
use crate::clock;

/// Entries that wait for the disk. One more is not written, and the next one that is says how many were not.
const WAITING: usize = 256;
/// An entry is written at once, and waits so long for others before the disk is waited for: a command makes two, and its own
/// journal, which it waits for, is on the same disk. A power cut costs what was done in that time, a killed agent nothing.
const TOGETHER: Duration = Duration::from_millis(100);
/// It opens files and hashes records; little is on its stack.
const STACK: usize = 256 * 1024;

/// A way to the log.
#[derive(Clone, Debug)]
pub struct Writer {
    entries: std::sync::mpsc::SyncSender<(Entry, u64)>,
    missed: Arc<AtomicU64>,
    head: watch::Receiver<Head>,
    boot: u32,
}

impl Writer {
    /// Starts the thread over the log in this directory, which is made where there is none. Where the log cannot be opened or
    /// written that is told once, and what was to be written is counted.
    #[must_use]
    pub fn start(directory: PathBuf, boot: u32) -> Self {
        let (entries, inbox) = std::sync::mpsc::sync_channel::<(Entry, u64)>(WAITING);
        let (tell, head) = watch::channel(START);
        let work = move || {
            let mut log = None;
            let mut told = false;
            let mut lost = 0;
            // Its end is told before there is something to add to it; where it cannot be opened, the first entry says why.
            if let Ok(log) = open(&mut log, &directory) {
                tell.send_replace(log.head());
            }
            while let Ok(first) = inbox.recv() {
                let until = clock::now() + TOGETHER;
                let (mut next, mut outcome) = (Some(first), Ok(None));
                while let Some((entry, missed)) = next {
                    lost += missed;
                    let written = open(&mut log, &directory).and_then(|log| {
                        log.missed = log.missed.saturating_add(std::mem::take(&mut lost));
                        log.append_unsynced(entry)
                    });
                    if written.is_err() && log.is_none() {
                        lost += 1;
                    }
                    outcome = written.map(Some);
                    next = inbox.recv_timeout(until.saturating_duration_since(clock::now())).ok();
                }
                // The end of the chain is told once no power cut can take it back.
                let synced = outcome.and_then(|head| log.as_ref().map_or(Ok(()), Audit::sync).map(|()| head));
                match synced {
                    Ok(head) => {
                        told = false;
                        if let Some(head) = head {
                            tell.send_replace(head);
                        }
                    }
                    Err(error) => {
                        if !told {
                            warn!("audit: {}: {error}; what is done now is not written down", directory.display());
                        }
                        told = true;
                    }
                }
            }
        };
        if let Err(error) = thread::Builder::new().name("audit".to_owned()).stack_size(STACK).spawn(work) {
            warn!("audit: no thread: {error}");
        }
        Self { entries, missed: Arc::default(), head, boot }
    }

    /// One that nobody reads, for tests of whoever writes.
    #[cfg(test)]
    pub(crate) fn to_nobody() -> Self {
        let (entries, _) = std::sync::mpsc::sync_channel(1);
        Self { entries, missed: Arc::default(), head: watch::channel(START).1, boot: 0 }
    }

    /// Writes something down; returns at once.
    pub fn note(&self, who: Who, what: impl Into<String>, outcome: impl Into<String>) {
        let entry = Entry { at_ms: clock::unix_ms(), boot: self.boot, who, what: what.into(), outcome: outcome.into() };
        let missed = self.missed.swap(0, Ordering::Relaxed);
        if self.entries.try_send((entry, missed)).is_err() {
            self.missed.fetch_add(missed + 1, Ordering::Relaxed);
        }
    }

    /// The end of the chain, for whoever keeps it elsewhere.
    #[must_use]
    pub fn head(&self) -> Head {
        *self.head.borrow()
    }
}

/// The log, opened where it is not yet.
fn open<'a>(log: &'a mut Option<Audit>, directory: &std::path::Path) -> std::io::Result<&'a mut Audit> {
    if log.is_none() {
        std::fs::create_dir_all(directory)?;
        let (opened, cut) = Audit::open(directory)?;
        if cut > 0 {
            warn!("audit: {cut} bytes of a record that was being written were cut off");
        }
        *log = Some(opened);
    }
    log.as_mut().ok_or_else(|| std::io::Error::other("not open"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::verify;
    use crate::scratch::Scratch;

    #[test]
    fn what_is_noted_is_in_the_chain_and_what_could_not_be_is_counted() {
        let scratch = Scratch::new("audit-writer");
        let directory = scratch.join("audit");
        // A file where the directory should be: nothing can be written.
        std::fs::write(&directory, "").unwrap();
        let writer = Writer::start(directory.clone(), 7);
        writer.note(Who::Control, "first", "lost");
        let wait = |good: &dyn Fn() -> bool| {
            let deadline = clock::now() + std::time::Duration::from_secs(20);
            while !good() {
                assert!(clock::now() < deadline, "waited in vain");
                thread::yield_now();
            }
        };
        // The thread tries it before the file is gone, or after: then it is written.
        std::fs::remove_file(&directory).unwrap();
        writer.note(Who::Local { uid: 0 }, "second", "done");
        wait(&|| writer.head().n >= 1);
        writer.note(Who::Config, "third", "done");
        let read = || {
            let mut found = Vec::new();
            let report = verify(&directory, |record| found.push((record.entry.what.clone(), record.missed))).unwrap();
            (report, found)
        };
        let told = |found: &[(String, u64)]| {
            found.len() + usize::try_from(found.iter().map(|(_, missed)| missed).sum::<u64>()).unwrap()
        };
        // They may be written together, and the end of the chain is told once they are on the disk.
        wait(&|| told(&read().1) == 3 && writer.head().n == read().0.head.n);
        let (report, found) = read();
        assert_eq!((report.broken, report.head.n), (None, u64::try_from(found.len()).unwrap()));
    }
}
