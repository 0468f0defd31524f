//! Sockets around the rig: one listener a bus, one for control.
//!
//! Blocking threads: one a listener, one a connection. Each waits for bytes, a lock, or at most [`BUS_TIME_OUT`] inside
//! a stuck bus, and all of that ends when the sockets are shut down and the gate closes.

mod port;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rigd::bus::socket::Status;

use port::Serves;
pub(crate) use port::{Gate, Port};

use crate::control::{Said, obey};
use crate::nvml::files::Files;
use crate::nvml::{Call, NotUnderstood, Return, code};
use crate::rig::{Hold, Rig};
use crate::wire::{Outcome, Request};

/// How long a stuck bus holds a transfer: what a kernel adapter does by default.
pub(crate) const BUS_TIME_OUT: Duration = Duration::from_secs(1);
/// Longest line on the control socket; a longer one is cut off with its connection.
const MAX_LINE: u16 = 1024;
/// Longest call of NVML: one for some thousand fields.
const MAX_CALL: u16 = 16 * 1024;

/// Takes a lock that may be poisoned: a thread that panicked has broken its own connection, not the rig.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What every thread shares.
pub(crate) struct Shared {
    pub(crate) rig: Mutex<Rig>,
    /// Simulated seconds per second.
    pub(crate) speed: Mutex<f64>,
    pub(crate) gate: Gate,
    /// One socket for each of the rig's buses, in their order.
    pub(crate) buses: Vec<Port>,
    pub(crate) control: Port,
    /// The driver of the cards.
    pub(crate) nvml: Port,
    /// What a kernel would show of the cards.
    pub(crate) files: Mutex<Option<Files>>,
    /// Held while sockets are opened or closed, so that two commands at once do not undo each other.
    pub(crate) doors: Mutex<()>,
}

impl Shared {
    /// Does what one line of control says, and answers.
    pub(crate) fn control(self: &Arc<Self>, line: &str) -> Result<String> {
        let said = obey(&mut lock(&self.rig), line)?;
        self.show();
        self.open_or_close()?;
        match said {
            Said::Text(text) => Ok(text),
            Said::Speed(speed) => {
                *lock(&self.speed) = speed;
                Ok(String::new())
            }
        }
    }

    /// Brings the files of the cards up to date.
    pub(crate) fn show(&self) {
        let mut rig = lock(&self.rig);
        let Rig { world, driver, .. } = &mut *rig;
        if let Some(files) = lock(&self.files).as_mut() {
            files.show(driver, world);
        }
    }

    /// Adapters that are away have no socket, the others have one.
    pub(crate) fn open_or_close(self: &Arc<Self>) -> Result<()> {
        let _doors = lock(&self.doors);
        let gone: Vec<bool> = {
            let rig = lock(&self.rig);
            rig.buses.iter().map(|bus| rig.is_gone(&bus.name)).collect()
        };
        for (port, gone) in self.buses.iter().zip(gone) {
            if gone {
                port.close();
            } else {
                port.open(self)?;
            }
        }
        Ok(())
    }

    /// One transaction on a bus, with all that holds it up.
    pub(crate) fn transact(&self, bus: usize, request: &Request) -> Outcome {
        let Some(port) = self.buses.get(bus) else { return Outcome::failed(Status::Bus) };
        let _line = port.line();
        let hold = lock(&self.rig).hold(bus, request.addr);
        let timed_out = match hold {
            Hold::None => false,
            Hold::Slow(delay) => {
                self.gate.wait(delay.min(BUS_TIME_OUT));
                delay >= BUS_TIME_OUT
            }
            Hold::Stuck => {
                self.gate.wait(BUS_TIME_OUT);
                true
            }
        };
        if timed_out { Outcome::failed(Status::TimedOut) } else { lock(&self.rig).transact(bus, request) }
    }
}

/// Serves one connection until its client is gone or breaks the protocol.
fn serve(serves: Serves, stream: UnixStream, shared: &Arc<Shared>) -> Result<()> {
    match serves {
        Serves::Bus(bus) => serve_bus(bus, stream, shared),
        Serves::Control => serve_control(stream, shared),
        Serves::Nvml => serve_nvml(stream, shared),
    }
}

/// A process that has loaded the fake NVML library, until it is gone.
fn serve_nvml(stream: UnixStream, shared: &Shared) -> Result<()> {
    let client = lock(&shared.rig).driver.connect();
    let served = serve_calls(stream, shared, client);
    let mut rig = lock(&shared.rig);
    let Rig { world, driver, .. } = &mut *rig;
    driver.disconnect(world, client);
    served
}

fn serve_calls(stream: UnixStream, shared: &Shared, client: u64) -> Result<()> {
    let mut reader = BufReader::new(&stream);
    loop {
        let mut line = String::new();
        let read = reader.by_ref().take(MAX_CALL.into()).read_line(&mut line)?;
        if read == 0 {
            return Ok(());
        }
        ensure!(line.ends_with('\n'), "a call that does not end");
        let returned = match line.trim_end_matches('\n').parse::<Call>() {
            Ok(call) => {
                let mut rig = lock(&shared.rig);
                let Rig { world, driver, .. } = &mut *rig;
                driver.call(world, client, &call)
            }
            Err(NotUnderstood) => Return { code: code::UNKNOWN, ..Return::default() },
        };
        shared.show();
        (&stream).write_all(format!("{returned}\n").as_bytes())?;
    }
}

fn serve_bus(bus: usize, stream: UnixStream, shared: &Shared) -> Result<()> {
    let mut reader = BufReader::new(&stream);
    while let Some(request) = Request::read(&mut reader)? {
        let Outcome { status, bytes, .. } = shared.transact(bus, &request);
        let mut reply = vec![status as u8];
        // Only a success is followed by bytes.
        if status == Status::Ok {
            reply.extend(bytes);
        }
        (&stream).write_all(&reply)?;
    }
    Ok(())
}

/// Each line is answered by lines of its own and then `ok`, or by one line `error: ...`.
fn serve_control(stream: UnixStream, shared: &Arc<Shared>) -> Result<()> {
    let mut reader = BufReader::new(&stream);
    loop {
        let mut line = String::new();
        let read = reader.by_ref().take(MAX_LINE.into()).read_line(&mut line)?;
        if read == 0 {
            return Ok(());
        }
        ensure!(line.ends_with('\n') || read < MAX_LINE.into(), "a line of over {MAX_LINE} bytes");
        let reply = match shared.control(line.trim()) {
            Ok(text) => format!("{text}ok\n"),
            Err(error) => format!("error: {}\n", format!("{error:#}").replace('\n', " ")),
        };
        (&stream).write_all(reply.as_bytes())?;
    }
}

/// Moves the world on with the wall clock, 20 times a second.
#[expect(clippy::disallowed_methods, reason = "the shell that turns the wall clock into the world's time")]
pub(crate) fn run_clock(shared: &Shared) {
    const TICK: Duration = Duration::from_millis(50);
    /// Further behind than this (a suspended machine), time is let go.
    const MOST_BEHIND: Duration = Duration::from_secs(1);
    let mut next = Instant::now() + TICK;
    while !shared.gate.wait(next.saturating_duration_since(Instant::now())) {
        let speed = *lock(&shared.speed);
        lock(&shared.rig).advance(TICK.mul_f64(speed));
        shared.show();
        next += TICK;
        if next + MOST_BEHIND < Instant::now() {
            next = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests;
