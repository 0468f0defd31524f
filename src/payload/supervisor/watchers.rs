//! What looks at a payload while it runs: probes and its meter. Each waits where its words are not heard.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::super::Grant;
use super::super::manifest::{Manifest, Probe};
use super::super::probe;
use super::super::process::Site;
use super::{Meter, Sample};

/// A meter that hangs is asked again after this.
const METER: Duration = Duration::from_secs(10);

/// What they have to tell.
pub(super) enum Heard {
    Probe(bool),
    Sample(Sample),
    /// Its meter gave no answer.
    Nothing,
}

/// The next word; never, where nobody looks.
pub(super) async fn hear(heard: Option<&mut mpsc::Receiver<Heard>>) -> Heard {
    match heard {
        Some(heard) => match heard.recv().await {
            Some(heard) => heard,
            None => pending().await,
        },
        None => pending().await,
    }
}

/// Probes for as long as somebody listens.
pub(super) async fn probing(
    site: Arc<Site>,
    manifest: Arc<Manifest>,
    grant: Grant,
    probe: Probe,
    tell: mpsc::Sender<Heard>,
) {
    let mut beat = interval(probe.interval);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let passed = probe::look(&site, &manifest, &grant, &probe).await;
        if tell.send(Heard::Probe(passed)).await.is_err() {
            return;
        }
    }
}

/// Reads a meter for as long as somebody listens.
pub(super) async fn metering(mut meter: Box<dyn Meter>, period: Duration, tell: mpsc::Sender<Heard>) {
    let mut beat = interval(period);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let sample = tokio::time::timeout(METER, meter.read()).await.unwrap_or(None);
        if tell.send(sample.map_or(Heard::Nothing, Heard::Sample)).await.is_err() {
            return;
        }
    }
}
