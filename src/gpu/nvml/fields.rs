//! Many values in one call. Which numbers: `NVML_FI_*` in NVIDIA's `nvml.h` 13.5; those below 251 never moved.

use nvml_wrapper_sys::bindings::{nvmlFieldValue_t, nvmlValue_t};

use super::Gpu;
use super::code::{check, raw};
use crate::gpu::wire::{Code, Read, Remapped};

/// Temperature of the memory, °C.
pub(super) const MEMORY_TEMPERATURE: u32 = 82;
/// Energy since the driver was loaded, mJ.
pub(super) const ENERGY: u32 = 83;
/// Rows of memory remapped for corrected errors.
const REMAPPED_CORRECTED: u32 = 142;
const REMAPPED_UNCORRECTED: u32 = 143;
const REMAPPED_PENDING: u32 = 144;
const REMAPPED_FAILURE: u32 = 145;
/// Power averaged over a second, mW.
pub(super) const POWER_AVERAGE: u32 = 185;
/// Power now, mW.
pub(super) const POWER_NOW: u32 = 186;
/// What the driver asks for after an error.
pub(super) const RECOVERY: u32 = 230;

/// All that a sample asks for.
pub(super) const OF_A_SAMPLE: [u32; 9] = [
    MEMORY_TEMPERATURE,
    ENERGY,
    REMAPPED_CORRECTED,
    REMAPPED_UNCORRECTED,
    REMAPPED_PENDING,
    REMAPPED_FAILURE,
    POWER_AVERAGE,
    POWER_NOW,
    RECOVERY,
];

/// The answers to one call, or why there is none.
pub(super) struct Fields(Read<Vec<nvmlFieldValue_t>>);

impl Fields {
    pub(super) fn read(gpu: &Gpu, ids: &[u32]) -> Self {
        let mut values: Vec<_> = ids.iter().map(|id| asked(*id)).collect();
        let told = i32::try_from(values.len()).map_err(|_| Code::INVALID_ARGUMENT).and_then(|count| {
            let nvml = gpu.nvml;
            raw!(nvml, nvmlDeviceGetFieldValues(gpu.handle(), count, values.as_mut_ptr()))
        });
        Self(told.map(|()| values))
    }

    /// The value of a field that was asked for.
    pub(super) fn get(&self, id: u32) -> Read<i64> {
        let values = self.0.as_ref().map_err(|code| *code)?;
        let found = values.iter().find(|value| value.fieldId == id).ok_or(Code::NOT_FOUND)?;
        check(found.nvmlReturn)?;
        number(found.valueType, found.value)
    }

    pub(super) fn remapped(&self) -> Read<Remapped> {
        let count = |id| u32::try_from(self.get(id)?).map_err(|_| Code::UNKNOWN);
        Ok(Remapped {
            corrected: count(REMAPPED_CORRECTED)?,
            uncorrected: count(REMAPPED_UNCORRECTED)?,
            pending: count(REMAPPED_PENDING)? != 0,
            failed: count(REMAPPED_FAILURE)? != 0,
        })
    }
}

/// A question: scope 0 is the whole GPU. Until it is answered it counts as not answered.
fn asked(id: u32) -> nvmlFieldValue_t {
    nvmlFieldValue_t {
        fieldId: id,
        scopeId: 0,
        timestamp: 0,
        latencyUsec: 0,
        valueType: 0,
        nvmlReturn: Code::UNKNOWN.0,
        value: nvmlValue_t { ullVal: 0 },
    }
}

/// The value by its tag, `nvmlValueType_t`.
fn number(tag: u32, value: nvmlValue_t) -> Read<i64> {
    // SAFETY: every bit pattern is a number of each of these types, and `asked` set all eight bytes.
    unsafe {
        match tag {
            0 => whole(value.dVal),
            1 => Ok(i64::from(value.uiVal)),
            2 | 3 => i64::try_from(value.ullVal).map_err(|_| Code::UNKNOWN),
            4 => Ok(value.sllVal),
            5 => Ok(i64::from(value.siVal)),
            6 => Ok(i64::from(value.usVal)),
            _ => Err(Code::UNKNOWN),
        }
    }
}

/// Rounded; what 53 bits do not hold exactly is no measurement.
fn whole(value: f64) -> Read<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.abs() > EXACT || value.is_nan() {
        return Err(Code::UNKNOWN);
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked above")]
    Ok(value.round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_by_its_tag() {
        let rows = [
            (0, nvmlValue_t { dVal: 61.5 }, Ok(62)),
            (0, nvmlValue_t { dVal: f64::NAN }, Err(Code::UNKNOWN)),
            (0, nvmlValue_t { dVal: 1e300 }, Err(Code::UNKNOWN)),
            (1, nvmlValue_t { uiVal: u32::MAX }, Ok(4_294_967_295)),
            (2, nvmlValue_t { ullVal: 1 << 40 }, Ok(1 << 40)),
            (3, nvmlValue_t { ullVal: u64::MAX }, Err(Code::UNKNOWN)),
            (4, nvmlValue_t { sllVal: -7 }, Ok(-7)),
            (5, nvmlValue_t { siVal: -2 }, Ok(-2)),
            (6, nvmlValue_t { usVal: 65_535 }, Ok(65_535)),
            (7, nvmlValue_t { ullVal: 1 }, Err(Code::UNKNOWN)),
        ];
        for (tag, value, expected) in rows {
            assert_eq!(number(tag, value), expected, "tag {tag}");
        }
    }

    #[test]
    fn each_field_fails_alone() {
        let answered = |id, code, value| nvmlFieldValue_t {
            valueType: 1,
            nvmlReturn: code,
            value: nvmlValue_t { uiVal: value },
            ..asked(id)
        };
        let mut values = vec![answered(185, 0, 250_000), answered(82, 3, 0), asked(230)];
        let fields = Fields(Ok(values.clone()));
        assert_eq!(fields.get(POWER_AVERAGE), Ok(250_000));
        assert_eq!(fields.get(MEMORY_TEMPERATURE), Err(Code::NOT_SUPPORTED));
        assert_eq!(fields.get(RECOVERY), Err(Code::UNKNOWN), "the driver left it out");
        assert_eq!(fields.get(ENERGY), Err(Code::NOT_FOUND), "it was not asked for");
        assert_eq!(fields.remapped(), Err(Code::NOT_FOUND));
        values.extend([answered(142, 0, 3), answered(143, 0, 1), answered(144, 0, 1), answered(145, 0, 0)]);
        let remapped = Remapped { corrected: 3, uncorrected: 1, pending: true, failed: false };
        assert_eq!(Fields(Ok(values)).remapped(), Ok(remapped));
        assert_eq!(Fields(Err(Code::GPU_IS_LOST)).remapped(), Err(Code::GPU_IS_LOST));
    }
}
