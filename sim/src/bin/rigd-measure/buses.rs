//! Forty chips on four buses at ten ticks a second: what the agent costs beside its bare transactions, and how late its ticks are.
//!
//! Everything is simulated: a transaction is an exchange on a Unix socket where a rig has an ioctl. The same bytes are exchanged by
//! a process that does nothing else, four threads at the same rate, in the same run: the difference is the agent's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use embedded_hal::i2c::{I2c, Operation};
use rigd::board::{Board, ChipKind};
use rigd::bus::{Device, Error, Host, Link};
use rigd::clock;
use rigd::reading::Missing;
use rigd::wire::{Message, decode};
use rigd_sim::Sim;

use crate::Options;
use crate::broker::Broker;
use crate::kernel::Sample;
use crate::listener::Listener;
use crate::process::Running;
use crate::scratch::Scratch;
use crate::statistic::{Values, number};
use crate::table::columns;

const BUSES: usize = 4;
const TICK: Duration = Duration::from_millis(100);
const RIG: &str = "measure-buses";

/// Four buses of six power monitors, two thermometers, a fan controller and a supply.
fn board() -> String {
    let mut text = String::from("name = \"forty\"\nrevision = \"a\"\n");
    for bus in 0..BUSES {
        text += &format!("[bus.b{bus}]\nsocket = \"b{bus}\"\n");
        for chip in 0..6 {
            text += &format!(
                "[chip.M{bus}{chip}]\npart = \"ina226\"\nbus = \"b{bus}\"\naddr = {}\nshunt_microohms = 500\n[rail.r{bus}{chip}]\nchip = \"M{bus}{chip}\"\n",
                0x40 + chip
            );
        }
        for chip in 0..2 {
            text += &format!(
                "[chip.T{bus}{chip}]\npart = \"tmp75\"\nbus = \"b{bus}\"\naddr = {}\n[sensor.t{bus}{chip}]\nchip = \"T{bus}{chip}\"\n",
                0x48 + chip
            );
        }
        text += &format!("[chip.F{bus}]\npart = \"max31790\"\nbus = \"b{bus}\"\naddr = 0x20\n");
        for fan in 1..=6 {
            text += &format!(
                "[fan.f{bus}{fan}]\nchip = \"F{bus}\"\nchannel = {fan}\nmin_rpm = 500\nmax_rpm = 6_000\nstart_pct = 20\n"
            );
        }
        text += &format!(
            "[zone.z{bus}]\nsensors = [\"t{bus}0\", \"t{bus}1\"]\nfans = [{}]\ncurve = [[30_000, 30], [60_000, 100]]\ncritical_mc = 65_000\n",
            (1..=6).map(|fan| format!("\"f{bus}{fan}\"")).collect::<Vec<_>>().join(", ")
        );
        text += &format!(
            "[chip.P{bus}]\npart = \"pmbus\"\nbus = \"b{bus}\"\naddr = 0x58\n[supply.p{bus}]\nchip = \"P{bus}\"\ninput = \"in\"\noutput = \"out\"\n"
        );
    }
    text
}

/// Runs both in turn and gives the table.
pub(crate) fn run(options: &Options) -> Result<String> {
    let scratch = Scratch::new()?;
    let file = scratch.path().join("forty.toml");
    fs::write(&file, board())?;
    let name = file.to_str().context("a temporary directory with a plain name")?;
    let sim = Sim::start(&Board::load(name)?, &scratch.path().join("rig"), rigd_sim::Options::default())?;
    let broker = Broker::start(scratch.path())?;
    let listener = Listener::start(broker.port)?;
    let config = scratch.path().join("rigd.toml");
    fs::write(
        &config,
        format!(
            "rig = \"{RIG}\"\nboard = {file:?}\nsimulation = {:?}\nstate = {:?}\n[control]\ntick_hz = 10\n[telemetry]\nperiod_ms = 100\n\
             [local]\nsocket = {:?}\n[broker]\nurl = \"mqtt://127.0.0.1:{}\"\n",
            sim.dir(),
            scratch.path(),
            scratch.path().join("rigd.sock"),
            broker.port
        ),
    )?;
    let mut rows = vec![["", "CPU, ms/min", "wake-ups, 1/min"].map(str::to_owned).to_vec()];
    let mut late = Values::default();
    let mut agent = Command::new(&options.rigd);
    let mut agent = Running::start("rigd", agent.arg("run").arg("--config").arg(&config), scratch.path())?;
    thread::sleep(options.settle);
    let mut row =
        |name: String, cpu: f64, wakeups: f64| rows.push(vec![name, format!("{cpu:.0}"), format!("{wakeups:.0}")]);
    let whole = watch(&mut agent, options.window, &mut row, "rigd", || {
        while let Some(arrival) = listener.next(clock::now())? {
            if let (_, Message::Telemetry(telemetry)) = decode(&arrival.payload)? {
                late.push(number(telemetry.tick_late_us));
            }
        }
        Ok(())
    })?;
    drop(agent);
    let mut bare = Command::new(std::env::current_exe()?);
    let mut bare = Running::start("bare", bare.arg("--replay").arg(&file).arg(sim.dir()), scratch.path())?;
    thread::sleep(options.settle);
    let floor = watch(&mut bare, options.window, &mut row, "bare transactions", || Ok(()))?;
    drop(bare);
    let late = |part: f64| late.part(part).map_or_else(|| "?".to_owned(), |micros| format!("{micros:.0}"));
    Ok(format!(
        "40 chips on {BUSES} simulated buses, 10 ticks and 10 telemetry messages a second\n{}\nthe agent beside its bare transactions: {:.2} x\n\
         tick lateness, us: p50 {}, p99 {}, most {}\n",
        columns(&rows),
        whole / floor,
        late(0.5),
        late(0.99),
        late(1.0)
    ))
}

