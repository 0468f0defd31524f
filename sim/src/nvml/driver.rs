//! The state of the driver: cards, clients, what is broken, what the kernel log has.

use std::collections::VecDeque;

use super::fault::{Fault, Kind};
use super::wire::{Act, Call, Return};
use super::{call, code};
use crate::random::Random;
use crate::world::{Control, Presence, World};

/// Faults at a time; the next is refused.
const MAX_FAULTS: usize = 64;
/// Events that wait for a client; the oldest goes.
const MAX_EVENTS: usize = 64;
/// Event sets of a client; the next is refused.
const MAX_SETS: usize = 64;
/// Lines of the kernel log that wait to be written; the oldest goes.
const MAX_KERNEL: usize = 256;
/// Setting calls that are remembered; the oldest goes.
const MAX_SETTERS: usize = 256;
/// `nvmlEventTypeXidCriticalError`.
pub(super) const XID_EVENT: i64 = 8;

/// The driver of a rig's cards.
#[derive(Debug)]
pub struct Driver {
    pub(super) cards: Vec<Card>,
    /// NVML's index to card. A lost card keeps its place until the driver is loaded again.
    pub(super) order: Vec<usize>,
    clients: Vec<Client>,
    next_client: u64,
    pub(super) next_set: i64,
    faults: Vec<(Fault, u32)>,
    noise: Random,
    kernel: VecDeque<String>,
    setters: VecDeque<String>,
}

/// What the driver knows of a card besides its physics.
#[derive(Clone, Debug)]
pub(super) struct Card {
    pub(super) persistent: bool,
    pub(super) compute_mode: i64,
    /// Process numbers and their memory, bytes.
    pub(super) processes: Vec<(u32, i64)>,
    /// Memory errors corrected and not.
    pub(super) ecc: [i64; 2],
    /// Rows remapped after corrected errors and after others; one waits; one failed.
    pub(super) rows: [i64; 4],
    pub(super) recovery: i64,
    pub(super) replays: i64,
    pub(super) width: i64,
    /// World's joules when the driver was loaded.
    pub(super) energy_from: f64,
    /// The log has it that it is gone.
    told: bool,
}

impl Card {
    const fn new() -> Self {
        Self {
            persistent: false,
            compute_mode: 0,
            processes: Vec::new(),
            ecc: [0; 2],
            rows: [0; 4],
            recovery: 0,
            replays: 0,
            width: 16,
            energy_from: 0.0,
            told: false,
        }
    }
}

#[derive(Debug)]
pub(super) struct Client {
    id: u64,
    /// How often it called init without shutdown.
    pub(super) inits: u32,
    pub(super) sets: Vec<EventSet>,
}

#[derive(Debug)]
pub(super) struct EventSet {
    pub(super) id: i64,
    /// Cards with the types of events that they were registered for.
    pub(super) registered: Vec<(usize, i64)>,
    /// Card, type, data.
    pub(super) events: VecDeque<[i64; 3]>,
}

/// NVML's identifier of a card; visibly no real one.
pub(crate) fn uuid(card: usize) -> String {
    format!("GPU-fa4e{card:04x}-0000-4000-8000-{card:012x}")
}

/// PCI address of a card as sysfs writes it.
pub(crate) fn pci(card: usize) -> String {
    format!("0000:{:02x}:00.0", card + 1)
}

impl Driver {
    /// The driver of so many cards, newly loaded.
    #[must_use]
    pub fn new(cards: usize, seed: u64) -> Self {
        Self {
            cards: vec![Card::new(); cards],
            order: (0..cards).collect(),
            clients: Vec::new(),
            next_client: 1,
            next_set: 1,
            faults: Vec::new(),
            noise: Random::new(seed ^ 0xfa4e),
            kernel: VecDeque::new(),
            setters: VecDeque::new(),
        }
    }

    /// A process that loads the library.
    pub fn connect(&mut self) -> u64 {
        let id = self.next_client;
        self.next_client += 1;
        self.clients.push(Client { id, inits: 0, sets: Vec::new() });
        id
    }

    /// The process is gone; with the last one goes what is set on cards that nobody uses and that are not persistent.
    pub fn disconnect(&mut self, world: &mut World, client: u64) {
        self.clients.retain(|known| known.id != client);
        self.unload_unused(world);
    }

    pub(super) fn client(&mut self, id: u64) -> Option<&mut Client> {
        self.clients.iter_mut().find(|client| client.id == id)
    }

