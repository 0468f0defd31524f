//! What a word on PMBus means (part II, sections 7 and 8).
//!
//! Everything is computed and rounded as the kernel's pmbus_core does it (`pmbus_reg2data_*`, `pmbus_data2reg_direct`),
//! so that both can be compared bit for bit: binary formats by an arithmetic shift, so towards minus infinity; DIRECT
//! by a division that cuts off.

use crate::units::Microohms;

/// `mantissa * 2^exponent`, rounded towards minus infinity.
fn shift(mantissa: i64, exponent: i8) -> i64 {
    if exponent >= 0 { mantissa << exponent } else { mantissa >> -exponent }
}

/// LINEAR11 (7.1): exponent in bits 15:11, mantissa in bits 10:0, both two's complement. Result times `factor`.
pub(crate) fn linear11(raw: u16, factor: i64) -> i64 {
    let exponent = raw.cast_signed() >> 11;
    let mantissa = (raw << 5).cast_signed() >> 5;
    shift(i64::from(mantissa) * factor, i8::try_from(exponent).unwrap_or(0))
}

/// ULINEAR16 (8.3.1): an unsigned mantissa with the exponent of VOUT_MODE. Result in mV.
pub(crate) fn linear16(raw: u16, exponent: i8) -> i64 {
    shift(i64::from(raw) * 1000, exponent)
}

/// IEEE 754 half precision (7.5 since revision 1.3): sign, 5 bits of exponent with a bias of 15, 10 bits behind the one
/// that is not written. Result times `factor`; `None` for what is not a number or infinite.
pub(crate) fn half(raw: u16, factor: i64) -> Option<i64> {
    let fraction = i64::from(raw & 0x3ff);
    let value = match i8::try_from(raw >> 10 & 0x1f).ok()? {
        0 => shift(fraction * factor, 1 - BIAS - FRACTION_BITS),
        0x1f => return None,
        exponent => shift((fraction | 1 << FRACTION_BITS) * factor, exponent - BIAS - FRACTION_BITS),
    };
    Some(if raw & 0x8000 == 0 { value } else { -value })
}

const BIAS: i8 = 15;
const FRACTION_BITS: i8 = 10;

/// How READ_VOUT is to be understood, by VOUT_MODE (8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VoutMode {
    /// ULINEAR16 with this exponent.
    Linear(i8),
    /// IEEE half precision.
    Half,
}

impl VoutMode {
    /// Bits 7:5 are the mode: 000 is ULINEAR16 with the exponent below, in two's complement; 011 and zeros below is
    /// IEEE half. VID (001) belongs to processors, and the coefficients of DIRECT (010) belong to a part: `None`, as
    /// for all ones.
    pub(crate) const fn parse(vout_mode: u8) -> Option<Self> {
        match (vout_mode >> 5, vout_mode & 0x1f) {
            (0b000, _) => Some(Self::Linear((vout_mode << 3).cast_signed() >> 3)),
            (0b011, 0) => Some(Self::Half),
            _ => None,
        }
    }
}

/// DIRECT (7.2): Y = (m X + b) * 10^R, so X = (Y * 10^-R - b) / m; Y is two's complement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Direct {
    pub(crate) m: i64,
    pub(crate) b: i64,
    pub(crate) r: i8,
}

/// A shunt of one milliohm, which the coefficients of current monitors are given for.
pub(crate) const MILLIOHM: Microohms = Microohms(1000);

impl Direct {
    /// X times 10^`places`: 3 gives thousandths, 6 millionths. `None` for a slope of zero.
    pub(crate) fn decode(self, raw: u16, places: i8) -> Option<i64> {
        self.decode_across(raw, places, MILLIOHM)
    }

    /// The same where m is proportional to a shunt and given for one milliohm. The kernel multiplies and cuts m to a
    /// whole number first, which costs it up to half a percent at small shunts; here it is exact, and equal where m
    /// comes out whole.
    pub(crate) fn decode_across(self, raw: u16, places: i8, shunt: Microohms) -> Option<i64> {
        let scaled = times_ten(raw.cast_signed().into(), places.checked_sub(self.r)?)?;
        let offset = times_ten(self.b, places)?;
        let slope = self.m.checked_mul(shunt.0.into())?;
        scaled.checked_sub(offset)?.checked_mul(MILLIOHM.0.into())?.checked_div(slope)
    }

    /// Y for an X given times 10^`places`, at the end of its range where it is beyond it.
    pub(crate) fn encode(self, value: i64, places: i8) -> Option<u16> {
        let line = value.checked_mul(self.m)?.checked_add(times_ten(self.b, places)?)?;
        let raw = times_ten(line, self.r.checked_sub(places)?)?;
        let clamped = raw.clamp(i16::MIN.into(), i16::MAX.into());
        i16::try_from(clamped).ok().map(i16::cast_unsigned)
    }
}

