//! World, chips and faults of one board put together.
//!
//! Rail `i` on a power monitor is card `i`; sensors named `intake...` sit in the intake, the others in the exhaust; a chip
//! that speaks as a supply is one, named after the board's supply that uses it. Channels that the board does not name have
//! nothing connected.

mod bus;
mod wired;

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use rigd::board::{Board, ChipKind};
use rigd::bus::Adapter;
use rigd::bus::socket::Status;

use crate::chip::pmbus::Absent;
use crate::chip::{Ailment, Chip};
use crate::fault::{Fault, Kind};
use crate::nvml::Driver;
use crate::random::Random;
use crate::wire::{Outcome, Request};
use crate::world::card::{MAX_CARDS, Profile};
use crate::world::{MAX_STEP, World};
use bus::{Bus, Mux, Slot};
use wired::{At, Wired, layout};

/// Faults at a time; the next is refused.
const MAX_FAULTS: usize = 256;

/// A simulated rig without its sockets.
pub(crate) struct Rig {
    pub(crate) world: World,
    pub(crate) driver: Driver,
    pub(crate) buses: Vec<Bus>,
    faults: Vec<Fault>,
    noise: Random,
}

/// What a transaction has to wait for, in wall time, before anything else happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    None,
    Slow(Duration),
    Stuck,
}

impl Rig {
    /// The rig of this board, with the default cards.
    #[cfg(test)]
    pub(crate) fn new(board: &Board, seed: u64, absent: Absent) -> Result<Self> {
        Self::with_cards(board, seed, absent, &[])
    }

