//! The thread that owns the disk: a stick that dies hangs it for minutes, and nothing else.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use tokio::sync::mpsc;

use super::disk::{Answer, Disk, Job};
use super::files::Real;

/// The other end of that thread. One job is under way at most; it ends with this.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) jobs: SyncSender<Job>,
    pub(super) answers: mpsc::Receiver<Answer>,
}

impl Worker {
    pub(super) fn start(root: PathBuf) -> io::Result<Self> {
        let (jobs, todo) = sync_channel(1);
        let (done, answers) = mpsc::channel(1);
        thread::Builder::new().name("outbox".to_owned()).spawn(move || {
            let mut disk = Disk::new(Real::default(), root);
            while let Ok(job) = todo.recv() {
                if done.blocking_send(disk.execute(job)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { jobs, answers })
    }
}