/// `value * 10^exponent`; each division adds five first, as the kernel's does also below zero.
fn times_ten(value: i64, exponent: i8) -> Option<i64> {
    let steps = exponent.unsigned_abs();
    if exponent >= 0 {
        (0..steps).try_fold(value, |value, _| value.checked_mul(10))
    } else {
        (0..steps).try_fold(value, |value, _| value.checked_add(5)?.checked_div(10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear11_has_two_signs() {
        for (what, raw, expected) in [
            ("230 V, R = -1", 0x1f << 11 | 460, 230_000),
            ("2.5 A, R = -5", 0x1b << 11 | 80, 2_500),
            ("-10.5 °C, R = -2", 0x1e << 11 | (0x7ff & (!42 + 1)), -10_500),
            ("500 W, R = 0", 500, 500_000),
            ("3200, R = 2", 2 << 11 | 800, 3_200_000),
            ("rounded down", 0x1e << 11 | 0x7ff, -250),
            ("largest", 0x0f << 11 | 0x3ff, 1023 * 1000 * (1 << 15)),
        ] {
            assert_eq!(linear11(raw, 1000), expected, "{what}");
        }
    }

    #[test]
    fn linear16_takes_its_exponent_from_vout_mode() {
        for (vout_mode, expected) in [
            (0x17, Some(VoutMode::Linear(-9))),
            (0x1f, Some(VoutMode::Linear(-1))),
            (0x02, Some(VoutMode::Linear(2))),
            (0x60, Some(VoutMode::Half)),
            (0x40, None),
            (0x21, None),
            (0xff, None),
        ] {
            assert_eq!(VoutMode::parse(vout_mode), expected, "{vout_mode:#04x}");
        }
        assert_eq!(linear16(12 * 512 + 256, -9), 12_500);
        assert_eq!(linear16(1, -9), 1, "1.95 mV");
    }

    #[test]
    fn half_precision_is_ieee_754s() {
        for (raw, expected) in [
            (0x3c00, Some(1_000)),
            (0xc000, Some(-2_000)),
            (0x4a00, Some(12_000)),
            (0x7bff, Some(65_504_000)),
            (0x0000, Some(0)),
            (0x3555, Some(333)),
            (0x7c00, None),
            (0x7e01, None),
        ] {
            assert_eq!(half(raw, 1000), expected, "{raw:#06x}");
        }
        assert_eq!(half(0x03ff, 1_000_000_000), Some(60_975), "the largest subnormal is 1023 * 2^-24");
    }

    #[test]
    fn direct_is_the_datasheets_line_both_ways() {
        // MAX31785 and MAX34451, "Interpreting received DIRECT format values": 0D89h is 3465 mV.
        let millivolts = Direct { m: 1, b: 0, r: 3 };
        assert_eq!((millivolts.decode(0x0d89, 3), millivolts.encode(3_465, 3)), (Some(3_465), Some(0x0d89)));
        let celsius = Direct { m: 1, b: 0, r: 2 };
        assert_eq!((celsius.decode(2_550, 3), celsius.encode(25_500, 3)), (Some(25_500), Some(2_550)));
        assert_eq!(celsius.decode(0xff9c, 3), Some(-1_000));
        // ADM1278: IOUT = (Y * 10 - 20475) / 800 A at one milliohm.
        let amperes = Direct { m: 800, b: 20_475, r: -1 };
        assert_eq!(amperes.decode(3_000, 3), Some(11_906));
        assert_eq!(amperes.decode(2_000, 3), Some(-593), "cut off towards zero");
        assert_eq!(amperes.encode(11_906, 3), Some(3_000));
        assert_eq!(celsius.encode(i64::from(i32::MAX), 3), Some(0x7fff));
        assert_eq!(celsius.encode(-400_000, 3), Some(0x8000));
    }

    #[test]
    fn a_shunt_divides_the_current() {
        let amperes = Direct { m: 1326, b: 20_480, r: -1 };
        // (3000 * 10 - 20480) / (1326 * 0.3) = 23.931 A; the kernel's m is 397 here and gives 23.979.
        assert_eq!(amperes.decode_across(3_000, 3, Microohms(300)), Some(23_931));
        assert_eq!(amperes.decode_across(3_000, 3, MILLIOHM), amperes.decode(3_000, 3));
        assert_eq!(amperes.decode_across(3_000, 3, Microohms(0)), None);
    }

    #[test]
    fn nothing_overflows() {
        for m in [i64::MIN, -1, 0, 1, i64::MAX] {
            for (r, places) in [(-128, 127), (127, -128), (0, 0), (-19, 19)] {
                let direct = Direct { m, b: i64::MAX, r };
                for raw in [0, 1, 0x7fff, 0x8000, 0xffff] {
                    let _ = (direct.decode_across(raw, places, Microohms(u32::MAX)), direct.encode(raw.into(), places));
                }
            }
        }
    }
}
