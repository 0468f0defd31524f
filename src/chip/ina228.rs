//! INA228, INA237, INA238: bus voltage, current and power on one rail, and the chip's own temperature (Texas
//! Instruments, SLYS021, SBOSA20, SLYS025).
//!
//! One register map in two widths: the INA228's voltages have 20 bits, the others' are the upper 16 of the same number.
//! So all are brought to 20 bits, and one formula does for all three. The shunt range is the wide one (ADCRANGE 0).
//!
//! The shunt calibration is 4096, which makes the current register repeat the shunt register: SHUNT_CAL = 13107.2e6 *
//! CURRENT_LSB * Rshunt (INA237 and INA238: 819.2e6), so CURRENT_LSB is 312.5 nV (5 uV) / Rshunt. The power register's
//! LSB is 3.2 (0.2) of those: 1 uV * 1 V / Rshunt in all three. It cannot overflow so: 85 V, the most that the pin
//! bears, times the full scale of the shunt fits into its 24 bits.
//!
//! Current is taken from the shunt register, and rounding is that of the kernel's ina238 where it knows the INA228 too.
//! An older one cuts fractions off, and its calibration leaves the current a quarter of the resolution.

use embedded_hal::i2c::I2c;

use super::register::word;
use super::{
    Certainty, Conversion, Driver, Error, Form, Kernel, Part, Register, Registers, Setting, Settings,
    div_round_closest, holds, read_be, read_wide, write_be,
};
use crate::bus;
use crate::reading::{ChipReading, Fault, Faults, Missing, Power, Reading};
use crate::units::{Microohms, Milliamps, Millicelsius, Millivolts, Milliwatts};

/// INA228: 20 bits.
pub static INA228: Part = part(
    "ina228",
    "voltage, current and power of one rail in 20 bits, own temperature",
    Certainty::Id,
    &INA228_REGISTERS,
    |device, settings| Box::new(Ina228::new(device.addr(), device, Variant::INA228, settings)),
);

/// INA237: 16 bits. Known by its maker and by not being an INA228, so an INA238 passes for it.
pub static INA237: Part = part(
    "ina237",
    "voltage, current and power of one rail in 16 bits, own temperature",
    Certainty::Shape,
    &INA238_REGISTERS,
    |device, settings| Box::new(Ina228::new(device.addr(), device, Variant::INA237, settings)),
);

/// INA238: 16 bits, more accurate.
pub static INA238: Part = part(
    "ina238",
    "voltage, current and power of one rail in 16 bits, own temperature",
    Certainty::Id,
    &INA238_REGISTERS,
    |device, settings| Box::new(Ina228::new(device.addr(), device, Variant::INA238, settings)),
);

const fn part(
    name: &'static str,
    about: &'static str,
    certainty: Certainty,
    registers: &'static [Register],
    open: fn(bus::Device, &Settings) -> Box<dyn Driver<bus::Error>>,
) -> Part {
    Part {
        name,
        about,
        addresses: &[0x40..=0x4f],
        certainty,
        power: &["1"],
        temperature: &["1"],
        fan: &[],
        drives_fans: false,
        takes: &[Setting::Shunt],
        watchdog_s: &[],
        registers: Registers::of(registers),
        kernel: Kernel { power: &[["in1", "curr1", "power1"]], temperature: &["temp1"], fan: &[] },
        open,
    }
}

static INA228_REGISTERS: [Register; 11] = registers(
    Form::Be(3),
    "I = 312.5 nV x (raw >> 4) / Rshunt, signed",
    "U = 195.3125 uV x (raw >> 4)",
    "T = raw / 128 C, signed",
);
static INA238_REGISTERS: [Register; 11] =
    registers(Form::Be(2), "I = 5 uV x raw / Rshunt, signed", "U = 3.125 mV x raw", "T = (raw >> 4) / 8 C, signed");

const fn registers(voltage: Form, shunt: &'static str, bus: &'static str, temperature: &'static str) -> [Register; 11] {
    [
        word("CONFIG", register::CONFIG, ""),
        word("ADC_CONFIG", register::ADC_CONFIG, ""),
        word("SHUNT_CAL", register::SHUNT_CAL, "4096: the current register repeats the shunt register"),
        Register { name: "VSHUNT", at: register::VSHUNT, form: voltage, formula: shunt },
        Register { name: "VBUS", at: register::VBUS, form: voltage, formula: bus },
        word("DIETEMP", register::DIETEMP, temperature),
        Register { name: "CURRENT", at: register::CURRENT, form: voltage, formula: "as VSHUNT" },
        Register { name: "POWER", at: register::POWER, form: Form::Be(3), formula: "P = 1 uV x 1 V x raw / Rshunt" },
        word("DIAG_ALRT", register::DIAG_ALRT, "reading it clears latched alerts"),
        word("MANUFACTURER_ID", register::MANUFACTURER_ID, "0x5449"),
        word("DEVICE_ID", register::DEVICE_ID, "0x2281, 0x2381; not in the datasheet of the INA237"),
    ]
}

