//! Control: the one thread that decides and the only one that gives orders to fans.
//!
//! Its own OS thread with an absolute-time sleep. Each tick reads everything, decides once ([`step()`](step::step)), orders
//! once, and publishes what was decided. It never waits for MQTT, DNS, a payload or the disk: a snapshot is the copy of a
//! pointer, an order is left in a mailbox, and events leave by `try_send`.
//!
//! Worst case from heat to full fans at the default of one tick a second:
//! one tick until the reading is asked for + one pass of the bus + one tick until it is decided on + one pass until it
//! is written = 1.0 + 0.2 + 1.0 + 0.2 = 2.4 s ([`REACTION`]). A fan card's heat sink takes tens of seconds for that.

mod episodes;
mod gather;
pub mod limits;
mod notify;
mod realtime;
pub mod step;
mod tell;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use log::{error, info, warn};
use tokio::sync::{mpsc, oneshot, watch};

use crate::alarm::Edge;
use crate::board::Board;
use crate::bus::{self, Handle, Host, Order};
use crate::calibration::FanCurve;
use crate::clock::{self, now};
use crate::config::Quiet;
use crate::gpu;
use crate::payload::supervisor::{self, Payloads};
use crate::payload::{Hold, reboot};
use crate::reading::{BusSnapshot, Snapshot};
use crate::setpoint::Setpoints;
use crate::units::Duty;
use episodes::Episodes;
pub use gather::{gather, gather_gpus};
pub use notify::Notify;
pub use realtime::Stop;
use realtime::{Moment, claim_realtime};
use step::{Inputs, Orders, Report, Request, State, step};

/// Default time between ticks.
pub const TICK: Duration = Duration::from_secs(1);
/// What one pass over a bus may take: forty transfers of 0.5 ms at 100 kHz, ten times over.
pub const PASS: Duration = Duration::from_millis(200);
/// Heat to full fans at the default tick, with passes inside their budget.
pub const REACTION: Duration = Duration::from_millis(2_400);
/// Events on their way to the publisher. When it is full the event is dropped and counted, and the count is published:
/// control does not wait.
pub const EVENTS: usize = 256;
/// Until when the first pass of every bus is waited for before the first decision, so that a start publishes readings
/// and not gaps. A slower bus joins at the next tick.
const FIRST_PASS: Duration = Duration::from_millis(250);
/// How often a start looks whether the first passes are done.
const FIRST_LOOK: Duration = Duration::from_micros(250);
/// Longest time that leaving may take: two attempts at one chip on a stuck bus, each with the adapter's second, twice.
const LEAVE: Duration = Duration::from_secs(4);
/// A tick later than this, or than a whole tick, is worth a line.
const LATE: Duration = Duration::from_millis(500);
/// Snapshots are small; decisions allocate little.
const STACK: usize = 256 * 1024;

/// What control publishes.
pub struct Outputs {
    /// The rig in each tick; the newest wins.
    pub snapshot: watch::Sender<Arc<Snapshot>>,
    /// Alarms raised and cleared, each of them.
    pub events: mpsc::Sender<Edge>,
    /// Events dropped because nobody took them.
    pub lost_events: Arc<AtomicU32>,
    /// What a calibration tells.
    pub reports: mpsc::Sender<Report>,
}

/// What control looks at beside its buses.
pub struct Sources {
    /// The GPU thread.
    pub gpus: gpu::Handle,
    /// The payloads.
    pub payloads: watch::Receiver<Arc<Payloads>>,
    /// The way to payloads: one whose GPU is gone must be told. Where it is full they are told by their own probes.
    pub orders: mpsc::Sender<supervisor::Order>,
    /// Who may restart the rig, for a GPU that asks for it.
    pub reboot: mpsc::Sender<reboot::Why>,
    /// What people ask.
    pub requests: mpsc::Receiver<Request>,
    /// What is asked for beyond the configuration.
    pub setpoints: watch::Receiver<Arc<Setpoints>>,
}

/// What control goes by.
pub struct Policy {
    /// The board.
    pub board: Arc<Board>,
    /// Time between ticks.
    pub tick: Duration,
    /// Hours in which fans are held down.
    pub quiet: Option<Quiet>,
    /// What is known of each fan from an earlier calibration, in the board's order.
    pub curves: Vec<Option<FanCurve>>,
    /// What limits its power.
    pub power: limits::Rules,
}

