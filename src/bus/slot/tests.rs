use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::*;
use crate::board::Chip;
use crate::chip::{Certainty, Driver, Kernel, Part, Registers, Settings};
use crate::clock;
use crate::reading::Fan;
use crate::units::Rpm;

/// What the chip of the test does next, and what was asked of it.
#[derive(Default)]
struct Script {
    reads: VecDeque<Result<(), ChipError>>,
    /// A channel whose output does not take a drive.
    /// A channel that takes no drive, and its answer.
    broken: Option<(usize, fn() -> ChipError)>,
    configured: u32,
    held: [Duty; 2],
    /// What it makes of every drive; none: what was ordered.
    coarse: Option<Duty>,
    /// Drives that were set, channel by channel.
    set: Vec<(usize, Duty)>,
}

struct Scripted(Arc<Mutex<Script>>);

impl Driver<Error> for Scripted {
    fn identify(&mut self) -> Result<(), ChipError> {
        Ok(())
    }

    fn configure(&mut self) -> Result<(), ChipError> {
        self.0.lock().unwrap().configured += 1;
        Ok(())
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), ChipError> {
        let mut script = self.0.lock().unwrap();
        script.reads.pop_front().unwrap_or(Ok(()))?;
        for (fan, held) in reading.fan.iter_mut().zip(script.held) {
            *fan = Fan { rpm: Ok(Rpm(1000)), duty: Ok(held), fault: false };
        }
        Ok(())
    }

    fn set_duty(&mut self, channel: usize, duty: Duty) -> Result<(), ChipError> {
        let mut script = self.0.lock().unwrap();
        script.set.push((channel, duty));
        if let Some((_, error)) = script.broken.filter(|(broken, _)| *broken == channel) {
            return Err(error());
        }
        script.held[channel] = script.coarse.unwrap_or(duty);
        Ok(())
    }

    fn holds(&mut self, _: usize, ordered: Duty, reads: Duty) -> bool {
        reads == self.0.lock().unwrap().coarse.unwrap_or(ordered)
    }
}

struct Bench {
    slot: Slot,
    script: Arc<Mutex<Script>>,
    reading: ChipReading,
    now: Instant,
}

const FAN: Part = Part {
    name: "scripted",
    about: "",
    addresses: &[0x20..=0x2f],
    certainty: Certainty::Word,
    power: &[],
    temperature: &[],
    fan: &["1", "2"],
    drives_fans: true,
    takes: &[],
    watchdog_s: &[],
    registers: Registers::of(&[]),
    kernel: Kernel::NONE,
    open: |_, _| unreachable!("the tests hand their driver in"),
};
static PART: Part = FAN;

impl Bench {
    fn new() -> Self {
        let kind = ChipKind::I2c { part: &PART, addr: 0x20, segment: None, settings: Settings::default() };
        let mut slot = Slot::new(Chip { refdes: "U1".to_owned(), kind }, "b");
        let script = Arc::new(Mutex::new(Script::default()));
        slot.state = State::Live(Box::new(Scripted(Arc::clone(&script))));
        Self { reading: slot.missing(Missing::Stale), slot, script, now: clock::now() }
    }

    fn pass(&mut self, duty: Duty) -> Outcome {
        self.now += Duration::from_secs(1);
        // There is no adapter: a chip that has to be brought up anew is not found.
        let adapter = Adapter::Kernel { selector: "none".parse().unwrap(), timeout: None };
        let host = Host { sysfs: "/nonexistent".into(), ..Host::default() };
        self.slot.pass(&host, &adapter, self.now, &[(0, duty), (1, duty)], &mut self.reading, Health::Ok)
    }

    fn taken(&self) -> Vec<(usize, Duty)> {
        std::mem::take(&mut self.script.lock().unwrap().set)
    }
}

#[test]
fn a_drive_is_set_once_and_again_only_when_it_changes_or_drifts() {
    let half = Duty::from_percent(50).unwrap();
    let mut bench = Bench::new();
    bench.pass(half);
    assert_eq!(bench.taken(), [(0, half), (1, half)]);
    assert_eq!(bench.pass(half).repairs, 0);
    assert_eq!(bench.taken(), []);
    bench.script.lock().unwrap().held[1] = Duty::OFF;
    assert_eq!(bench.pass(half).repairs, 1);
    assert_eq!(bench.taken(), [(1, half)]);
}