    /// Locks, limits and offsets are lost when the driver lets go of a card (`nvml.h`); fans are left as they were, which
    /// is the worst that a driver could do, and a guess.
    pub(super) fn unload_unused(&mut self, world: &mut World) {
        if self.clients.iter().any(|client| client.inits > 0) {
            return;
        }
        for (gpu, card) in world.gpus.iter_mut().zip(&self.cards) {
            if !card.persistent && card.processes.is_empty() {
                gpu.control = Control::new(gpu.profile);
            }
        }
    }

    /// One call of the library, with what is broken in it.
    pub fn call(&mut self, world: &mut World, client: u64, call: &Call) -> Return {
        let kind = self.strike(call);
        let setter =
            call.symbol.contains("Set") && !call.symbol.contains("EventSet") || call.symbol.contains("DeviceReset");
        let instead = |act, code| Return { act, code, ..Return::default() };
        let returned = match kind {
            // Who does not come back from it has changed nothing either.
            Some(Kind::Hang) => return instead(Act::Hang, code::SUCCESS),
            Some(Kind::Segv) => return instead(Act::Segv, code::SUCCESS),
            Some(Kind::Abort) => return instead(Act::Abort, code::SUCCESS),
            Some(Kind::Code(code)) => instead(Act::None, code),
            Some(Kind::Ignored) if setter => instead(Act::None, code::SUCCESS),
            Some(Kind::Slow(ms)) => Return { act: Act::Slow(ms), ..call::answer(self, world, client, call) },
            Some(Kind::Race) => Return { act: Act::Race, ..call::answer(self, world, client, call) },
            Some(Kind::Garbage) => {
                let Return { code, values, text, .. } = call::answer(self, world, client, call);
                let values = values.iter().map(|_| i64::from_le_bytes(self.noise.bits().to_le_bytes())).collect();
                Return { code, act: Act::Sizes, values, text: text.chars().rev().collect() }
            }
            Some(Kind::Lost) => {
                if let Some(gpu) = call.card.and_then(|card| world.gpus.get_mut(card)) {
                    gpu.presence = Presence::Lost;
                }
                call::answer(self, world, client, call)
            }
            Some(Kind::Ignored) | None => call::answer(self, world, client, call),
        };
        if setter {
            let card = call.card.map_or_else(|| "-".to_owned(), |card| card.to_string());
            let arguments: Vec<String> = call.arguments.iter().map(i64::to_string).collect();
            let line = format!("{card} {} {} -> {}", call.symbol, arguments.join(" "), returned.code);
            push(&mut self.setters, MAX_SETTERS, line);
        }
        returned
    }

    /// What is broken about this call, if it is its turn.
    fn strike(&mut self, call: &Call) -> Option<Kind> {
        // A wait for events is made of many questions, of which the first counts.
        let again = call.symbol == "nvmlEventSetWait_v2" && call.arguments.get(1) == Some(&1);
        if again {
            return None;
        }
        // A fault of a card is also one of getting its handle.
        let card = call.card.or_else(|| call::asked_for(self, call).ok());
        let mut kind = None;
        for (fault, seen) in &mut self.faults {
            if fault.hits(card, &call.symbol) {
                if *seen >= fault.after {
                    kind = Some(fault.kind);
                }
                *seen = seen.saturating_add(1);
            }
        }
        kind
    }

    pub(super) fn break_it(&mut self, fault: Fault) -> Result<(), String> {
        if self.faults.iter().any(|(known, _)| *known == fault) {
            return Ok(());
        }
        if self.faults.len() >= MAX_FAULTS {
            return Err(format!("{MAX_FAULTS} faults of NVML at a time are enough; `clear all` first"));
        }
        self.faults.push((fault, 0));
        Ok(())
    }