/// Requests that wait for the next tick; more are refused where they are made.
pub const REQUESTS: usize = 4;
/// Reports of a calibration that wait to be taken.
pub const REPORTS: usize = 64;

/// The oldest a bus pass may be: two ticks may pass without one, the third makes its readings stale. Never below a
/// second, since a pass takes its time at a hundred ticks a second too.
#[must_use]
pub fn stale_after(tick: Duration) -> Duration {
    (tick * 5 / 2).max(Duration::from_secs(1))
}

/// Starts the bus threads and the control thread. The control thread's last word is whether every fan that a zone drives was
/// left at full air; until then it holds the snapshot's sender, so that its end is seen there.
///
/// # Errors
/// What the system says where it cannot start a thread.
pub fn spawn(
    policy: Policy,
    host: &Host,
    sources: Sources,
    outputs: Outputs,
    stop: Stop,
) -> std::io::Result<JoinHandle<bool>> {
    let board = &policy.board;
    let buses = (0..board.buses.len()).map(|bus| bus::spawn(board, bus, host)).collect::<std::io::Result<Vec<_>>>()?;
    thread::Builder::new().name("control".to_owned()).stack_size(STACK).spawn(move || {
        claim_realtime();
        let mut control = Control::new(policy, buses, sources, outputs);
        control.run(&stop);
        control.leave()
    })
}

struct Control {
    policy: Policy,
    buses: Vec<Handle>,
    sources: Sources,
    outputs: Outputs,
    notify: Notify,
    started: Instant,
    state: State,
    episodes: Episodes,
    /// Where each GPU was a tick ago.
    present: Vec<gpu::Presence>,
    holds: tell::Holds,
    ticks: u64,
}

impl Control {
    fn new(policy: Policy, buses: Vec<Handle>, sources: Sources, outputs: Outputs) -> Self {
        let started = now();
        let state = State::new(&policy.board, started);
        let notify = Notify::from_environment();
        let episodes = Episodes::default();
        Self {
            policy,
            buses,
            sources,
            outputs,
            notify,
            started,
            state,
            episodes,
            present: Vec::new(),
            holds: tell::Holds::default(),
            ticks: 0,
        }
    }

    fn run(&mut self, stop: &Stop) {
        self.first_pass(stop);
        let mut next = Moment::now();
        let mut late = Duration::ZERO;
        while !stop.stopped() {
            self.tick(late);
            if self.ticks == 1 {
                self.notify.ready();
            }
            self.notify.finished_tick(now());
            next = next.after(self.policy.tick);
            stop.sleep_until(next);
            late = next.elapsed();
            if late > LATE.max(self.policy.tick) && !stop.stopped() {
                warn!("control: a tick came {} ms late", late.as_millis());
                next = Moment::now();
            }
        }
        self.notify.stopping();
    }

    /// Asks every bus for readings without changing a fan, and waits for them for a moment.
    fn first_pass(&self, stop: &Stop) {
        for bus in &self.buses {
            bus.order(Order::default());
        }
        // Not waited for: a driver takes up to a minute and a half.
        self.sources.gpus.order(gpu::Order::default(), now());
        let started = Moment::now();
        while started.elapsed() < FIRST_PASS
            && self.buses.iter().any(|bus| bus.snapshot().taken.is_none())
            && !stop.stopped()
        {
            stop.sleep_until(Moment::now().after(FIRST_LOOK));
        }
    }