/// Register map (section 7.6.1, table 7-3 of each datasheet).
mod register {
    pub(super) const CONFIG: u8 = 0x00;
    pub(super) const ADC_CONFIG: u8 = 0x01;
    pub(super) const SHUNT_CAL: u8 = 0x02;
    pub(super) const VSHUNT: u8 = 0x04;
    pub(super) const VBUS: u8 = 0x05;
    pub(super) const DIETEMP: u8 = 0x06;
    pub(super) const CURRENT: u8 = 0x07;
    pub(super) const POWER: u8 = 0x08;
    pub(super) const DIAG_ALRT: u8 = 0x0b;
    pub(super) const MANUFACTURER_ID: u8 = 0x3e;
    pub(super) const DEVICE_ID: u8 = 0x3f;
}

/// Where the three differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// What it may bear in bits 15:4 of DEVICE_ID; the revision is below.
    dies: &'static [u16],
    /// Whether the voltages are 20 bits left-aligned in three bytes, or 16 in two.
    wide: bool,
    /// Bits of DIETEMP below its resolution.
    temperature_unused: u16,
}

impl Variant {
    /// 20 bits.
    pub const INA228: Self = Self { dies: &[0x228], wide: true, temperature_unused: 0 };
    /// Parts were seen with either number.
    pub const INA237: Self = Self { dies: &[0x237, 0x238], wide: false, temperature_unused: 0xf };
    /// 16 bits.
    pub const INA238: Self = Self { dies: &[0x238], wide: false, temperature_unused: 0xf };
}

/// No delay, no temperature compensation of the shunt, ADCRANGE 0 (163.84 mV): all as after reset.
const CONFIG: u16 = 0;
/// Averages 16 samples of 1.052 ms each, bus, shunt and temperature, continuously: a new value every 50 ms. The
/// averaging is not that of the reset value, 0xfb68: so a part that was reset is noticed.
const ADC_CONFIG: u16 = MODE_ALL_CONTINUOUS << 12 | CT_1052_US << 9 | CT_1052_US << 6 | CT_1052_US << 3 | AVG_16;
const MODE_ALL_CONTINUOUS: u16 = 0xf;
const CT_1052_US: u16 = 0b101;
const AVG_16: u16 = 0b010;
/// Makes the current register equal the shunt register.
const SHUNT_CAL: u16 = 4096;
/// Every setting that the formulas assume. ADC_CONFIG comes last: writing it starts a new conversion, with the others.
const SETTINGS: [(u8, u16); 3] =
    [(register::CONFIG, CONFIG), (register::SHUNT_CAL, SHUNT_CAL), (register::ADC_CONFIG, ADC_CONFIG)];
/// "TI" in ASCII.
const MANUFACTURER: u16 = 0x5449;

/// DIAG_ALRT bits (table 7-16; table 7-13 of the INA237): a limit was passed. Limits are at full scale after reset, so
/// nothing is set where nobody set one.
const ALERTS: [(u16, Fault); 6] = [
    (1 << 7, Fault::Temperature),
    (1 << 6, Fault::OverCurrent),
    (1 << 5, Fault::UnderCurrent),
    (1 << 4, Fault::OverVoltage),
    (1 << 3, Fault::UnderVoltage),
    (1 << 2, Fault::OverPower),
];
/// Current and power could not be computed.
const MATHOF: u16 = 1 << 9;
/// A conversion has ended.
const CNVRF: u16 = 1 << 1;
/// 0 = the checksum over its trim memory is wrong.
const MEMSTAT: u16 = 1;

/// 195.3125 uV = 3125 / 16 uV a bit of 20: U in mV = 3125 * value / 16 000.
fn bus_voltage(value: i64) -> Reading<Millivolts> {
    let scaled = value.checked_mul(3125).ok_or(Missing::Implausible)?;
    Ok(Millivolts::try_from(div_round_closest(scaled, 16_000).ok_or(Missing::Implausible)?)?)
}

