//! What a tenant's payload has in its private folder goes before it is started again, and before anybody else has its GPUs, however
//! it came to rest: in a change of hands, by a person, by itself, with its manifest, or with the rig.
//!
//! A folder stands in the journal before the payload is started, and until the folder is gone. In between a payload that is at rest
//! is not planned for, and its GPUs are nobody's. What could not be removed is tried again with each plan.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use log::warn;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::look::rests;
use super::wipe::wipe;
use super::{Arbiter, Moment};
use crate::clock;
use crate::payload::deserted;

/// Folders of one payload: as often may its manifest name another one while it runs.
const FOLDERS: usize = 8;

/// What a tenant leaves, or may have left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Left {
    /// To be removed, each whole.
    pub folders: Vec<PathBuf>,
    /// Nobody's until then, by UUID.
    pub gpus: Vec<String>,
}

impl Left {
    /// It has these GPUs and this folder now; whether that is news.
    fn take(&mut self, folder: &Path, gpus: &[String]) -> bool {
        let mut is_new = false;
        // What is being started does not show its GPUs yet.
        if !gpus.is_empty() && self.gpus != gpus {
            (self.gpus, is_new) = (gpus.to_vec(), true);
        }
        if !self.folders.iter().any(|known| known == folder) {
            if self.folders.len() >= FOLDERS {
                let old = self.folders.remove(0);
                warn!("arbiter: {} is not removed: its payload has had too many since", old.display());
            }
            self.folders.push(folder.to_owned());
            is_new = true;
        }
        is_new
    }
}

/// Who removes it.
pub(super) struct Wipers {
    cgroup: Option<PathBuf>,
    busy: BTreeSet<String>,
    /// Why it could not be removed the last time, by payload.
    pub(super) failed: BTreeMap<String, String>,
    tasks: JoinSet<(String, io::Result<()>)>,
}

impl Wipers {
    /// Nobody yet; `cgroup` is the configuration's word on where payloads are.
    pub(super) fn new(cgroup: Option<PathBuf>) -> Self {
        Self { cgroup, busy: BTreeSet::new(), failed: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Whose folders one of them is done with, and how that went; none while nobody removes anything.
    pub(super) async fn next(&mut self) -> Option<(String, io::Result<()>)> {
        self.tasks.join_next().await?.ok()
    }
}

impl Arbiter {
    /// These GPUs are given to a payload that is started next: if it is a tenant's, it leaves something from now on.
    pub(super) fn leaves(&mut self, name: &str, gpus: &[String], moment: &Moment) {
        let status = moment.payloads.0.iter().find(|status| status.name == name);
        if let Some(folder) = status.and_then(|status| status.plan.as_ref()?.private.as_ref()) {
            self.kept.left.entry(name.to_owned()).or_default().take(folder, gpus);
            self.wipers.failed.remove(name);
        }
    }

    /// So does a tenant's payload that runs already, whoever has started it, and with which manifest.
    pub(super) async fn note_who_runs(&mut self, moment: &Moment) {
        let mut is_new = false;
        for status in moment.payloads.0.iter().filter(|status| !status.phase.is_at_rest()) {
            if let Some(folder) = status.plan.as_ref().and_then(|terms| terms.private.as_ref()) {
                is_new |= self.kept.left.entry(status.name.clone()).or_default().take(folder, &status.gpus);
                self.wipers.failed.remove(&status.name);
            }
        }
        if is_new {
            self.save().await;
        }
    }

    /// Removes what is left of whoever is at rest and in no change of hands; with `again` also what could not be removed before.
    pub(super) fn wipe_who_rests(&mut self, again: bool) {
        // As they are now: between this look and the withdrawal of its GPUs nobody is started.
        let payloads = Arc::clone(&self.inputs.payloads.borrow());
        let due = |name: &&String| {
            rests(&payloads.0, name)
                && (again || !self.wipers.failed.contains_key(*name))
                && !self.kept.switches.iter().any(|switch| switch.has(name))
        };
        let due: Vec<String> = self.kept.left.keys().filter(due).cloned().collect();
        for name in &due {
            if self.kept.given.remove(name).is_some() {
                self.inputs.desk.set_given(self.kept.given.clone());
            }
            self.wipe(name);
        }
    }

    /// Removes it, unless somebody does already.
    pub(super) fn wipe(&mut self, name: &str) {
        let payloads = Arc::clone(&self.inputs.payloads.borrow());
        let status = payloads.0.iter().find(|status| status.name == name);
        let Some(left) = self.kept.left.get(name) else { return };
        if !self.wipers.busy.insert(name.to_owned()) {
            return;
        }
        let (name, folders, is_known) = (name.to_owned(), left.folders.clone(), status.is_some());
        let (cgroup, number) = (self.wipers.cgroup.clone(), clock::since_boot().as_nanos());
        let number = u64::try_from(number).unwrap_or(0);
        self.wipers.tasks.spawn_blocking(move || {
            if !is_known && !deserted(cgroup.as_deref(), &name) {
                return (name, Err(io::Error::other("it may still run, and has no manifest that can be read")));
            }
            let done = folders.iter().try_for_each(|folder| wipe(folder, number));
            (name, done)
        });
    }

    /// One of those who remove is done.
    pub(super) async fn wiped(&mut self, name: String, done: io::Result<()>) {
        self.wipers.busy.remove(&name);
        match done {
            Ok(()) => {
                self.wipers.failed.remove(&name);
                self.kept.left.remove(&name);
                // Not before it is planned for again: the next agent would remove what it leaves then.
                self.save().await;
            }
            Err(error) => {
                let why = error.to_string();
                if self.wipers.failed.get(&name) != Some(&why) {
                    warn!("arbiter: payload {name}: what is private of it could not be removed: {why}");
                }
                self.wipers.failed.insert(name, why);
            }
        }
    }
}

#[cfg(test)]
mod tests;
