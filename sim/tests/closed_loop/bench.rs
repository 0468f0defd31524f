//! The loop around a plant: read, gather, decide, drive, and time that passes, as the agent does it but in no time at all.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rigd::board::{Board, Chip, ChipKind};
use rigd::control::step::{Inputs, Orders, State, step};
use rigd::control::{gather, stale_after};
use rigd::reading::{BusSnapshot, ChipReading, Fan, Health, Missing, Power, Reading, Stage};
use rigd::units::{Duty, Millicelsius, Milliwatts, Rpm};

use crate::plant::{Plant, Probe, Reader, STEP};

/// What a board says of its one zone; what is none is left to the defaults.
#[derive(Clone, Debug, Default)]
pub(crate) struct Zone {
    /// m°C and percent.
    pub(crate) curve: Vec<(i32, u8)>,
    pub(crate) critical: i32,
    pub(crate) target: Option<i32>,
    pub(crate) gain: Option<u8>,
    pub(crate) integral: Option<u16>,
    /// Percent per kilowatt.
    pub(crate) feed_forward: Option<u8>,
    pub(crate) spare_fans: usize,
    pub(crate) frozen_s: Option<u32>,
}

/// A fan: rpm at full drive, and the drive at which it starts, 0 to 1.
pub(crate) type OnBoard = (f64, f64);

/// A fan controller, a thermometer, a power monitor.
const CHIPS: &str = r#"
name = "t"
revision = "a"
[bus.b]
socket = "b"
[chip.U1]
part = "max31790"
bus = "b"
addr = 0x20
[chip.U2]
part = "tmp75"
bus = "b"
addr = 0x48
[chip.U3]
part = "ina226"
bus = "b"
addr = 0x40
shunt_microohms = 500
[rail.in]
chip = "U3"
[sensor.s]
chip = "U2"
"#;

impl Zone {
    pub(crate) fn board(&self, fans: &[OnBoard]) -> Board {
        let Self { curve, critical, target, gain, integral, feed_forward, spare_fans, frozen_s } = self;
        let mut text = CHIPS.to_owned();
        if let Some(frozen_s) = frozen_s {
            writeln!(text, "frozen_s = {frozen_s}").unwrap();
        }
        for (index, (rpm, start)) in fans.iter().enumerate() {
            let (start_pct, min_rpm) = ((start * 100.0 + 1.0).ceil(), rpm * start / 2.0);
            writeln!(text, "[fan.f{index}]\nchip = \"U1\"\nchannel = {}", index + 1).unwrap();
            writeln!(text, "max_rpm = {rpm:.0}\nmin_rpm = {min_rpm:.0}\nstart_pct = {start_pct:.0}").unwrap();
        }
        let names: Vec<String> = (0..fans.len()).map(|index| format!("f{index}")).collect();
        writeln!(text, "[zone.z]\nsensors = [\"s\"]\nfans = {names:?}\ncritical_mc = {critical}").unwrap();
        writeln!(text, "spare_fans = {spare_fans}").unwrap();
        if !curve.is_empty() {
            let points: Vec<String> = curve.iter().map(|(at, percent)| format!("[{at}, {percent}]")).collect();
            writeln!(text, "curve = [{}]", points.join(", ")).unwrap();
        }
        let numbers = [
            ("target_mc", *target),
            ("gain_pct_per_k", gain.map(Into::into)),
            ("integral_s", integral.map(Into::into)),
            ("feed_forward_pct_per_kw", feed_forward.map(Into::into)),
        ];
        for (key, number) in numbers.into_iter().filter_map(|(key, number)| Some((key, number?))) {
            writeln!(text, "{key} = {number}").unwrap();
        }
        if feed_forward.is_some() {
            text += "power = [\"in\"]\n";
        }
        Board::parse("t.toml", &text).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
    }
}

/// A plant with the agent's decision around it.
pub(crate) struct Bench {
    pub(crate) board: Board,
    pub(crate) plant: Plant,
    pub(crate) tick: Duration,
    pub(crate) quiet: Option<Duty>,
    pub(crate) broken: Broken,
    /// What the fans were ordered last.
    pub(crate) duties: Vec<Duty>,
    state: Option<State>,
    start: Instant,
    ticks: u32,
    reader: Reader,
    pass: Arc<BusSnapshot>,
}

/// What is wrong with the bus.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Broken {
    /// What the thermometer says instead.
    pub(crate) sensor: Option<Reading<Millicelsius>>,
    /// The thermometer says what it said when that began.
    pub(crate) frozen: bool,
    /// Passes do not end.
    pub(crate) hangs: bool,
    /// A tachometer without its wire.
    pub(crate) tach: Option<usize>,
}

