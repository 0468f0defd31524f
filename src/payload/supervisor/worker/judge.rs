//! What a payload's meter says, held against its watts and against what it should yield.

use log::{info, warn};
use tokio::task::spawn_blocking;

use super::super::super::learnt::{Learnt, mark};
use super::super::super::lifecycle::{Event, Phase};
use super::super::super::manifest::Kind;
use super::super::super::meter::{Beat, Beats, Flag};
use super::super::super::record::Survives;
use super::super::Sample;
use super::{COUNTED, Worker};
use crate::clock;
use crate::reading::Missing;
use crate::units::MilliPerSecond;

impl Worker {
    /// A run begins: nothing is known of it, and what it should yield depends on its GPUs.
    pub(super) fn begin_run(&mut self) {
        let used = self.manifest.meter.as_ref();
        let steady = self.manifest.kind == Kind::Mining;
        self.beats = used.map(|used| Beats::new(used.interval, used.work_within, used.idle, steady));
        self.half_hour.forget();
        self.status.belief = Flag::Unknown;
        if self.learns() {
            let of = mark(&self.manifest, &self.grant.clone().unwrap_or_default());
            if self.learnt.of() != of {
                self.learnt = Learnt::load(&self.site.home(&self.manifest.name), of);
            }
            self.expect_learnt();
        }
    }

    /// What its meter has said.
    pub(super) async fn sampled(&mut self, sample: Sample) {
        let now = clock::since_boot();
        let rate = sample.rate;
        self.counters.clone_from(&sample.counters);
        let warm = matches!(self.state.phase, Phase::Running | Phase::Degraded);
        if let Some(beats) = &mut self.beats {
            let gpus = self.grant.as_ref().map(|grant| grant.gpus.as_slice()).unwrap_or_default();
            let beat = Beat {
                at: now,
                rate: rate.map(MilliPerSecond).ok_or(Missing::Bus),
                work: sample.told.as_ref().map_or(Err(Missing::NotPresent), |told| told.work),
                power: self.hooks.power(gpus),
            };
            // Rates are too high while a program warms up.
            let flag = if warm { beats.take(beat) } else { Flag::Unknown };
            if !warm {
                beats.forget();
            }
            if flag.is_doubt() && flag != self.status.belief {
                warn!("payload {}: its rate cannot be believed: {flag}", self.manifest.name);
            }
            self.status.belief = flag;
        }
        let rated = self.status.sample.replace(sample).is_some_and(|before| before.rate.is_some());
        match rate {
            // Numbers that nobody refreshes, and those that no watt stands behind, are no work.
            Some(_) if matches!(self.status.belief, Flag::Frozen | Flag::Hollow) => self.event(Event::Rate(0)).await,
            Some(rate) => self.event(Event::Rate(rate)).await,
            None => self.silent(rated).await,
        }
        if let Some(rate) = rate {
            self.learn(rate).await;
        }
        if now.saturating_sub(self.saved) >= COUNTED {
            self.save(Survives::Agent).await;
        }
    }

    /// Its meter has said nothing at all.
    pub(super) async fn unsaid(&mut self) {
        let rated = self.status.sample.take().is_some_and(|before| before.rate.is_some());
        self.silent(rated).await;
    }

    /// There is no rate. `rated`: there was one a moment ago.
    async fn silent(&mut self, rated: bool) {
        if rated && matches!(self.state.phase, Phase::Running | Phase::Degraded) {
            warn!("payload {}: its meter tells no rate any more", self.manifest.name);
        }
        self.event(Event::Silent).await;
    }

    /// What it should yield is not said in its manifest.
    fn learns(&self) -> bool {
        self.manifest.expect.as_ref().is_some_and(|expect| expect.rate.is_none())
    }

    fn expect_learnt(&mut self) {
        if let Some(expect) = &mut self.rules.expect {
            expect.rate = self.learnt.rate();
        }
    }

    /// A rate of a moment in which all was well teaches what to expect.
    async fn learn(&mut self, rate: u64) {
        if self.state.phase != Phase::Running || self.status.belief.is_doubt() {
            return self.half_hour.forget();
        }
        let figure = self.half_hour.take(rate, clock::since_boot()).filter(|_| self.learns());
        if figure.is_some_and(|figure| self.learnt.take(figure)) {
            self.expect_learnt();
            let expected = self.learnt.rate().unwrap_or(0) / 1_000;
            info!("payload {}: is expected to yield {expected} a second from now on", self.manifest.name);
            self.keep_learnt().await;
        }
    }

    /// A person has cleared it: what was learnt may be what was wrong.
    pub(super) async fn unlearn(&mut self) {
        if self.learns() && self.learnt.rate().is_some() {
            self.learnt = Learnt::nothing(self.learnt.of());
            self.half_hour.forget();
            self.expect_learnt();
            self.keep_learnt().await;
        }
    }

    async fn keep_learnt(&self) {
        let (learnt, home) = (self.learnt.clone(), self.site.home(&self.manifest.name));
        // Only this payload waits for the disk.
        let saved = spawn_blocking(move || learnt.save(&home)).await.unwrap_or_else(|error| Err(error.into()));
        if let Err(error) = saved {
            warn!("payload {}: what was learnt of it could not be kept: {error}", self.manifest.name);
        }
    }
}
