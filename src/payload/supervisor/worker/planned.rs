//! Somebody's word on a payload that the rig plans for.

use log::warn;

use super::super::super::lifecycle::Event;
use super::super::super::record::Survives;
use super::Worker;

impl Worker {
    /// Somebody's word on what is planned: in the plan or out of it. Whether that is all that there is to do.
    pub(super) async fn planned(&mut self, event: Event) -> bool {
        let out = match event {
            Event::Stop | Event::Drain(_) => true,
            Event::Start | Event::Restart => false,
            Event::Clear
            | Event::Spawned
            | Event::NotSpawned { .. }
            | Event::Exited(_)
            | Event::Probe(_)
            | Event::Rate(_)
            | Event::Silent
            | Event::Hold(_)
            | Event::NotPaused
            | Event::NotResumed
            | Event::Tick => return false,
        };
        if std::mem::replace(&mut self.status.out, out) != out {
            // It survives a power cut, or the plan would start what somebody has stopped.
            if let Err(error) = self.site.make_home(&self.manifest.name) {
                warn!("payload {}: {}", self.manifest.name, error.text);
            }
            self.save(Survives::PowerCut).await;
            self.publish();
        }
        !out && !self.state.alive() && self.state.held.is_none()
    }
}
