//! What each event does to a state.

use std::time::Duration;

use super::{Action, Cause, Event, Exit, Failure, Hold, Phase, Policy, Restart, Rules, State, Then, settles, turns};

/// A kill that did not end it is repeated: a process in a driver's hands dies when the driver lets go of it.
const KILL_AGAIN: Duration = Duration::from_secs(5);

/// A state on its way to the next.
pub(super) struct Life<'a> {
    pub(super) rules: &'a Rules,
    pub(super) state: State,
    pub(super) now: Duration,
    pub(super) random: u32,
    pub(super) action: Option<Action>,
}

impl Life<'_> {
    pub(super) fn take(&mut self, event: Event) {
        match event {
            Event::Start => {
                self.state.wanted = true;
                self.start();
            }
            Event::Stop => self.stop(self.rules.grace),
            Event::Drain(grace) => self.stop(grace),
            Event::Restart => {
                self.state.wanted = true;
                self.state.failures = 0;
                match self.state.phase {
                    Phase::Starting | Phase::Warming | Phase::Running | Phase::Degraded | Phase::Paused => {
                        self.drain(Then::Start, self.rules.grace);
                    }
                    Phase::Stopped
                    | Phase::Draining { .. }
                    | Phase::BackingOff { .. }
                    | Phase::Failed(_)
                    | Phase::Quarantined
                    | Phase::Waiting => self.start(),
                }
            }
            Event::Clear => self.clear(),
            Event::Spawned => self.spawned(),
            Event::NotSpawned { lasting } => self.not_spawned(lasting),
            Event::Exited(exit) => self.exited(exit),
            Event::Probe(passed) => self.probe(passed),
            Event::Rate(rate) => {
                self.state.rated = true;
                self.rate(rate);
            }
            Event::Silent => self.silent(),
            Event::Hold(hold) => self.hold(hold),
            // It must not work, so it must not be there.
            Event::NotPaused if self.state.phase == Phase::Paused => self.drain(Then::Wait, self.rules.grace),
            Event::NotResumed if self.works() => self.fail(Cause::Unhealthy, Then::Again),
            Event::NotPaused | Event::NotResumed => {}
            Event::Tick => self.tick(),
        }
    }

    /// Brings it in line with its hold, whatever has happened: what is held back does not work.
    pub(super) fn obey(&mut self) {
        match (self.holds(), self.state.phase) {
            (Hold::Free, Phase::Paused) => self.resume(),
            (Hold::Free, Phase::Waiting) => self.begin(),
            (Hold::Pause, _) if self.works() => {
                self.state.low = None;
                self.go(Phase::Paused);
                self.action = Some(Action::Pause);
            }
            (Hold::Drain, phase) if self.works() || phase == Phase::Paused => self.drain(Then::Wait, self.rules.grace),
            (Hold::Stop, phase) if self.works() || phase == Phase::Paused => self.kill(Then::Wait),
            (Hold::Free | Hold::Pause | Hold::Drain | Hold::Stop, _) => {}
        }
    }

    /// How far it is held back, as it can be.
    const fn holds(&self) -> Hold {
        match self.state.hold {
            Hold::Pause if !self.rules.pausable => Hold::Drain,
            hold @ (Hold::Free | Hold::Pause | Hold::Drain | Hold::Stop) => hold,
        }
    }

    /// Whether a process is there that nobody has told to end or to rest.
    const fn works(&self) -> bool {
        match self.state.phase {
            Phase::Starting => self.state.up.is_some(),
            Phase::Warming | Phase::Running | Phase::Degraded => true,
            Phase::Stopped
            | Phase::Draining { .. }
            | Phase::BackingOff { .. }
            | Phase::Failed(_)
            | Phase::Quarantined
            | Phase::Paused
            | Phase::Waiting => false,
        }
    }

    fn hold(&mut self, hold: Hold) {
        let before = self.holds();
        (self.state.hold, self.state.unsaid) = (hold, None);
        let Phase::Draining { then, kill_at } = self.state.phase else { return };
        match self.holds() {
            Hold::Stop if before != Hold::Stop => self.kill(then),
            // It ends already. What is left of its time may be shortened, never lengthened.
            Hold::Drain if before < Hold::Drain => {
                self.put_off(then, kill_at.min(self.now + self.rules.grace));
            }
            Hold::Free | Hold::Pause | Hold::Drain | Hold::Stop => {}
        }
    }

    /// It goes on: what it had to show before must be shown again.
    fn resume(&mut self) {
        let state = &mut self.state;
        (state.up, state.ready, state.low, state.misses) = (Some(self.now), None, None, 0);
        if self.rules.probe.is_none() {
            self.ready();
        } else {
            self.go(Phase::Starting);
        }
        self.action = Some(Action::Resume);
    }

    fn kill(&mut self, then: Then) {
        self.put_off(then, self.now + KILL_AGAIN);
        self.action = Some(Action::Kill);
    }

    /// Draining, with another end; where it drains already, since it began to.
    fn put_off(&mut self, then: Then, kill_at: Duration) {
        let since = if matches!(self.state.phase, Phase::Draining { .. }) { self.state.since } else { self.now };
        (self.state.phase, self.state.since) = (Phase::Draining { then, kill_at }, since);
    }

    fn go(&mut self, phase: Phase) {
        if self.state.phase != phase {
            (self.state.phase, self.state.since) = (phase, self.now);
        }
    }

    fn start(&mut self) {
        match self.state.phase {
            Phase::Stopped | Phase::Failed(_) | Phase::BackingOff { .. } => self.begin(),
            Phase::Draining { then: Then::Stop | Then::Again, kill_at } => {
                self.go(Phase::Draining { then: Then::Start, kill_at });
            }
            Phase::Draining { then: Then::Start | Then::Hold | Then::Wait, .. }
            | Phase::Starting
            | Phase::Warming
            | Phase::Running
            | Phase::Degraded
            | Phase::Quarantined
            | Phase::Paused
            | Phase::Waiting => {}
        }
    }

    fn stop(&mut self, grace: Duration) {
        self.state.wanted = false;
        match self.state.phase {
            Phase::Starting | Phase::Warming | Phase::Running | Phase::Degraded | Phase::Paused => {
                self.drain(Then::Stop, grace);
            }
            // A later order may shorten the time that is left, never lengthen it.
            Phase::Draining { kill_at, .. } => {
                self.go(Phase::Draining { then: Then::Stop, kill_at: kill_at.min(self.now + grace) });
            }
            Phase::Stopped | Phase::BackingOff { .. } | Phase::Failed(_) | Phase::Quarantined | Phase::Waiting => {
                self.state.paid = false;
                self.go(Phase::Stopped);
            }
        }
    }

    fn drain(&mut self, then: Then, grace: Duration) {
        self.go(Phase::Draining { then, kill_at: self.now + grace });
        self.action = Some(Action::Signal);
    }

    fn clear(&mut self) {
        let phase = self.state.phase;
        let state = &mut self.state;
        (state.held, state.failures, state.suspect) = (None, 0, None);
        state.starts.clear();
        match phase {
            Phase::Quarantined | Phase::Failed(_) => self.go(Phase::Stopped),
            Phase::Draining { then: Then::Hold, kill_at } => self.go(Phase::Draining { then: Then::Stop, kill_at }),
            Phase::Stopped
            | Phase::Starting
            | Phase::Warming
            | Phase::Running
            | Phase::Degraded
            | Phase::Draining { .. }
            | Phase::BackingOff { .. }
            | Phase::Paused
            | Phase::Waiting => {}
        }
    }

    /// When the window has room for a start; `None` where it has it now.
    fn room(&mut self) -> Option<Duration> {
        let Restart { budget, window, .. } = self.rules.restart;
        let now = self.now;
        self.state.starts.retain(|start| *start + window > now);
        let most = usize::try_from(budget.max(1)).unwrap_or(usize::MAX);
        let full = self.state.starts.len().checked_sub(most)?;
        self.state.starts.get(full).map(|oldest| *oldest + window)
    }

    /// Starts now, or when it is free, or when the window has room.
    fn begin(&mut self) {
        if self.state.held.is_some() {
            self.state.paid = false;
            return self.go(Phase::Quarantined);
        }
        if self.holds() != Hold::Free {
            return self.go(Phase::Waiting);
        }
        if !std::mem::take(&mut self.state.paid) {
            if let Some(until) = self.room() {
                return self.go(Phase::BackingOff { until });
            }
            self.state.starts.push(self.now);
        }
        let state = &mut self.state;
        (state.up, state.ready, state.low, state.misses, state.rated) = (None, None, None, 0, false);
        self.go(Phase::Starting);
        self.action = Some(Action::Spawn);
    }

    /// Starts again by itself, where the budget allows.
    fn again(&mut self, cause: Cause) {
        self.state.cause = Some(cause);
        // A pause is no part of a good run.
        let until = if self.state.phase == Phase::Paused { self.state.since } else { self.now };
        let ran = self.state.up.map_or(Duration::ZERO, |up| until.saturating_sub(up));
        if ran >= self.rules.restart.stable {
            self.state.failures = 0;
        }
        self.state.failures = self.state.failures.saturating_add(1);
        if self.room().is_some() {
            return self.go(Phase::Failed(Failure::Budget));
        }
        let wait = wait(&self.rules.restart, self.state.failures, self.random);
        if wait.is_zero() {
            self.state.restarts = self.state.restarts.saturating_add(1);
            self.begin();
        } else {
            self.go(Phase::BackingOff { until: self.now + wait });
        }
    }

    fn spawned(&mut self) {
        match self.state.phase {
            Phase::Starting => {
                // Told again by an agent that has adopted it: its time to get ready does not begin anew.
                self.state.up.get_or_insert(self.now);
                if self.rules.probe.is_none() {
                    self.ready();
                }
            }
            // Told to end before it was there.
            Phase::Draining { .. } => {
                self.action = Some(if self.holds() == Hold::Stop { Action::Kill } else { Action::Signal });
            }
            // Told again by an agent that has adopted it, and that does not know whether the one before came to it.
            Phase::Paused => self.action = Some(Action::Pause),
            Phase::Stopped
            | Phase::Warming
            | Phase::Running
            | Phase::Degraded
            | Phase::BackingOff { .. }
            | Phase::Failed(_)
            | Phase::Quarantined
            | Phase::Waiting => {}
        }
    }

    fn not_spawned(&mut self, lasting: bool) {
        match self.state.phase {
            Phase::Starting if lasting => {
                self.state.cause = Some(Cause::NotStarted);
                self.go(Phase::Failed(Failure::Start));
            }
            Phase::Starting => self.again(Cause::NotStarted),
            Phase::Draining { then, .. } => self.drained(then),
            Phase::Stopped
            | Phase::Warming
            | Phase::Running
            | Phase::Degraded
            | Phase::BackingOff { .. }
            | Phase::Failed(_)
            | Phase::Quarantined
            | Phase::Paused
            | Phase::Waiting => {}
        }
    }

    fn exited(&mut self, exit: Exit) {
        match self.state.phase {
            Phase::Draining { then, .. } => self.drained(then),
            Phase::Starting | Phase::Warming | Phase::Running | Phase::Degraded | Phase::Paused => self.ended(exit),
            Phase::Stopped | Phase::BackingOff { .. } | Phase::Failed(_) | Phase::Quarantined | Phase::Waiting => {}
        }
    }

    fn ended(&mut self, exit: Exit) {
        let cause = Cause::Exit(exit);
        let done = exit == Exit::Code(0);
        match (self.rules.restart.policy, done) {
            (Policy::Always, _) | (Policy::OnFailure, false) => self.again(cause),
            (Policy::OnFailure | Policy::Never, true) => {
                (self.state.cause, self.state.wanted) = (Some(cause), false);
                self.go(Phase::Stopped);
            }
            (Policy::Never, false) => {
                self.state.cause = Some(cause);
                self.go(Phase::Failed(Failure::Ended));
            }
        }
    }

    fn drained(&mut self, then: Then) {
        match then {
            Then::Stop => self.go(Phase::Stopped),
            Then::Start => self.begin(),
            Then::Again => {
                let cause = self.state.cause.unwrap_or(Cause::Unhealthy);
                self.again(cause);
            }
            Then::Hold => self.go(Phase::Quarantined),
            Then::Wait => {
                self.state.paid = true;
                self.begin();
            }
        }
    }

    fn ready(&mut self) {
        self.state.ready = Some(self.now);
        self.healthy();
    }

    /// Warming up or running, by how long it has been ready.
    fn healthy(&mut self) {
        let warmup = self.rules.expect.as_ref().map_or(Duration::ZERO, |expect| expect.warmup);
        let ready = self.state.ready.unwrap_or(self.now);
        let warm = self.now.saturating_sub(ready) >= warmup;
        self.go(if warm { Phase::Running } else { Phase::Warming });
    }

    /// Ends it because something is wrong with it.
    fn fail(&mut self, cause: Cause, then: Then) {
        self.state.cause = Some(cause);
        self.drain(then, self.rules.grace);
    }

    fn probe(&mut self, passed: bool) {
        let Some((_, most)) = self.rules.probe else { return };
        match (self.state.phase, passed) {
            (Phase::Starting, true) => {
                self.state.misses = 0;
                if self.state.up.is_some() {
                    self.ready();
                }
            }
            (Phase::Warming | Phase::Running | Phase::Degraded, true) => {
                self.state.misses = 0;
                if self.state.low.is_none() {
                    self.healthy();
                }
            }
            (Phase::Warming | Phase::Running | Phase::Degraded, false) => {
                self.state.misses = self.state.misses.saturating_add(1);
                if self.state.misses >= most {
                    self.fail(Cause::Unhealthy, Then::Again);
                } else {
                    self.go(Phase::Degraded);
                }
            }
            // What is starting has its own time for it, and what ends need not answer.
            (
                Phase::Starting
                | Phase::Draining { .. }
                | Phase::Stopped
                | Phase::BackingOff { .. }
                | Phase::Failed(_)
                | Phase::Quarantined
                | Phase::Paused
                | Phase::Waiting,
                _,
            ) => {}
        }
    }

    /// A meter that has told a rate and tells none any more: a program that hangs. One that never has is asked in vain, by a wrong port or
    /// token, and no restart helps.
    fn silent(&mut self) {
        let known = self.rules.expect.as_ref().is_some_and(|expect| expect.rate.is_some());
        if !self.state.rated || !known {
            return;
        }
        // One answer may be missed, as that after a counter that begins anew.
        if self.state.phase == Phase::Running && self.state.low.is_none() {
            self.state.low = Some(self.now);
        } else {
            self.rate(0);
        }
    }

    fn rate(&mut self, rate: u64) {
        let Some(expect) = &self.rules.expect else { return };
        match self.state.phase {
            Phase::Running | Phase::Degraded => {}
            Phase::Stopped
            | Phase::Starting
            | Phase::Warming
            | Phase::Draining { .. }
            | Phase::BackingOff { .. }
            | Phase::Failed(_)
            | Phase::Quarantined
            | Phase::Paused
            | Phase::Waiting => return,
        }
        let (wanted, percent) = (expect.rate.unwrap_or(0), u64::from(expect.min_pct));
        let least = wanted / 100 * percent + wanted % 100 * percent / 100;
        if rate >= least {
            self.state.low = None;
            let window = self.rules.restart.window;
            self.state.suspect = self.state.suspect.filter(|at| *at + window > self.now);
            if self.state.misses == 0 {
                self.healthy();
            }
            return;
        }
        let low = *self.state.low.get_or_insert(self.now);
        if self.now.saturating_sub(low) < expect.low {
            self.go(Phase::Degraded);
        } else if self.state.suspect.is_none() {
            self.state.suspect = Some(self.now);
            self.fail(Cause::LowRate, Then::Again);
        } else {
            // A restart did not help: it would only be started for ever, and harm what is next to it.
            self.state.held = Some(Cause::LowRate);
            self.fail(Cause::LowRate, Then::Hold);
        }
    }

    fn tick(&mut self) {
        let now = self.now;
        let is_due = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        if is_due(self.state.unsaid) {
            self.hold(Hold::Free);
        }
        if is_due(settles(self.rules, &self.state)) {
            self.state.failures = 0;
        }
        if !is_due(turns(self.rules, &self.state)) {
            return;
        }
        match self.state.phase {
            Phase::Starting => self.fail(Cause::NeverReady, Then::Again),
            Phase::Warming => self.healthy(),
            Phase::Draining { then, .. } => self.kill(then),
            Phase::BackingOff { .. } => {
                self.state.restarts = self.state.restarts.saturating_add(1);
                self.begin();
            }
            Phase::Stopped
            | Phase::Running
            | Phase::Degraded
            | Phase::Failed(_)
            | Phase::Quarantined
            | Phase::Paused
            | Phase::Waiting => {}
        }
    }
}

/// Before the n-th restart in a row: none before the first, then from the shortest wait up, doubled each time; the upper half
/// of it by chance, so that what failed together does not come back together.
pub(super) fn wait(restart: &Restart, failures: u32, random: u32) -> Duration {
    let Some(doublings) = failures.checked_sub(2) else { return Duration::ZERO };
    let factor = 1_u32.checked_shl(doublings.min(31)).unwrap_or(u32::MAX);
    let half = restart.min.saturating_mul(factor).min(restart.max) / 2;
    half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
}