impl Bench {
    pub(crate) fn new(board: Board, plant: Plant, probe: Probe, tick: Duration) -> Self {
        let start = rigd::clock::now();
        let reader = Reader::new(probe, plant.celsius());
        let state = Some(State::new(&board, start));
        let duties = vec![Duty::from_percent(50).unwrap(); board.fans.len()];
        let (quiet, broken, pass) = (None, Broken::default(), Arc::default());
        let mut bench = Self { board, plant, tick, quiet, broken, duties, state, start, ticks: 0, reader, pass };
        bench.read();
        bench
    }

    /// How long it has run.
    pub(crate) fn seconds(&self) -> f64 {
        f64::from(self.ticks) * self.tick.as_secs_f64()
    }

    fn now(&self) -> Instant {
        self.start + self.tick * self.ticks
    }

    /// The temperature that the next decision will see, °C.
    pub(crate) fn reading(&self) -> f64 {
        let read = self.pass.chips.iter().find_map(|chip| chip.temperature.first().copied());
        f64::from(read.unwrap().unwrap().0) / 1000.0
    }

    /// One pass over the bus.
    pub(crate) fn read(&mut self) {
        let before = self.pass.chips.iter().find_map(|chip| chip.temperature.first().copied());
        let sensor = match self.broken {
            Broken { sensor: Some(sensor), .. } => sensor,
            Broken { frozen: true, .. } => before.unwrap(),
            Broken { .. } => Ok(Millicelsius(thousandths(self.reader.celsius()))),
        };
        let fan = |(index, duty): (usize, &Duty)| {
            let rpm = u16::try_from(thousandths(self.plant.rpm(index) / 1000.0)).unwrap();
            let rpm = if self.broken.tach == Some(index) { 0 } else { rpm };
            Fan { rpm: Ok(Rpm(rpm)), duty: Ok(*duty), fault: false }
        };
        let power = Milliwatts(u32::try_from(thousandths(self.plant.watts())).unwrap());
        let power = Power { power: Ok(power), ..Power::missing(Missing::NotPresent) };
        let channels = |chip: &Chip| match &chip.kind {
            ChipKind::I2c { part, .. } => part.missing(Missing::NotPresent),
            ChipKind::Hwmon(_) => ChipReading::default(),
        };
        let mut chips: Vec<ChipReading> = self.board.chips().map(|(_, chip)| channels(chip)).collect();
        for chip in &mut chips {
            chip.temperature.fill(sensor);
            chip.power.fill(power);
            for (channel, fan) in chip.fan.iter_mut().zip(self.duties.iter().enumerate().map(fan)) {
                *channel = fan;
            }
        }
        let health = vec![Health::Ok; chips.len()];
        self.pass = Arc::new(BusSnapshot { taken: Some(self.now()), chips, health, repairs: 0 });
    }

    /// One tick: decide on what the last pass found, read anew, drive; then time passes at these loads.
    pub(crate) fn tick(&mut self, load: impl Fn(f64) -> f64) -> Orders {
        let orders = self.decide();
        let starting = orders.zones.iter().any(|zone| zone.stage == Stage::Starting);
        assert!(starting || orders.duties.iter().all(Option::is_some), "a fan without an order: {orders:?}");
        if !self.broken.hangs {
            self.read();
            for (index, duty) in orders.duties.iter().enumerate() {
                if let Some(duty) = duty {
                    self.duties[index] = *duty;
                    self.plant.drive(index, f64::from(duty.of(PWM)) / f64::from(PWM));
                }
            }
        }
        let from = self.seconds();
        self.ticks += 1;
        for step in 0..self.steps() {
            self.plant.step(load(from + STEP * f64::from(step)));
            self.reader.step(self.plant.celsius());
        }
        orders
    }

    /// The plant's steps in a tick.
    pub(crate) fn steps(&self) -> u32 {
        u32::try_from(self.tick.as_millis() / 100).unwrap()
    }

    fn decide(&mut self) -> Orders {
        let now = self.now();
        let known = gather(&self.board, &[Arc::clone(&self.pass)], self.start, now, stale_after(self.tick));
        let inputs = Inputs {
            now,
            sensors: &known.sensors,
            fans: &known.fans,
            rails: &known.rails,
            curves: &[],
            quiet: self.quiet,
            gpus: &[],
            request: None,
            power: None,
        };
        let (state, orders) = step(&self.board, self.state.take().unwrap(), &inputs);
        self.state = Some(state);
        orders
    }
}

/// Full scale of the fan controller's PWM.
const PWM: u16 = 511;

/// In thousandths.
pub(crate) fn thousandths(value: f64) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "temperatures, watts and speeds here are far from the bounds")]
    let whole = (value * 1000.0).round() as i32;
    whole
}
