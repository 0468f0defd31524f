//! From the wish to run to a process.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use log::{debug, info, warn};

use super::super::super::Grant;
use super::super::super::lifecycle::Event;
use super::super::super::log::Keeper;
use super::super::super::prepare::prepare;
use super::super::super::process::{NotStarted, Process};
use super::super::super::record::{Record, Survives};
use super::super::super::sandbox::LayerSet;
use super::{LAST_WORDS, Worker};

/// For a child that was killed to be gone. It is a matter of milliseconds where the machine has time for it.
const GONE: Duration = Duration::from_secs(2);

impl Worker {
    /// Starts it, and tells how that went.
    pub(super) async fn spawn(&mut self) -> Event {
        match self.start().await {
            Ok(process) => {
                let layers = process.known.layers;
                info!("payload {}: started, process {}", self.manifest.name, process.known.pid);
                if layers.missing != LayerSet::NONE && layers != self.status.layers {
                    warn!("payload {}: runs without these layers: {}", self.manifest.name, layers.missing);
                }
                (self.status.layers, self.status.error, self.status.sample) = (layers, None, None);
                self.status.profile.clone_from(&self.manifest.gpus.profile);
                self.process = Some(process);
                self.listen();
                Event::Spawned
            }
            Err(NotStarted { text, lasting }) => {
                warn!("payload {}: not started: {text}", self.manifest.name);
                (self.status.error, self.prepared) = (Some(text), None);
                Event::NotSpawned { lasting }
            }
        }
    }

    async fn start(&mut self) -> Result<Process, NotStarted> {
        let name = self.manifest.name.clone();
        if self.empty.is_none() && self.site.group(&name).is_some_and(|group| group.populated()) {
            // Two on one card are worse than none.
            let text = "something of its last run cannot be killed".to_owned();
            return Err(NotStarted { text, lasting: false });
        }
        if std::mem::take(&mut self.regrant) {
            // What was made ready names the GPUs of before.
            (self.grant, self.prepared) = (None, None);
        }
        let grant = match &self.grant {
            Some(grant) => grant.clone(),
            None => self.hooks.grant(&self.manifest).map_err(|no| NotStarted { text: no.why, lasting: no.lasting })?,
        };
        if grant.gpus.len() < usize::from(self.manifest.gpus.count) {
            let text = format!("was given {} of {} GPUs", grant.gpus.len(), self.manifest.gpus.count);
            return Err(NotStarted { text, lasting: true });
        }
        self.grant = Some(grant.clone());
        let kept = self.keeper.as_ref().is_some_and(Keeper::works);
        if kept && self.prepared.is_some() && self.manifest.container.is_none() {
            match self.launch(&grant).await {
                Ok(process) => return Ok(process),
                // Its directory or program may have been replaced since.
                Err(error) => debug!("payload {name}: {}; once more from the beginning", error.text),
            }
            // That child may be on its way out still. A group that was killed is made anew when nobody is in it, and kills whoever is
            // started in it before that (`spawn.rs`).
            if let Some(group) = self.site.group(&name) {
                let _ = group.emptied(GONE).await;
            }
        }
        self.site.make_home(&name)?;
        let output = self.output().await?;
        let prepared = prepare(&self.site, &self.manifest, &grant, output)?;
        if !prepared.unlimited.is_empty() && self.status.unlimited != prepared.unlimited {
            warn!("payload {name}: limits that do not hold here: {}", prepared.unlimited.join(", "));
        }
        self.status.unlimited.clone_from(&prepared.unlimited);
        self.prepared = Some(prepared);
        // Its cgroup may be a new one, which counts from the beginning.
        self.empty = None;
        self.launch(&grant).await
    }

    /// Starts what was made ready.
    async fn launch(&self, grant: &Grant) -> Result<Process, NotStarted> {
        let Some(prepared) = &self.prepared else {
            return Err(NotStarted { text: "was not made ready".to_owned(), lasting: false });
        };
        let grant = grant.clone();
        let record = Record { grant, ..self.record() };
        let write_down = |known| self.shelf.save(&Record { process: Some(known), ..record }, Survives::Agent);
        Process::start(&prepared.launch, self.site.group(&self.manifest.name), self.empty, write_down).await
    }

    /// Where its output goes: to a keeper that works, or nowhere.
    async fn output(&mut self) -> Result<OwnedFd, NotStarted> {
        let name = self.manifest.name.clone();
        if !self.keeper.as_ref().is_some_and(Keeper::works) {
            self.hold(None);
            let group = self.site.log_group(&name);
            if let Some(group) = group.as_ref().filter(|group| group.populated())
                && group.emptied(LAST_WORDS).await.is_err()
            {
                // That of an earlier agent still waits for somebody who has its pipe and is not in the payload's cgroup.
                let _ = group.kill();
                let _ = group.emptied(LAST_WORDS).await;
                // In a group that was killed nobody can be started (`spawn.rs`).
                group.remove();
            }
            let group = group.and_then(|group| group.make().ok());
            match self.ring.keep(group.as_ref()) {
                Ok(keeper) => self.hold(Some(keeper)),
                Err(error) => warn!("payload {name}: there is no log of it: {error}"),
            }
        }
        let writer = self.keeper.as_ref().and_then(|keeper| keeper.writer.try_clone().ok());
        let nowhere = || File::options().write(true).open("/dev/null").map(OwnedFd::from);
        writer
            .map_or_else(nowhere, Ok)
            .map_err(|error| NotStarted { text: format!("/dev/null: {error}"), lasting: false })
    }
}
