//! The bus thread: a pass over its chips for each order, full air when orders end.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Instant;

use log::warn;
use tokio::sync::watch;

use super::slot::{Outcome, Slot};
use super::{Adapter, Host};
use crate::board::Board;
use crate::clock;
use crate::mailbox::{Sender, mailbox};
use crate::reading::{BusSnapshot, Health, Missing};
use crate::units::Duty;

/// Time-outs in one pass after which the bus counts as stuck and the rest of the pass is given up, so that a stuck bus
/// of twelve chips costs two adapter time-outs and not twelve.
const TIME_OUTS: u32 = 2;
/// Enough for a pass with its buffers; Rust's default of 2 MiB is more than the agent has in all.
const STACK: usize = 128 * 1024;

/// What control wants done on a bus this tick.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Chip on the bus, fan channel, drive.
    pub duties: Vec<(usize, usize, Duty)>,
}

/// Control's end of a bus thread.
pub struct Handle {
    /// Name of the bus.
    pub name: String,
    orders: Sender<Order>,
    snapshot: watch::Receiver<Arc<BusSnapshot>>,
    finished: Receiver<bool>,
}

/// A bus thread that was told to end; its last deed is full air.
pub struct Leaving {
    /// Name of the bus.
    pub name: String,
    finished: Receiver<bool>,
}

impl Handle {
    /// Asks for a pass with these drives. Where the last one is still under way it is carried out after it, unless a newer
    /// one takes its place.
    pub fn order(&self, order: Order) {
        self.orders.put(order);
    }

    /// What the last pass found.
    #[must_use]
    pub fn snapshot(&self) -> Arc<BusSnapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// Ends the thread. All buses are told before one is waited for, so that a stuck one keeps no other from full air.
    #[must_use]
    pub fn leave(self) -> Leaving {
        Leaving { name: self.name, finished: self.finished }
    }
}

impl Leaving {
    /// Waits until `deadline`: whether every driven fan was brought to full air by then.
    #[must_use]
    pub fn wait(self, now: Instant, deadline: Instant) -> bool {
        self.finished.recv_timeout(deadline.saturating_duration_since(now)).unwrap_or(false)
    }
}

/// Starts the thread of bus number `bus`.
///
/// # Errors
/// What the system says where it cannot start one.
pub fn spawn(board: &Board, bus: usize, host: &Host) -> std::io::Result<Handle> {
    let mut worker = Worker::new(board, bus, host);
    let (orders, inbox) = mailbox();
    let (publish, snapshot) = watch::channel(Arc::new(worker.snapshot.clone()));
    // One word at the end of the thread's life; a thread that dies without it has not left its fans safe.
    let (finish, finished) = sync_channel(1);
    let name = worker.name.clone();
    thread::Builder::new().name(format!("bus {name}")).stack_size(STACK).spawn(move || {
        while let Some(order) = inbox.take() {
            worker.pass(&order, clock::now);
            publish.send_replace(Arc::new(worker.snapshot.clone()));
        }
        // Nobody waits for it where control has given up on this bus.
        let _ = finish.try_send(worker.leave());
    })?;
    Ok(Handle { name, orders, snapshot, finished })
}

/// The chips of one bus and what is known of them.
pub struct Worker {
    name: String,
    host: Host,
    adapter: Adapter,
    slots: Vec<Slot>,
    /// Fan channels that a zone drives, by chip.
    driven: Vec<Vec<usize>>,
    /// Where the next pass starts: behind the chip that timed out last, so that one chip that holds the clock cannot
    /// keep its neighbours from being asked.
    first: usize,
    snapshot: BusSnapshot,
}

impl Worker {
    /// The chips of bus number `bus`, none of them asked yet.
    #[must_use]
    pub fn new(board: &Board, bus: usize, host: &Host) -> Self {
        let (name, adapter, chips) = match board.buses.get(bus) {
            Some(bus) => (bus.name.clone(), bus.adapter.clone(), bus.chips.as_slice()),
            None => (String::new(), Adapter::Hwmon, &[][..]),
        };
        let slots: Vec<Slot> = chips.iter().map(|chip| Slot::new(chip.clone(), &name)).collect();
        let mut driven = vec![Vec::new(); slots.len()];
        for fan in board.fans.iter().filter(|fan| fan.zone.is_some() && fan.at.bus == bus) {
            if let Some(channels) = driven.get_mut(fan.at.chip) {
                channels.push(fan.at.channel);
            }
        }
        let snapshot = BusSnapshot {
            taken: None,
            chips: slots.iter().map(|slot| slot.missing(Missing::NotPresent)).collect(),
            health: vec![Health::Unknown; slots.len()],
            repairs: 0,
        };
        Self { name, host: host.clone(), adapter, slots, driven, first: 0, snapshot }
    }

    /// Applies the order's drives and reads every chip.
    pub fn pass(&mut self, order: &Order, now: impl Fn() -> Instant) {
        let mut time_outs = 0;
        let count = self.slots.len();
        let start = self.first;
        for index in (start..count).chain(0..start) {
            let Self { slots, snapshot, host, adapter, .. } = self;
            let (Some(slot), Some(reading), Some(health)) =
                (slots.get_mut(index), snapshot.chips.get_mut(index), snapshot.health.get_mut(index))
            else {
                continue;
            };
            if time_outs >= TIME_OUTS {
                reading.lose(Missing::Bus);
                *health = Health::Failed(Missing::Bus);
                continue;
            }
            let duties: Vec<(usize, Duty)> = order
                .duties
                .iter()
                .filter(|(chip, ..)| *chip == index)
                .map(|(_, channel, duty)| (*channel, *duty))
                .collect();
            let outcome: Outcome = slot.pass(host, adapter, now(), &duties, reading, *health);
            *health = outcome.health;
            snapshot.repairs = snapshot.repairs.saturating_add(outcome.repairs);
            if outcome.timed_out {
                time_outs += 1;
                self.first = (index + 1) % count;
            }
        }
        self.snapshot.taken = Some(now());
    }

    /// Full air on every fan that a zone drives. What cannot be reached is said; its own watchdog has to do it.
    pub fn leave(&mut self) -> bool {
        let mut reached = true;
        for (slot, channels) in self.slots.iter_mut().zip(&self.driven).filter(|(_, channels)| !channels.is_empty()) {
            let result = slot
                .leave(&self.host, &self.adapter, channels)
                .or_else(|_| slot.leave(&self.host, &self.adapter, channels));
            if let Err(error) = result {
                warn!("{}: could not be left at full air: {error}", slot.label());
                reached = false;
            }
        }
        reached
    }

    /// What the last pass found.
    #[must_use]
    pub const fn snapshot(&self) -> &BusSnapshot {
        &self.snapshot
    }
}
