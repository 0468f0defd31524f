//! Held back for the rig's sake, and free again.

use log::{info, warn};

use super::super::super::hold::{By, Hold, ask, waits};
use super::super::super::lifecycle::{Event, Phase};
use super::super::super::meter::Flag;
use super::super::super::record::Survives;
use super::Worker;

/// An API that does not let its payload go on is asked so often, each time for as long as an API may take.
const ASKED: usize = 3;

impl Worker {
    /// Said by control.
    pub(super) async fn held_back(&mut self, hold: Hold) {
        if hold != self.state.hold {
            info!("payload {}: is {hold}", self.manifest.name);
        }
        self.event(Event::Hold(hold)).await;
    }

    /// Makes it rest, by the mildest means that works.
    pub(super) async fn pause(&mut self) -> Option<Event> {
        // On record before it is done: an agent that dies in between is followed by one that does it again, and ends it in time.
        self.save(Survives::Agent).await;
        // Nobody looks at what rests. A probe that runs in its cgroup ends with this.
        self.stop_listening();
        (self.status.sample, self.status.belief) = (None, Flag::Unknown);
        let name = &self.manifest.name;
        let said = ask(&self.manifest, true).await;
        let process = self.process.as_ref()?;
        let by = match said {
            Some(Ok(())) => Ok(By::Api),
            Some(Err(why)) => {
                warn!("payload {name}: its API does not pause it, it is frozen: {why}");
                process.freeze().await
            }
            None => process.freeze().await,
        };
        match by {
            Ok(by) => {
                if by == By::Signal {
                    warn!("payload {name}: paused {by}: there is no freezer, and what has left its session goes on");
                } else {
                    info!("payload {name}: paused, {by}");
                }
                self.status.paused = Some(by);
                None
            }
            Err(error) => {
                warn!("payload {name}: cannot be paused: {error}; drained");
                Some(Event::NotPaused)
            }
        }
    }

    /// Lets it go on. One that does not is started again: it is never left at rest.
    pub(super) async fn resume(&mut self) -> Option<Event> {
        let by = self.status.paused.take();
        self.listen();
        let name = &self.manifest.name;
        let process = self.process.as_ref()?;
        let done = match by {
            Some(By::Api) => self.go_on().await,
            Some(by) => process.thaw(by).map_err(|error| error.to_string()),
            None => Ok(()),
        };
        if by.is_some_and(|by| by != By::Api) {
            // It may have heard the API's word all the same, after we had stopped waiting. One that has not is told nothing new.
            let _ = ask(&self.manifest, false).await;
        }
        match done {
            Ok(()) => {
                info!("payload {name}: goes on");
                None
            }
            Err(why) => {
                warn!("payload {name}: does not go on: {why}; started again");
                Some(Event::NotResumed)
            }
        }
    }

    async fn go_on(&self) -> Result<(), String> {
        let mut last = "its manifest names no API any more".to_owned();
        for _ in 0..ASKED {
            match ask(&self.manifest, false).await {
                Some(Ok(())) => return Ok(()),
                Some(Err(why)) => last = why,
                None => break,
            }
        }
        Err(last)
    }

    /// It was told to end, or has ended: what stopped it must not keep it, nor what comes after it.
    pub(super) fn unpause(&mut self) {
        let Some(by) = self.status.paused.take() else { return };
        if let Some(Err(error)) = self.process.as_ref().map(|process| process.thaw(by)) {
            // Its session is gone with it.
            log::debug!("payload {}: could not be let go on: {error}", self.manifest.name);
        }
    }

    /// Why it was killed depends on who asked.
    pub(super) fn kill(&self) {
        let name = &self.manifest.name;
        if self.state.hold == Hold::Stop {
            warn!("payload {name}: killed, it is {}", Hold::Stop);
        } else {
            warn!("payload {name}: does not end, killed");
        }
        if let Some(process) = &self.process {
            process.kill();
        }
    }

    /// Says why it does not run, while it is held back.
    pub(super) fn explain(&mut self) {
        let is_ours =
            |error: &String| [Hold::Pause, Hold::Drain, Hold::Stop].into_iter().any(|hold| *error == waits(hold));
        if self.state.phase == Phase::Waiting {
            self.status.error = Some(waits(self.state.hold));
        } else if self.status.error.as_ref().is_some_and(is_ours) {
            self.status.error = None;
        }
    }
}