/// 312.5 nV = 625 / 2 nV a bit of 20 across the shunt, signed: I in mA = 625 * value / (2 * R in uOhm).
fn current(value: i64, shunt: Microohms) -> Reading<Milliamps> {
    let scaled = value.checked_mul(625).ok_or(Missing::Implausible)?;
    Ok(Milliamps::try_from(div_round_closest(scaled, i64::from(shunt.0) * 2).ok_or(Missing::Implausible)?)?)
}

/// 1 uV * 1 V a bit: P in mW = 1000 * raw / R in uOhm.
fn power(raw: i64, shunt: Microohms) -> Reading<Milliwatts> {
    let scaled = raw.checked_mul(1000).ok_or(Missing::Implausible)?;
    Ok(Milliwatts::try_from(div_round_closest(scaled, shunt.0.into()).ok_or(Missing::Implausible)?)?)
}

/// 1/128 °C a bit of 16, signed; towards minus infinity, as the kernel's shift has it.
fn temperature(raw: u16, variant: Variant) -> Reading<Millicelsius> {
    let value = i64::from((raw & !variant.temperature_unused).cast_signed());
    Ok(Millicelsius::try_from((value * 1000) >> 7)?)
}

/// The limits that were passed, and the memory.
fn faults(diag_alrt: u16) -> Faults {
    let alerts = ALERTS.iter().fold(Faults::NONE, |faults, (bit, fault)| faults.with(*fault, diag_alrt & bit != 0));
    alerts.with(Fault::Communication, diag_alrt & MEMSTAT == 0)
}

/// Driver of one INA228, INA237 or INA238.
pub struct Ina228<I> {
    i2c: I,
    addr: u8,
    variant: Variant,
    shunt: Microohms,
    conversion: Conversion,
}

impl<I: I2c> Ina228<I> {
    /// A driver for the chip at `addr`; nothing is sent yet.
    pub fn new(addr: u8, i2c: I, variant: Variant, settings: &Settings) -> Self {
        Self { i2c, addr, variant, shunt: settings.shunt, conversion: Conversion::default() }
    }

    fn register(&mut self, register: u8) -> Result<u16, Error<I::Error>> {
        read_be(&mut self.i2c, self.addr, register)
    }

    fn three_bytes(&mut self, register: u8) -> Result<i64, Error<I::Error>> {
        read_wide::<3, I>(&mut self.i2c, self.addr, register).map(u64::cast_signed)
    }

    /// A voltage register as a signed number of 20 bits.
    fn voltage(&mut self, register: u8) -> Result<i64, Error<I::Error>> {
        if self.variant.wide {
            // The number's sign to the sign of 64 bits, and back down past the four bits below it.
            Ok(self.three_bytes(register)? << 40 >> 44)
        } else {
            Ok(i64::from(self.register(register)?.cast_signed()) << 4)
        }
    }
}

impl<I: I2c + Send> Driver<I::Error> for Ina228<I> {
    fn identify(&mut self) -> Result<(), Error<I::Error>> {
        let found = self.register(register::MANUFACTURER_ID)?;
        if found != MANUFACTURER {
            return Err(Error::WrongPart { register: register::MANUFACTURER_ID, found });
        }
        let found = self.register(register::DEVICE_ID)?;
        let ours = self.variant.dies.contains(&(found >> 4));
        if ours { Ok(()) } else { Err(Error::WrongPart { register: register::DEVICE_ID, found }) }
    }

    fn configure(&mut self) -> Result<(), Error<I::Error>> {
        let mut changed = false;
        for (register, value) in SETTINGS {
            changed |= self.register(register)? != value;
        }
        if changed {
            for (register, value) in SETTINGS {
                write_be(&mut self.i2c, self.addr, register, value)?;
            }
            // Takes away the flag of a conversion that knew other settings.
            self.register(register::DIAG_ALRT)?;
        }
        self.conversion.start();
        Ok(())
    }

