//! What all runs share, and the three kinds of run.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rigd::board::Board;
use rigd::clock;
use rigd::wire::Encoding;
use rigd_sim::Sim;

use crate::broker::Broker;
use crate::kernel::Sample;
use crate::listener::{Arrival, Listener};
use crate::process::{Interrupt, Running};
use crate::scratch::Scratch;
use crate::subject::{Programs, Subject, is_complete, topic};
use crate::{Options, hwmon, namespace};

/// A first message later than this is no message.
const FIRST_WITHIN: Duration = Duration::from_secs(10);
/// How often an interrupt and the children are looked after.
const LOOK: Duration = Duration::from_millis(100);
/// Between two starts: the last words of one are not the first instant of the next.
const PAUSE: Duration = Duration::from_millis(50);

/// Dropped from the top: the broker ends before its folder goes.
pub(crate) struct Lab {
    broker: Broker,
    listener: Listener,
    _sim: Sim,
    programs: Programs,
    interrupt: Interrupt,
    scratch: Scratch,
    /// Why there is no hwmon.
    pub(crate) no_files: Option<String>,
    /// What the bare publisher publishes: as much as the agent.
    pub(crate) bytes: usize,
    runs: u32,
}

/// A start.
pub(crate) struct First {
    /// From before the start to the arrival of the first telemetry.
    pub(crate) took: Duration,
    /// No reading was missing in it; the bare publisher's has none.
    pub(crate) complete: bool,
}

/// A window of steady running.
pub(crate) struct Window {
    pub(crate) took: Duration,
    /// CPU time and wake-ups by name of thread.
    pub(crate) threads: BTreeMap<String, (Duration, u64)>,
    /// At its end, KiB.
    pub(crate) rss: u64,
    pub(crate) pss: u64,
    /// Bytes of each message: payload, whole packet.
    pub(crate) messages: Vec<(usize, usize)>,
}

impl Lab {
    pub(crate) fn open(options: &Options) -> Result<Self> {
        for file in [&options.rigd, &options.bare] {
            ensure!(file.is_file(), "{} is no file", file.display());
        }
        let interrupt = Interrupt::listen()?;
        let scratch = Scratch::new()?;
        let class = scratch.path().join("class");
        hwmon::write_class(&class)?;
        // Before anything starts a thread.
        let no_files = namespace::cover_class(&class).err().map(|error| format!("{error:#}"));
        let board = scratch.path().join("files.toml");
        fs::write(&board, hwmon::board())?;
        let broker = Broker::start(scratch.path())?;
        let sim =
            Sim::start(&Board::load("simulated-8gpu")?, &scratch.path().join("rig"), rigd_sim::Options::default())?;
        let listener = Listener::start(broker.port)?;
        let programs = Programs {
            rigd: fs::canonicalize(&options.rigd)?,
            bare: fs::canonicalize(&options.bare)?,
            simulation: sim.dir().to_owned(),
            board,
            port: broker.port,
        };
        Ok(Self { broker, listener, _sim: sim, programs, interrupt, scratch, no_files, bytes: 0, runs: 0 })
    }

    /// What can be measured here, the agent first.
    pub(crate) fn subjects(&self) -> Vec<Subject> {
        let there = |subject: &Subject| *subject != Subject::Files || self.no_files.is_none();
        Subject::ALL.into_iter().filter(there).collect()
    }

    /// Starts the subject, waits for its first telemetry, ends it.
    pub(crate) fn first_publish(&mut self, subject: Subject) -> Result<First> {
        let (mut running, topic) = self.start(subject, Encoding::Postcard)?;
        let first = self.first(&mut running, &topic)?;
        if subject == Subject::Sockets {
            self.bytes = first.payload.len();
        }
        let complete = subject != Subject::Bare && is_complete(&first.payload)?;
        let started = running.started;
        drop(running);
        self.collect(None, &topic, PAUSE)?;
        Ok(First { took: first.at.saturating_duration_since(started), complete })
    }

    /// Lets the subject run, and counts.
    pub(crate) fn window(&mut self, options: &Options, subject: Subject) -> Result<Window> {
        let (mut running, topic) = self.start(subject, Encoding::Postcard)?;
        self.first(&mut running, &topic)?;
        self.collect(Some(&mut running), &topic, options.settle)?;
        let (from, before) = (clock::now(), Sample::take(running.pid())?);
        let messages = self.collect(Some(&mut running), &topic, options.window)?;
        let (after, took) = (Sample::take(running.pid())?, clock::now().saturating_duration_since(from));
        let expected = options.window.as_secs();
        ensure!(
            u64::try_from(messages.len())?.abs_diff(expected) <= 1 + expected / 20,
            "{}: {} messages in {expected} s",
            subject.title(),
            messages.len()
        );
        let messages = messages.iter().map(|message| (message.payload.len(), message.packet)).collect();
        Ok(Window { took, threads: after.since(&before), rss: after.rss, pss: after.pss, messages })
    }

    /// Payload and packet of a telemetry message as JSON.
    pub(crate) fn json_bytes(&mut self, options: &Options, subject: Subject) -> Result<(usize, usize)> {
        let (mut running, topic) = self.start(subject, Encoding::Json)?;
        self.first(&mut running, &topic)?;
        let messages = self.collect(Some(&mut running), &topic, options.settle)?;
        let last = messages.last().context("no telemetry as JSON")?;
        ensure!(is_complete(&last.payload)?, "{}: readings are missing in its JSON", subject.title());
        Ok((last.payload.len(), last.packet))
    }

    /// Each start is a rig of its own, so that no message of the last one is taken for one of this.
    fn start(&mut self, subject: Subject, encoding: Encoding) -> Result<(Running, String)> {
        self.runs += 1;
        let rig = format!("measure-{:03}", self.runs);
        let running = self.programs.start(subject, &rig, encoding, self.bytes, self.scratch.path())?;
        Ok((running, topic(&rig)))
    }

    fn first(&mut self, running: &mut Running, topic: &str) -> Result<Arrival> {
        let deadline = running.started + FIRST_WITHIN;
        while clock::now() < deadline {
            if let Some(arrival) = self.look(deadline)?.filter(|arrival| arrival.topic == topic) {
                return Ok(arrival);
            }
            running.still_running()?;
        }
        bail!("no telemetry on {topic} after {FIRST_WITHIN:?}")
    }

    /// All that arrives on `topic` in this time.
    fn collect(&mut self, mut running: Option<&mut Running>, topic: &str, time: Duration) -> Result<Vec<Arrival>> {
        let (until, mut arrivals) = (clock::now() + time, Vec::new());
        while clock::now() < until {
            arrivals.extend(self.look(until)?.filter(|arrival| arrival.topic == topic));
            running.as_mut().map_or(Ok(()), |running| running.still_running())?;
        }
        Ok(arrivals)
    }

    fn look(&mut self, until: Instant) -> Result<Option<Arrival>> {
        self.interrupt.check()?;
        self.broker.still_running().context("the broker")?;
        self.listener.next(until.min(clock::now() + LOOK))
    }
}