    pub(crate) fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter().map(|(fault, _)| fault)
    }

    /// Each fault with how often it was met.
    pub(super) fn hits(&self) -> impl Iterator<Item = (u32, &Fault)> {
        self.faults.iter().map(|(fault, seen)| (seen.saturating_sub(fault.after), fault))
    }

    pub(super) fn setters(&self) -> impl Iterator<Item = &String> {
        self.setters.iter()
    }

    /// Takes away the faults of a card, or all; brings what is lost back, as a reset would.
    pub(crate) fn repair(&mut self, world: &mut World, which: Option<usize>) {
        self.faults.retain(|(fault, _)| which.is_some() && fault.card != which);
        for (index, (gpu, card)) in world.gpus.iter_mut().zip(&mut self.cards).enumerate() {
            if which.is_none_or(|which| which == index) {
                if gpu.presence != Presence::There {
                    gpu.presence = Presence::There;
                    gpu.control = Control::new(gpu.profile);
                    gpu.fans.iter_mut().for_each(|fan| fan.manual = None);
                }
                gpu.fans.iter_mut().for_each(|fan| fan.stuck = false);
                (card.told, card.recovery, card.width, card.ecc, card.rows) = (false, 0, 16, [0; 2], [0; 4]);
            }
        }
        let missing: Vec<usize> = (0..self.cards.len()).filter(|card| !self.order.contains(card)).collect();
        self.order.extend(missing);
    }

    /// The driver is loaded again: settings and counters go, lost cards are not found, everybody must init again.
    pub(super) fn reload(&mut self, world: &mut World) {
        for (gpu, card) in world.gpus.iter_mut().zip(&mut self.cards) {
            gpu.control = Control::new(gpu.profile);
            gpu.fans.iter_mut().for_each(|fan| fan.manual = None);
            *card = Card { energy_from: gpu.joules, width: card.width, told: card.told, ..Card::new() };
        }
        self.order = (0..self.cards.len()).filter(|card| is_there(world, *card)).collect();
        for client in &mut self.clients {
            (client.inits, client.sets) = (0, Vec::new());
        }
    }

    /// An Xid error: in the kernel log and for those who wait for it. 79 is a card that fell off the bus.
    pub(super) fn xid(&mut self, world: &mut World, card: usize, xid: u32) {
        let what = match xid {
            13 => "Graphics Engine Exception",
            31 => "MMU Fault",
            43 => "Ch 00000010, engmask 00000101",
            48 => "DBE (double bit error)",
            63 => "Row Remapper: New row marked for remapping, reset gpu to activate.",
            79 => "GPU has fallen off the bus.",
            119 => "Timeout waiting for RPC from GSP!",
            _ => "simulated",
        };
        // As `nvidia.ko` writes it, without the function of the address.
        let place = pci(card);
        self.log(&format!("NVRM: Xid (PCI:{}): {xid}, {what}", place.trim_end_matches(".0")));
        if matches!(xid, 48 | 62 | 64 | 74 | 79 | 95 | 119 | 120)
            && let Some(card) = self.cards.get_mut(card)
        {
            card.recovery = 1;
        }
        let number = i64::try_from(card).unwrap_or(0);
        for set in self.clients.iter_mut().flat_map(|client| &mut client.sets) {
            if set.registered.iter().any(|(registered, types)| *registered == card && types & XID_EVENT != 0) {
                push(&mut set.events, MAX_EVENTS, [number, XID_EVENT, xid.into()]);
            }
        }
        if xid == 79 {
            self.lose(world, card);
        }
    }

    /// Falls off the bus with nothing but a line in the kernel log.
    pub(super) fn fall(&mut self, world: &mut World, card: usize) {
        self.log(&format!("NVRM: GPU {}: GPU has fallen off the bus.", pci(card)));
        self.lose(world, card);
    }

    fn lose(&mut self, world: &mut World, card: usize) {
        if let (Some(gpu), Some(card)) = (world.gpus.get_mut(card), self.cards.get_mut(card)) {
            gpu.presence = Presence::Lost;
            card.told = true;
        }
    }

    /// Sees what became of the cards: one that switched itself off falls off the bus.
    pub(crate) fn notice(&mut self, world: &mut World) {
        for index in 0..self.cards.len() {
            let off = world.gpus.get(index).is_some_and(|gpu| gpu.presence == Presence::Off);
            let told = self.cards.get(index).is_none_or(|card| card.told);
            if off && !told {
                self.xid(world, index, 79);
                if let Some(gpu) = world.gpus.get_mut(index) {
                    gpu.presence = Presence::Off;
                }
            }
        }
    }

    fn log(&mut self, line: &str) {
        push(&mut self.kernel, MAX_KERNEL, line.to_owned());
    }

    /// Lines for the kernel log since the last time.
    pub(crate) fn take_log(&mut self) -> impl Iterator<Item = String> + '_ {
        self.kernel.drain(..)
    }

    /// Lanes of its link.
    pub(crate) fn width(&self, card: usize) -> i64 {
        self.cards.get(card).map_or(0, |card| card.width)
    }

    pub(super) fn add_set(client: &mut Client, id: i64) -> Result<i64, u32> {
        if client.sets.len() >= MAX_SETS {
            return Err(code::INSUFFICIENT_RESOURCES);
        }
        client.sets.push(EventSet { id, registered: Vec::new(), events: VecDeque::new() });
        Ok(id)
    }
}

pub(super) fn is_there(world: &World, card: usize) -> bool {
    world.gpus.get(card).is_some_and(|gpu| gpu.presence == Presence::There)
}

fn push<T>(queue: &mut VecDeque<T>, most: usize, item: T) {
    if queue.len() >= most {
        queue.pop_front();
    }
    queue.push_back(item);
}