    /// Read everything, decide once, act once, publish what was decided.
    fn tick(&mut self, late: Duration) {
        let now = now();
        let setpoints = Arc::clone(&self.sources.setpoints.borrow());
        let board = Arc::clone(&setpoints.board);
        let found: Vec<Arc<BusSnapshot>> = self.buses.iter().map(Handle::snapshot).collect();
        let mut snapshot = gather(&board, &found, self.started, now, stale_after(self.policy.tick));
        snapshot.gpus = gather_gpus(self.sources.gpus.snapshot(), self.started, now, stale_after(self.policy.tick));
        snapshot.payloads = Arc::clone(&self.sources.payloads.borrow());
        let gathered = limits::gather(&self.policy.power, &snapshot, &setpoints);
        let inputs = Inputs {
            now,
            sensors: &snapshot.sensors,
            fans: &snapshot.fans,
            rails: &snapshot.rails,
            curves: &self.policy.curves,
            gpus: &snapshot.gpus.gpus,
            quiet: self.policy.quiet.and_then(|quiet| quiet.at(clock::local_minute()?)),
            request: self.sources.requests.try_recv().ok(),
            power: Some((&self.policy.power.policy, gathered.inputs(now))),
        };
        let (state, mut orders) = step(&board, self.state.clone(), &inputs);
        self.state = state;
        if setpoints.pulses(now) {
            orders.duties.iter_mut().flatten().for_each(|duty| *duty = Duty::FULL);
        }
        for (bus, order) in self.buses.iter().zip(bus_orders(&board, &orders)) {
            bus.order(order);
        }
        let gpus = gpu::Order {
            fans: orders.gpus.iter().map(|zone| zone.duty.ok()).collect(),
            profiles: profiles(&snapshot.gpus.gpus, &snapshot.payloads, &setpoints),
            limits: limits::orders(&orders.limited, &snapshot.gpus.gpus, &setpoints, now),
        };
        self.sources.gpus.order(gpus, now);
        self.hold_payloads(&orders.limited.holds, &snapshot.payloads, now);
        snapshot.restraint = limits::restraint(&self.policy.power, &orders.limited, &snapshot.gpus.gpus);
        self.ticks += 1;
        let active = episodes::active(&board, &snapshot, &orders);
        for (fan, view) in snapshot.fans.iter_mut().zip(&orders.fans) {
            fan.rpm = view.rpm;
        }
        let turns = self.episodes.tick(&active, now);
        let happenings: Vec<gpu::Happening> = self.sources.gpus.happenings().collect();
        self.tell_payloads(&happenings, &snapshot);
        let moments = happenings.into_iter().map(Edge::from);
        let edges: Vec<Edge> = turns
            .into_iter()
            .map(|(alarm, raised, cause)| {
                let rung = episodes::rung(&board, &orders.zones, alarm.subject);
                Edge { alarm, raised, cause, rung }
            })
            .chain(moments)
            .collect();
        snapshot.zones = orders.zones;
        snapshot.gpu_air = orders.gpus;
        snapshot.sensors = orders.sensors;
        snapshot.alarms = self.episodes.raised().collect();
        snapshot.late = late;
        // The snapshot first: who hears of an edge finds the readings of that moment.
        self.outputs.snapshot.send_replace(Arc::new(snapshot));
        for edge in edges {
            self.tell(edge);
        }
        for report in orders.reports {
            self.report(report);
        }
    }

