//! A clean stop: what waits goes out, then the last word, then the connection ends; each for a bounded time.

use std::time::Duration;

use log::debug;
use tokio::time::timeout;

use super::Publisher;
use crate::wire::{Online, Reason};

/// How long a clean stop waits for the broker: for what still waits, for the last word, and for the disconnect itself.
const FAREWELL: [Duration; 3] = [Duration::from_millis(1_200), Duration::from_millis(500), Duration::from_millis(300)];

impl Publisher {
    /// What still waits, then that the rig stops on purpose, then the end of the connection: each for a bounded time, and
    /// the last in any case, so that the broker does not call a rig lost that left.
    pub(super) async fn farewell(&mut self) {
        let Some(up) = self.up else { return };
        let [backlog, word, end] = FAREWELL;
        self.paused = false;
        self.feed();
        let _ = timeout(backlog, self.until(|this| this.outbox.idle())).await;
        self.say(&Online { online: false, connection: up.connection, reason: Reason::Stopped });
        self.feed();
        let said = timeout(word, self.until(|this| this.state.is_empty() && this.on_the_way() == 0)).await;
        // Where the channel is full the link is stuck, and its end is the process's.
        if self.client.leave() {
            // Its last report is that it is down.
            let _ = timeout(end, self.until(|this| this.up.is_none())).await;
        }
        if said.is_err() {
            debug!("the broker did not take the last words in time");
        }
    }

    /// Takes reports in until something is so, or the link is down.
    async fn until(&mut self, good: impl Fn(&mut Self) -> bool) {
        while self.up.is_some() && !good(self) {
            let Some(report) = self.reports.recv().await else { return };
            self.report(report);
            self.feed();
        }
    }
}
