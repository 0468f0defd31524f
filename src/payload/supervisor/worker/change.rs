//! Another manifest for a payload that may be running.

use std::sync::Arc;

use log::{debug, info, warn};

use super::super::super::Terms;
use super::super::super::lifecycle::{Event, Phase};
use super::super::super::manifest::Manifest;
use super::{Worker, rules};

impl Worker {
    /// What runs is ended as its own manifest says and started as the new one does. What was wanted and had failed is tried
    /// again, for the manifest may be why; what stands stays so, and one whose manifest was gone is as one seen for the
    /// first time. During a maintenance nothing is started for it.
    pub(super) async fn change(&mut self, manifest: Manifest) {
        info!("payload {}: has another manifest", self.manifest.name);
        let back = std::mem::take(&mut self.status.removed) && manifest.autostart && manifest.plan.is_none();
        let (event, swap_first) = match self.state.phase {
            Phase::Starting | Phase::Warming | Phase::Running | Phase::Degraded | Phase::Paused => {
                (Some(Event::Restart), false)
            }
            Phase::BackingOff { .. } => (Some(Event::Restart), true),
            Phase::Failed(_) if self.state.wanted => (Some(Event::Start), true),
            Phase::Stopped | Phase::Draining { .. } if back => (Some(Event::Start), true),
            Phase::Stopped
            | Phase::Draining { .. }
            | Phase::Failed(_)
            | Phase::Quarantined
            // What waits is started as the new one says.
            | Phase::Waiting => (None, true),
        };
        // Under somebody's hands nothing starts because a file changed.
        let event = event.filter(|event| *event != Event::Start || !self.rests());
        // What ends can do so without another word of its manifest.
        if !swap_first && let Some(event) = event {
            self.regrant = true;
            self.event(event).await;
        }
        self.swap(manifest);
        if swap_first && let Some(event) = event {
            self.event(event).await;
        }
        self.publish();
    }

    /// Somebody works at the rig: what would start by itself is started by whoever is done there.
    pub(super) fn rests(&self) -> bool {
        let rests = self.hooks.resting();
        if rests {
            info!("payload {}: is not started while somebody works at the rig", self.manifest.name);
        }
        rests
    }

    fn swap(&mut self, manifest: Manifest) {
        self.rules = rules(&manifest);
        if manifest.log != self.manifest.log {
            self.ring = self.site.ring(&manifest);
            self.let_go();
        }
        self.status.plan = Terms::of(&manifest, &self.site.home(&manifest.name)).map(Arc::new);
        (self.status.kind, self.prepared, self.regrant) = (manifest.kind, None, true);
        self.manifest = Arc::new(manifest);
    }

    /// Its manifest is gone: it is told to end, and nobody can start it any more.
    pub(super) async fn remove(&mut self) {
        warn!("payload {}: has no manifest any more", self.manifest.name);
        self.status.removed = true;
        self.event(Event::Stop).await;
        if !self.state.alive() {
            self.site.clear(&self.manifest.name);
        }
    }

    /// The rig was restarted for it.
    pub(super) async fn again(&mut self) {
        if self.state.phase == Phase::Quarantined {
            info!("payload {}: has another chance after the rig's restart", self.manifest.name);
            self.event(Event::Clear).await;
            // What is planned waits for the plan.
            if self.manifest.plan.is_none() {
                self.event(Event::Start).await;
            }
        }
    }

    /// The log of what an earlier agent has started: held on to, so that it goes on whatever becomes of who writes it down.
    pub(super) fn take_over_log(&mut self, pipe: u64) {
        let name = &self.manifest.name;
        let group = self.site.log_group(name).and_then(|group| group.make().ok());
        match self.ring.take_over(pipe, group.as_ref()) {
            Ok(keeper) => {
                if !keeper.found {
                    warn!(
                        "payload {name}: nobody has written its log down while there was no agent; it may have waited"
                    );
                }
                self.hold(Some(keeper));
            }
            // It goes on by itself. One that was started without a log has none.
            Err(error) => debug!("payload {name}: its log is left to itself: {error}"),
        }
    }

    /// Who writes its log down has ended, and it has not: another one takes up its pipe, before that is full for long.
    pub(super) async fn keep_on(&mut self) {
        self.keeping = None;
        let Some(mut keeper) = self.keeper.take() else { return };
        // Forgotten by the kernel with this.
        let _ = keeper.works();
        if self.process.is_none() {
            return;
        }
        warn!("payload {}: who writes its log down has ended; another goes on", self.manifest.name);
        // By now its second has taken its place. Whatever ends them, there are no more than five a second.
        tokio::time::sleep(super::LAST_WORDS).await;
        let group = self.site.log_group(&self.manifest.name).and_then(|group| group.make().ok());
        if let Err(error) = self.ring.go_on(&mut keeper, group.as_ref()) {
            warn!("payload {}: its log is not written down now: {error}", self.manifest.name);
            tokio::time::sleep(super::LINGER).await;
        }
        self.hold(Some(keeper));
    }
}