    /// The rig of this board; its first cards of these kinds.
    pub(crate) fn with_cards(board: &Board, seed: u64, absent: Absent, cards: &[&'static Profile]) -> Result<Self> {
        let mut layout = layout(board);
        let rails = layout.gpus.len();
        ensure!(cards.len() <= rails, "board {} has rails for {rails} GPUs, not for {}", board.name, cards.len());
        ensure!(
            rails <= MAX_CARDS,
            "board {} has {rails} rails; the simulated driver knows {MAX_CARDS} GPUs",
            board.name
        );
        layout.profiles = cards.to_vec();
        let mut buses = Vec::new();
        for (index, bus) in board.buses.iter().enumerate() {
            let Adapter::Socket(socket) = &bus.adapter else { continue };
            let mut slots = Vec::new();
            for (chip, on_board) in bus.chips.iter().enumerate() {
                let ChipKind::I2c { part, addr, segment, settings } = &on_board.kind else { continue };
                let place = At { board, bus: index, chip };
                let wired = Wired::new(&place, on_board, part, *addr, settings, absent, &mut layout)?;
                let refdes = on_board.refdes.clone();
                slots.push(Slot { refdes, addr: *addr, segment: *segment, wired, gone: false });
            }
            let muxes = bus.muxes.iter().map(Mux::new).collect();
            buses.push(Bus { name: bus.name.clone(), socket: socket.clone(), muxes, slots });
        }
        ensure!(!buses.is_empty(), "board {} has no simulated bus (none with `socket = \"...\"`)", board.name);
        let (world, driver) = (World::new(&layout, seed), Driver::new(rails, seed));
        let mut rig = Self { world, driver, buses, faults: Vec::new(), noise: Random::new(!seed) };
        rig.exchange();
        Ok(rig)
    }

    /// Moves on by `dt`, in steps of at most [`MAX_STEP`].
    pub(crate) fn advance(&mut self, dt: Duration) {
        let mut left = dt;
        while !left.is_zero() {
            let step = left.min(MAX_STEP);
            self.world.step(step);
            self.driver.notice(&mut self.world);
            self.exchange();
            left -= step;
        }
    }

    /// What a transaction with this chip has to wait for.
    pub(crate) fn hold(&self, bus: usize, addr: u8) -> Hold {
        let Some(bus) = self.buses.get(bus) else { return Hold::None };
        let mut hold = Hold::None;
        for kind in self.faults.iter().filter_map(|fault| fault.hits(&bus.name, addr)) {
            match kind {
                Kind::Stuck => return Hold::Stuck,
                Kind::Slow(delay) => hold = Hold::Slow(delay),
                Kind::Nack | Kind::Gone | Kind::WrongBytes | Kind::WrongId | Kind::Frozen | Kind::BusGone => {}
            }
        }
        hold
    }

    /// One transaction.
    pub(crate) fn transact(&mut self, bus: usize, request: &Request) -> Outcome {
        if self.buses.get(bus).is_none_or(|bus| self.is_gone(&bus.name)) {
            return Outcome::failed(Status::Bus);
        }
        let Some(bus) = self.buses.get_mut(bus) else { return Outcome::failed(Status::Bus) };
        let kinds: Vec<Kind> = self.faults.iter().filter_map(|fault| fault.hits(&bus.name, request.addr)).collect();
        if kinds.contains(&Kind::Nack) {
            return Outcome::failed(Status::NoAddress);
        }
        let noise = kinds.contains(&Kind::WrongBytes).then_some(&mut self.noise);
        bus.transact(request, &mut self.world, noise)
    }

    /// Breaks something more; the same fault twice is once.
    pub(crate) fn break_it(&mut self, fault: Fault) -> Result<()> {
        match &fault {
            Fault::On { bus, addr, .. } => {
                let there = self.bus(bus)?.addresses();
                if let Some(addr) = addr
                    && !there.contains(addr)
                {
                    let there: Vec<String> = there.iter().map(|addr| format!("{addr:#04x}")).collect();
                    bail!("no chip at {addr:#04x} on bus `{bus}`; there are {}", there.join(", "));
                }
            }
            Fault::FanSeized(name) => {
                let supply = self.world.supplies.iter().any(|supply| supply.name == *name);
                ensure!(supply || self.fan(name).is_some(), "no fan `{name}`; there are {}", self.fan_names());
            }
        }
        if !self.faults.contains(&fault) {
            ensure!(self.faults.len() < MAX_FAULTS, "{MAX_FAULTS} faults at a time are enough; `clear all` first");
            self.faults.push(fault);
            self.apply();
        }
        Ok(())
    }

    /// Repairs what `keep` does not want kept, and says how many.
    pub(crate) fn repair(&mut self, keep: impl Fn(&Fault) -> bool) -> usize {
        let before = self.faults.len();
        self.faults.retain(keep);
        self.apply();
        before - self.faults.len()
    }

    pub(crate) fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// Whether the adapter of a bus is away.
    pub(crate) fn is_gone(&self, bus: &str) -> bool {
        let away = |fault: &Fault| matches!(fault, Fault::On { bus: on, kind: Kind::BusGone, .. } if on == bus);
        self.faults.iter().any(away)
    }

    pub(crate) fn bus(&self, name: &str) -> Result<&Bus> {
        let known = || self.buses.iter().map(|bus| bus.name.as_str()).collect::<Vec<_>>().join(", ");
        match self.buses.iter().find(|bus| bus.name == name) {
            Some(bus) => Ok(bus),
            None => bail!("no simulated bus `{name}`; there are {}", known()),
        }
    }

    /// Index of a fan by name or by number from 1.
    fn fan(&self, name: &str) -> Option<usize> {
        let by_number = || name.parse::<usize>().ok()?.checked_sub(1).filter(|index| *index < self.world.fans.len());
        self.world.fans.iter().position(|fan| fan.name == name).or_else(by_number)
    }

    fn fan_names(&self) -> String {
        let fans = self.world.fans.iter().map(|fan| fan.name.as_str());
        fans.chain(self.world.supplies.iter().map(|supply| supply.name.as_str())).collect::<Vec<_>>().join(", ")
    }

    /// Chips and world see each other.
    fn exchange(&mut self) {
        for slot in self.buses.iter_mut().flat_map(|bus| &mut bus.slots) {
            slot.wired.sense(&self.world);
            slot.wired.drive(&mut self.world, slot.gone);
        }
    }

    /// Makes chips and fans be what the faults say.
    fn apply(&mut self) {
        for bus in &mut self.buses {
            let slots = bus.slots.iter_mut().map(|slot| (slot.addr, slot.wired.chip(), &mut slot.gone));
            let muxes = bus
                .muxes
                .iter_mut()
                .map(|mux| -> (u8, &mut dyn Chip, &mut bool) { (mux.addr, &mut mux.chip, &mut mux.gone) });
            for (addr, chip, was_gone) in slots.chain(muxes) {
                let is = |kind| self.faults.iter().any(|fault| fault.hits(&bus.name, addr) == Some(kind));
                chip.ail(Ailment { frozen: is(Kind::Frozen), wrong_id: is(Kind::WrongId) });
                let gone = is(Kind::Gone);
                if *was_gone && !gone {
                    chip.reset();
                }
                *was_gone = gone;
            }
        }
        let seized: Vec<&String> = self.faults.iter().filter_map(Fault::seized).collect();
        let fans: Vec<usize> = seized.iter().filter_map(|name| self.fan(name)).collect();
        for (index, fan) in self.world.fans.iter_mut().enumerate() {
            fan.seized = fans.contains(&index);
        }
        for supply in &mut self.world.supplies {
            supply.fan_seized = seized.contains(&&supply.name);
        }
        self.exchange();
    }
}

#[cfg(test)]
mod tests;