/// CPU a minute of a process, thread by thread and in all.
fn watch(
    running: &mut Running,
    window: Duration,
    row: &mut impl FnMut(String, f64, f64),
    name: &str,
    mut meanwhile: impl FnMut() -> Result<()>,
) -> Result<f64> {
    let (from, before) = (clock::now(), Sample::take(running.pid())?);
    while clock::now().saturating_duration_since(from) < window {
        meanwhile()?;
        running.still_running()?;
        thread::sleep(TICK);
    }
    let after = Sample::take(running.pid())?;
    let minutes = clock::now().saturating_duration_since(from).as_secs_f64() / 60.0;
    let (mut all, mut woken) = (0.0, 0.0);
    for (thread, (cpu, wakeups)) in after.since(&before) {
        let (cpu, wakeups) = (cpu.as_secs_f64() * 1e3 / minutes, number(wakeups) / minutes);
        row(format!("  {thread}"), cpu, wakeups);
        (all, woken) = (all + cpu, woken + wakeups);
    }
    row(name.to_owned(), all, woken);
    Ok(all)
}

/// One transaction as it was made.
enum Step {
    Write(Vec<u8>),
    Read(usize),
}

type Transactions = Arc<Mutex<Vec<Vec<Step>>>>;

/// Carries transactions out and remembers them.
struct Recorder {
    device: Device,
    log: Transactions,
}

impl Link for Recorder {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), Error> {
        let steps = operations.iter().map(|operation| match operation {
            Operation::Write(bytes) => Step::Write(bytes.to_vec()),
            Operation::Read(buffer) => Step::Read(buffer.len()),
        });
        if let Ok(mut log) = self.log.lock() {
            log.push(steps.collect());
        }
        self.device.transaction(address, operations)
    }
}

/// The bare process: what a pass of each driver exchanges, ten times a second on each bus, for ever.
pub(crate) fn replay(file: &Path, simulation: &Path) -> Result<()> {
    let board = Board::load(file.to_str().context("a plain name")?)?;
    let host = Host { simulation: Some(PathBuf::from(simulation)), ..Host::default() };
    let mut threads = Vec::new();
    for bus in &board.buses {
        let mut chips = Vec::new();
        for chip in &bus.chips {
            let ChipKind::I2c { part, addr, segment, settings } = &chip.kind else { continue };
            let open = || host.open(&bus.adapter, *segment, *addr);
            let log = Transactions::default();
            let recorder = Recorder { device: open()?, log: Arc::clone(&log) };
            let mut driver = (part.open)(Device::new(*addr, Box::new(recorder)), settings);
            let failed = |error| anyhow::anyhow!("{}: {error}", chip.refdes);
            driver.identify().map_err(failed)?;
            driver.configure().map_err(failed)?;
            driver.read(&mut part.missing(Missing::Stale)).map_err(failed)?;
            // The second pass is what every later one is.
            if let Ok(mut log) = log.lock() {
                log.clear();
            }
            driver.read(&mut part.missing(Missing::Stale)).map_err(failed)?;
            let Ok(mut log) = log.lock() else { bail!("a driver panicked") };
            chips.push((*addr, open()?, std::mem::take(&mut *log)));
        }
        threads.push(thread::spawn(move || {
            loop {
                let next = clock::now() + TICK;
                for (addr, device, transactions) in &mut chips {
                    for steps in &*transactions {
                        exchange(device, *addr, steps);
                    }
                }
                thread::sleep(next.saturating_duration_since(clock::now()));
            }
        }));
    }
    threads.into_iter().try_for_each(|thread| match thread.join() {
        Ok(()) => Ok(()),
        Err(_) => bail!("a bus thread panicked"),
    })
}

fn exchange(device: &mut Device, addr: u8, steps: &[Step]) {
    let mut buffer = [0; 64];
    // A refused command costs what an answered one does.
    let _ = match steps {
        [Step::Write(bytes)] => device.write(addr, bytes),
        [Step::Write(bytes), Step::Read(length)] => {
            device.write_read(addr, bytes, buffer.get_mut(..*length).unwrap_or_default())
        }
        [Step::Read(length)] => device.read(addr, buffer.get_mut(..*length).unwrap_or_default()),
        _ => Ok(()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_board_has_forty_chips_on_four_buses() {
        let board = Board::parse("forty.toml", &board()).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!((board.buses.len(), board.chips().count(), board.fans.len()), (4, 40, 24));
    }
}