#[test]
fn what_a_part_with_coarse_steps_made_of_a_drive_is_no_drift() {
    let (half, more) = (Duty::from_percent(50).unwrap(), Duty::from_percent(55).unwrap());
    let mut bench = Bench::new();
    bench.script.lock().unwrap().coarse = Some(more);
    bench.pass(half);
    assert_eq!(bench.taken(), [(0, half), (1, half)]);
    assert_eq!(bench.pass(half).repairs, 0);
    assert_eq!(bench.taken(), []);
    bench.script.lock().unwrap().held[1] = half;
    assert_eq!(bench.pass(half).repairs, 1);
    assert_eq!(bench.taken(), [(1, half)]);
}

#[test]
fn fans_on_one_output_get_the_most_that_one_of_them_is_to_have() {
    static SHARED: Part =
        Part { kernel: Kernel { fan: &[("fan1", "pwm1", 255), ("fan2", "pwm1", 255)], ..Kernel::NONE }, ..FAN };
    let (half, more) = (Duty::from_percent(50).unwrap(), Duty::from_percent(55).unwrap());
    let mut bench = Bench::new();
    assert_eq!(bench.slot.wanted(0, &[(0, half), (1, more)]), half);
    if let ChipKind::I2c { part, .. } = &mut bench.slot.chip.kind {
        *part = &SHARED;
    }
    for duties in [[(0, half), (1, more)], [(0, more), (1, half)]] {
        assert_eq!([0, 1].map(|channel| bench.slot.wanted(channel, &duties)), [more, more]);
    }
}

/// One output that takes no drive keeps no other fan from its air, and is not tried for ever at the same pace.
#[test]
fn a_setting_that_will_not_hold_stops_one_fan_and_is_quarantined() {
    let mut bench = Bench::new();
    bench.script.lock().unwrap().broken = Some((0, || chip::Error::ReadBack { register: 0x40, written: 1, found: 0 }));
    for attempt in 1..=REFUSALS {
        assert_eq!(bench.pass(Duty::FULL).health, Health::Ok, "attempt {attempt}");
        let tried: Vec<usize> = bench.taken().iter().map(|(channel, _)| *channel).collect();
        assert_eq!(tried.first(), Some(&0), "attempt {attempt}");
        assert!(bench.reading.fan[0].fault && !bench.reading.fan[1].fault);
    }
    assert_eq!(bench.script.lock().unwrap().held[1], Duty::FULL);
    bench.pass(Duty::FULL);
    assert_eq!(bench.taken(), [], "left alone for a minute");
    assert!(bench.reading.fan[0].fault, "and still said to be broken");
    bench.now += BACK_OFF.1;
    bench.pass(Duty::FULL);
    assert_eq!(bench.taken(), [(0, Duty::FULL)]);
}

#[test]
fn an_output_that_is_not_ours_to_set_is_a_fault_of_that_fan_alone() {
    let mut bench = Bench::new();
    for refusal in [|| chip::Error::NoChannel, || chip::Error::Refused(Error::Os(30))] {
        bench.script.lock().unwrap().broken = Some((0, refusal));
        assert_eq!(bench.pass(Duty::FULL).health, Health::Ok);
        assert!(bench.reading.fan[0].fault && !bench.reading.fan[1].fault);
        assert_eq!(bench.script.lock().unwrap().held[1], Duty::FULL);
    }
}

#[test]
fn a_failure_costs_the_reading_and_retries_spread_to_a_minute() {
    let mut bench = Bench::new();
    bench.script.lock().unwrap().reads.push_back(Err(Error::NoAcknowledge.into()));
    let outcome = bench.pass(Duty::FULL);
    assert_eq!(outcome.health, Health::Failed(Missing::Bus), "it was brought up anew at once, and there is no adapter");
    assert!(bench.reading.fan.iter().all(|fan| fan.rpm == Err(Missing::Bus)));
    let mut attempts = Vec::new();
    for second in 1..=200_u32 {
        let failures = bench.slot.failures;
        bench.pass(Duty::FULL);
        if bench.slot.failures > failures {
            attempts.push(second);
        }
    }
    assert_eq!(attempts, [1, 2, 4, 8, 16, 32, 64, 124, 184]);
}

#[test]
fn a_time_out_is_not_repeated_in_the_same_pass() {
    let mut bench = Bench::new();
    bench.script.lock().unwrap().reads.extend([Err(Error::TimedOut.into()), Ok(())]);
    let outcome = bench.pass(Duty::FULL);
    assert!(outcome.timed_out);
    assert_eq!(bench.script.lock().unwrap().reads.len(), 1);
}
