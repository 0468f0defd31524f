//! The simulated rig as a test holds it: start, break, look behind the chips, stop.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rigd::board::Board;
use rigd::units::{Duty, Rpm};

use crate::chip::pmbus::Absent;
use crate::control::MAX_SPEED;
use crate::fault::Fault;
use crate::nvml::files::Files;
use crate::quantize::{whole, word};
use crate::rig::Rig;
use crate::server::{Gate, Port, Shared, lock, run_clock};
use crate::wire::{Outcome, Request};
use crate::world::World;
use crate::world::card::Profile;

/// How a simulated rig runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// What chance there is in it.
    pub seed: u64,
    /// Simulated seconds per second, 0 to 1000. Chip watchdogs run on simulated time too.
    pub speed: f64,
    /// Time stands but for [`Sim::advance`].
    pub manual: bool,
    /// How PMBus supplies answer commands that they have not got.
    pub absent: Absent,
    /// What kind its first cards are; the rest are of the default kind. See [`Profile::list`].
    pub gpus: Vec<&'static Profile>,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 1, speed: 1.0, manual: false, absent: Absent::default(), gpus: Vec::new() }
    }
}

/// A simulated rig that serves its sockets until it is dropped.
pub struct Sim {
    shared: Arc<Shared>,
    clock: Option<JoinHandle<()>>,
    dir: PathBuf,
}

impl Sim {
    /// Puts the board's chips on Unix sockets `DIR/<socket>`, one a bus, the cards' driver on `DIR/nvml`, and `DIR/control`.
    /// All listen when it returns. The files that a kernel would show of the cards are there too.
    ///
    /// # Errors
    /// A board without simulated buses or with a part that has no model; a directory that cannot be written or that
    /// another simulated rig serves.
    pub fn start(board: &Board, dir: &Path, options: Options) -> Result<Self> {
        let speed = options.speed;
        ensure!((0.0..=MAX_SPEED).contains(&speed), "speed {speed} is outside 0 to {MAX_SPEED}");
        let rig = Rig::with_cards(board, options.seed, options.absent, &options.gpus)?;
        let mut names = HashSet::from(["control", "nvml", "kmsg", "sys"]);
        for bus in &rig.buses {
            ensure!(names.insert(&bus.socket), "two sockets of the name `{}`", bus.socket);
        }
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let buses = rig.buses.iter().enumerate().map(|(index, bus)| Port::bus(dir, &bus.socket, index)).collect();
        let shared = Arc::new(Shared {
            rig: Mutex::new(rig),
            speed: Mutex::new(speed),
            gate: Gate::default(),
            buses,
            control: Port::control(dir),
            nvml: Port::nvml(dir),
            files: Mutex::default(),
            doors: Mutex::default(),
        });
        // From here on dropping it closes what was opened.
        let mut sim = Self { shared, clock: None, dir: dir.to_owned() };
        sim.shared.open_or_close()?;
        sim.shared.nvml.open(&sim.shared)?;
        *lock(&sim.shared.files) = Some(Files::new(dir)?);
        sim.shared.show();
        sim.shared.control.open(&sim.shared)?;
        if !options.manual {
            let shared = Arc::clone(&sim.shared);
            sim.clock = Some(thread::Builder::new().name("sim clock".to_owned()).spawn(move || run_clock(&shared))?);
        }
        Ok(sim)
    }

    /// Where its sockets are: the `simulation` of a configuration.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Breaks something more.
    ///
    /// # Errors
    /// A bus, chip or fan that the board has not got.
    pub fn fault(&self, fault: Fault) -> Result<()> {
        lock(&self.shared.rig).break_it(fault)?;
        self.shared.open_or_close()
    }

    /// Repairs everything.
    ///
    /// # Errors
    /// An adapter's socket that could not be opened again.
    pub fn clear(&self) -> Result<()> {
        self.shared.control("clear all").map(|_| ())
    }

    /// Does what one line on the control socket would do, and answers in lines.
    ///
    /// # Errors
    /// A command that is not understood or not possible.
    pub fn control(&self, line: &str) -> Result<String> {
        self.shared.control(line)
    }

    /// One transaction on the bus of this name, as if this were the agent.
    ///
    /// # Errors
    /// A bus that the board has not got.
    pub fn transact(&self, bus: &str, request: &Request) -> Result<Outcome> {
        let index = lock(&self.shared.rig).buses.iter().position(|known| known.name == bus);
        let index = index.with_context(|| format!("no simulated bus `{bus}`"))?;
        Ok(self.shared.transact(index, request))
    }

    /// True drive and speed of the frame's fans, whatever the chips say.
    #[must_use]
    pub fn fans(&self) -> Vec<(String, Duty, Rpm)> {
        self.world(|world| {
            let fans = world.fans.iter();
            fans.map(|fan| {
                let hundredths = u32::try_from(whole(fan.duty * 10_000.0, 0, 10_000)).unwrap_or(0);
                (fan.name.clone(), Duty::saturating(hundredths), Rpm(word(fan.rpm, u16::MAX)))
            })
            .collect()
        })
    }

    /// Looks at the world, or changes it, while it stands still; `look` must not use this `Sim` meanwhile.
    pub fn world<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut lock(&self.shared.rig).world)
    }

    /// Moves simulated time on at once.
    pub fn advance(&self, time: Duration) {
        lock(&self.shared.rig).advance(time);
        self.shared.show();
    }
}

impl Drop for Sim {
    /// Every thread ends within a moment: sockets are shut down, the gate wakes who waits.
    fn drop(&mut self) {
        self.shared.gate.close();
        self.shared.control.close();
        self.shared.control.join();
        self.shared.nvml.close();
        self.shared.nvml.join();
        lock(&self.shared.files).take();
        for port in &self.shared.buses {
            port.close();
            port.join();
        }
        if let Some(clock) = self.clock.take() {
            clock.join().ok();
        }
    }
}