    fn tell(&self, edge: Edge) {
        let gpus = &self.sources.gpus.snapshot().gpus;
        let gpu = |i: usize| gpus.get(i).map(|gpu| gpu.pci.to_string());
        let payload = |i: usize| self.sources.payloads.borrow().0.get(i).map(|payload| payload.name.clone());
        let name = edge.alarm.subject.name(&self.policy.board, gpu, payload);
        let kind = edge.alarm.kind;
        let rung = edge.rung.map(|rung| format!("; {rung}")).unwrap_or_default();
        if edge.raised {
            warn!("{name}: {kind} ({}{rung})", edge.cause);
        } else {
            info!("{name}: {kind}: over");
        }
        if self.outputs.events.try_send(edge).is_err() {
            self.outputs.lost_events.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Who runs on a GPU that is gone, or that asks for it, is started anew.
    fn tell_payloads(&mut self, happenings: &[gpu::Happening], snapshot: &Snapshot) {
        let gpus = &snapshot.gpus.gpus;
        for (name, why) in tell::restarts(happenings, &self.present, gpus, &snapshot.payloads) {
            warn!("payload {name}: is started anew: {why}");
            // Nobody waits for the answer: what came of it is in the payload's state.
            let (reply, _) = oneshot::channel();
            let order = supervisor::Order { name: name.to_owned(), what: supervisor::What::Restart(reply) };
            if self.sources.orders.try_send(order).is_err() {
                warn!("payload {name}: takes no order now");
            }
        }
        if let Some(gpu) = tell::restarts_rig(happenings).and_then(|gpu| gpus.get(gpu)) {
            // One that waits already is enough.
            let _ = self.sources.reboot.try_send(reboot::Why::Gpu(gpu.pci.to_string()));
        }
        self.present = gpus.iter().map(|gpu| gpu.presence).collect();
    }

    /// How far each payload is held back, where that is another than it was told.
    fn hold_payloads(&mut self, holds: &[Hold], payloads: &Payloads, now: Instant) {
        for (name, hold) in self.holds.tell(holds, payloads, now) {
            let order = supervisor::Order { name: name.to_owned(), what: supervisor::What::Hold(hold) };
            if self.sources.orders.try_send(order).is_err() {
                warn!("payload {name}: takes no order now");
            }
        }
    }

    /// A curve holds from the next tick on, whether or not anybody can keep it.
    fn report(&mut self, report: Report) {
        if let Report::Learnt { fan, curve } = &report
            && curve.is_sound()
            && let Some(known) = self.policy.curves.get_mut(*fan)
        {
            *known = Some(curve.clone());
        }
        // Who asked may be gone; the fans are measured all the same.
        let _ = self.outputs.reports.try_send(report);
    }

    /// The last deed on every way out: full air. All buses are told at once, then each is waited for.
    fn leave(self) -> bool {
        let deadline = now() + LEAVE;
        let gpus = self.sources.gpus.leave();
        let leaving: Vec<_> = self.buses.into_iter().map(Handle::leave).collect();
        let mut safe = true;
        for bus in leaving {
            let name = bus.name.clone();
            if !bus.wait(now(), deadline) {
                error!(
                    "bus {name}: not every fan is known to be at full air; what is left is the chips' own watchdogs"
                );
                safe = false;
            }
        }
        // The helper gives the fans back by itself when we are gone; profiles may stay.
        if !gpus.recv_timeout(deadline.saturating_duration_since(now())).unwrap_or(false) {
            warn!("GPUs: not every setting is known to be back at the driver's default");
        }
        safe
    }
}

/// What each bus is told: the drive of every fan that a zone drives, on every tick, so that a lost order costs nothing.
fn bus_orders(board: &Board, orders: &Orders) -> Vec<Order> {
    let mut by_bus: Vec<Order> = board.buses.iter().map(|_| Order::default()).collect();
    for (fan, duty) in board.fans.iter().zip(&orders.duties) {
        if let (Some(duty), Some(order)) = (duty, by_bus.get_mut(fan.at.bus)) {
            order.duties.push((fan.at.chip, fan.at.channel, *duty));
        }
    }
    by_bus
}

/// The profile that each GPU's payload brings along, for as long as it is that payload's; else the one that was asked for.
fn profiles(gpus: &[gpu::Gpu], payloads: &Payloads, setpoints: &Setpoints) -> Vec<Option<String>> {
    let brought = |gpu| tell::owner(gpus, gpu, payloads)?.profile.clone();
    let asked = |gpu: &gpu::Gpu| setpoints.profile(&gpu.device.as_ref()?.uuid).map(str::to_owned);
    gpus.iter().enumerate().map(|(index, gpu)| brought(index).or_else(|| asked(gpu))).collect()
}

/// Full air on every fan that a zone drives, with no control thread: what systemd runs when the agent has ended in
/// whatever way. All buses at once, so that a stuck one keeps no other waiting. `false` where a fan could not be reached.
#[must_use]
pub fn leave_safe(board: &Board, host: &Host) -> bool {
    thread::scope(|scope| {
        let leave = |bus| scope.spawn(move || bus::Worker::new(board, bus, host).leave());
        let leaving: Vec<_> = (0..board.buses.len()).map(leave).collect();
        leaving.into_iter().map(|bus| bus.join().unwrap_or(false)).fold(true, |all, one| all & one)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reaction_time_is_the_sum_of_its_parts() {
        assert_eq!(TICK + PASS + TICK + PASS, REACTION);
        assert!(stale_after(TICK) > TICK * 2 && stale_after(TICK) < TICK * 3);
        assert_eq!(stale_after(Duration::from_millis(10)), Duration::from_secs(1));
    }

    #[test]
    fn every_driven_fan_is_ordered_on_its_bus_and_no_other() {
        let board = Board::load("simulated-8gpu").unwrap();
        let duty = Duty::from_percent(40).unwrap();
        let orders = Orders { duties: vec![Some(duty); board.fans.len()], ..Orders::default() };
        let by_bus = bus_orders(&board, &orders);
        let counts: Vec<_> =
            board.buses.iter().zip(&by_bus).map(|(bus, order)| (bus.name.as_str(), order.duties.len())).collect();
        assert_eq!(counts, [("air", 6), ("main", 0)]);
        assert!(by_bus.iter().flat_map(|order| &order.duties).all(|(_, _, ordered)| *ordered == duty));
        let starting = Orders { duties: vec![None; board.fans.len()], ..Orders::default() };
        assert!(bus_orders(&board, &starting).iter().all(|order| order.duties.is_empty()), "a start changes nothing");
    }
}