    fn read(&mut self, reading: &mut ChipReading) -> Result<(), Error<I::Error>> {
        for (register, value) in SETTINGS {
            holds(register, value, self.register(register)?)?;
        }
        // Where a board has the alerts latched (ALATCH), reading them lets go of them.
        let diag_alrt = self.register(register::DIAG_ALRT)?;
        let shunt = self.voltage(register::VSHUNT)?;
        let bus = self.voltage(register::VBUS)?;
        let dietemp = self.register(register::DIETEMP)?;
        let power_raw = self.three_bytes(register::POWER)?;
        reading.faults = faults(diag_alrt);
        if !self.conversion.has_ended(diag_alrt & CNVRF != 0) {
            reading.power.fill(Power::missing(Missing::Stale));
            reading.temperature.fill(Err(Missing::Stale));
            return Ok(());
        }
        if let [channel] = reading.power.as_mut_slice() {
            *channel = Power {
                voltage: bus_voltage(bus),
                current: current(shunt, self.shunt),
                power: if diag_alrt & MATHOF != 0 { Err(Missing::Implausible) } else { power(power_raw, self.shunt) },
            };
        }
        if let [channel] = reading.temperature.as_mut_slice() {
            *channel = temperature(dietemp, self.variant);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction as T};

    use super::*;

    const ADDR: u8 = 0x45;
    /// The datasheets' worked example (section 8.2): 16.2 mOhm, 6 A, 48 V.
    const SHUNT: Microohms = Microohms(16_200);

    fn driver(variant: Variant, transactions: &[T]) -> (Ina228<Mock>, Mock) {
        let mock = Mock::new(transactions);
        (Ina228::new(ADDR, mock.clone(), variant, &Settings { shunt: SHUNT, ..Settings::default() }), mock)
    }

    fn word(register: u8, value: u16) -> T {
        T::write_read(ADDR, vec![register], value.to_be_bytes().to_vec())
    }

    fn three(register: u8, value: u32) -> T {
        T::write_read(ADDR, vec![register], value.to_be_bytes()[1..].to_vec())
    }

    fn settings() -> [T; 3] {
        [word(0x00, 0x0000), word(0x02, 0x1000), word(0x01, 0xfb6a)]
    }

    #[test]
    fn configuration_is_the_bits_of_the_datasheet() {
        // Table 7-6: without averaging, the fields are the reset value.
        assert_eq!(ADC_CONFIG & !0b111, 0xfb68);
        assert_eq!(ADC_CONFIG, 0xfb6a);
    }

    #[test]
    fn converts_the_datasheets_rows() {
        // Table 8-4: VSHUNT 311040 = 97.2 mV = 6 A, VBUS 245760 = 48 V; on the INA237 19440 and 15360, a sixteenth.
        assert_eq!(current(311_040, SHUNT), Ok(Milliamps(6_000)));
        assert_eq!(current(-311_040, SHUNT), Ok(Milliamps(-6_000)));
        assert_eq!(19_440 << 4, 311_040);
        assert_eq!(bus_voltage(245_760), Ok(Millivolts(48_000)));
        assert_eq!(15_360 << 4, 245_760);
        assert_eq!(bus_voltage(-1), Ok(Millivolts(0)));
        assert_eq!(bus_voltage(-16), Err(Missing::Implausible));
        // 288 W: there 4718604 steps of 3.2 * 10 A / 2^19, here steps of 1 uV * V / 16.2 mOhm.
        assert_eq!(power(4_665_600, SHUNT), Ok(Milliwatts(288_000)));
        // DIETEMP 3200 = 25 C on the INA228; 200 in bits 15:4 on the others.
        assert_eq!(temperature(3200, Variant::INA228), Ok(Millicelsius(25_000)));
        assert_eq!(temperature(200 << 4 | 0xf, Variant::INA238), Ok(Millicelsius(25_000)));
        assert_eq!(temperature(0xffff, Variant::INA228), Ok(Millicelsius(-8)));
        assert_eq!(temperature(0xfff0, Variant::INA237), Ok(Millicelsius(-125)));
    }

    #[test]
    fn a_shunt_of_zero_is_implausible_not_a_panic() {
        assert_eq!(current(1, Microohms(0)), Err(Missing::Implausible));
        assert_eq!(power(1, Microohms(0)), Err(Missing::Implausible));
    }

    #[test]
    fn each_is_known_by_its_ids() {
        for (variant, id, ours) in [
            (Variant::INA228, 0x2281, true),
            (Variant::INA228, 0x2381, false),
            (Variant::INA237, 0x2370, true),
            (Variant::INA237, 0x2381, true),
            (Variant::INA237, 0x2281, false),
            (Variant::INA238, 0x2381, true),
            (Variant::INA238, 0x2281, false),
        ] {
            let (mut chip, mut mock) = driver(variant, &[word(0x3e, 0x5449), word(0x3f, id)]);
            let wrong = Err(Error::WrongPart { register: 0x3f, found: id });
            assert_eq!(chip.identify(), if ours { Ok(()) } else { wrong }, "{id:#06x}");
            mock.done();
        }
    }

    #[test]
    fn configures_with_read_back_and_does_not_believe_one_that_was_reset() {
        let mut expected = vec![word(0x00, 0x0000), word(0x02, 0x1000), word(0x01, 0xfb68)];
        for (register, high, low) in [(0x00, 0x00, 0x00), (0x02, 0x10, 0x00), (0x01, 0xfb, 0x6a)] {
            expected.push(T::write(ADDR, vec![register, high, low]));
            expected.push(T::write_read(ADDR, vec![register], vec![high, low]));
        }
        expected.push(word(0x0b, 0x0003));
        expected.extend([word(0x00, 0x0000), word(0x02, 0x1000), word(0x01, 0xfb68)]);
        let (mut chip, mut mock) = driver(Variant::INA228, &expected);
        assert_eq!(chip.configure(), Ok(()));
        let reset = Error::ReadBack { register: 0x01, written: 0xfb6a, found: 0xfb68 };
        assert_eq!(chip.read(&mut INA228.missing(Missing::Stale)), Err(reset));
        mock.done();
    }

    #[test]
    fn both_widths_read_the_datasheets_example() {
        let expected =
            [Power { voltage: Ok(Millivolts(48_000)), current: Ok(Milliamps(-6_000)), power: Ok(Milliwatts(288_000)) }];
        // -311040 in 20 bits is 0xb4100 (section 8.2.2.5).
        let wide = [word(0x0b, 0x0001), three(0x04, 0xb4_1000), three(0x05, 245_760 << 4), word(0x06, 3200)];
        let narrow = [word(0x0b, 0x0001), word(0x04, 0xb410), word(0x05, 15_360), word(0x06, 200 << 4)];
        for (variant, part, registers) in [(Variant::INA228, &INA228, wide), (Variant::INA237, &INA237, narrow)] {
            let (mut chip, mut mock) =
                driver(variant, &[&settings()[..], &registers[..], &[three(0x08, 4_665_600)]].concat());
            let mut reading = part.missing(Missing::Stale);
            assert_eq!(chip.read(&mut reading), Ok(()));
            assert_eq!(reading.power, expected);
            assert_eq!(reading.temperature, [Ok(Millicelsius(25_000))]);
            assert_eq!(reading.faults, Faults::NONE);
            mock.done();
        }
    }

    #[test]
    fn nothing_is_believed_before_the_first_conversion() {
        let pass = |flags| {
            let values = [word(0x0b, flags), word(0x04, 0), word(0x05, 3_840), word(0x06, 200 << 4), three(0x08, 0)];
            [&settings()[..], &values].concat()
        };
        let stale = (Power::missing(Missing::Stale), Err(Missing::Stale));
        let idle = Power { voltage: Ok(Millivolts(12_000)), current: Ok(Milliamps(0)), power: Ok(Milliwatts(0)) };
        let idle = (idle, Ok(Millicelsius(25_000)));
        for (ready, first) in [(0x0001, stale), (0x0003, idle)] {
            let (mut chip, mut mock) =
                driver(Variant::INA238, &[&settings()[..], &pass(ready), &pass(0x0001)].concat());
            assert_eq!(chip.configure(), Ok(()), "nothing to write");
            for (power, temperature) in [first, idle] {
                let mut reading = INA238.missing(Missing::Bus);
                assert_eq!(chip.read(&mut reading), Ok(()));
                assert_eq!((reading.power, reading.temperature), (vec![power], vec![temperature]));
            }
            mock.done();
        }
    }

    #[test]
    fn alerts_memory_and_overflow_are_told() {
        let registers = [word(0x0b, 0x0288), word(0x04, 0), word(0x05, 0), word(0x06, 0), three(0x08, 0)];
        let (mut chip, mut mock) = driver(Variant::INA238, &[&settings()[..], &registers[..]].concat());
        let mut reading = INA238.missing(Missing::Stale);
        assert_eq!(chip.read(&mut reading), Ok(()));
        let told = [Fault::UnderVoltage, Fault::Temperature, Fault::Communication];
        assert_eq!(reading.faults.iter().collect::<Vec<_>>(), told);
        assert_eq!(reading.power.first().map(|channel| channel.power), Some(Err(Missing::Implausible)));
        mock.done();
    }
}
