//! Return codes, numbers into units, and the call of a function that the library may not have.

use nvml_wrapper::error::NvmlError;

use crate::gpu::wire::{Code, Read};
use crate::units::{Millicelsius, OutOfRange};

/// Calls a function of the library by hand and tells its return code.
macro_rules! raw {
    ($nvml:expr, $function:ident($($argument:expr),*)) => {
        match $nvml.0.lib().$function.as_ref() {
            // SAFETY: the signature is that of nvml.h. Handles come from this library and every pointer is to a live value
            // of the caller's, of the type that the function fills; the library keeps none of them (nvml.h).
            Ok(function) => $crate::gpu::nvml::code::check(unsafe { function($($argument),*) }),
            Err(_) => Err($crate::gpu::wire::Code::FUNCTION_NOT_FOUND),
        }
    };
}
pub(super) use raw;

/// What a function returned.
pub(super) const fn check(code: u32) -> Read<()> {
    if code == 0 { Ok(()) } else { Err(Code(code)) }
}

/// The number behind the crate's error; what it does not know, it keeps as a number itself.
pub(super) fn code(error: NvmlError) -> Code {
    if let NvmlError::FailedToLoadSymbol(_) = error {
        return Code::FUNCTION_NOT_FOUND;
    }
    if let NvmlError::LibloadingError(_) = error {
        return Code::LIBRARY_NOT_FOUND;
    }
    Code(error.into())
}

/// The driver has no such function, or not for this GPU, or none that speaks this version of it.
pub(super) const fn cannot(code: Code) -> bool {
    matches!(
        code,
        Code::NOT_SUPPORTED
            | Code::FUNCTION_NOT_FOUND
            | Code::DEPRECATED
            | Code::INVALID_ARGUMENT
            | Code::ARGUMENT_VERSION_MISMATCH
    )
}

/// What the newer function does not give is asked of the older one. Where that is gone too, the newer one's word counts.
pub(super) fn or_older<T>(newer: Read<T>, older: impl FnOnce() -> Read<T>) -> Read<T> {
    match newer {
        Err(first) if cannot(first) => older().map_err(|second| match second {
            Code::FUNCTION_NOT_FOUND | Code::DEPRECATED => first,
            _ => second,
        }),
        told => told,
    }
}

/// A number in its unit.
pub(super) fn unit<T: TryFrom<i64, Error = OutOfRange>>(number: impl Into<i64>) -> Read<T> {
    T::try_from(number.into()).map_err(|OutOfRange| Code::UNKNOWN)
}

/// A number in fewer bits.
pub(super) fn fewer<T: TryFrom<u32>>(number: u32) -> Read<T> {
    T::try_from(number).map_err(|_| Code::UNKNOWN)
}

pub(super) fn degrees(celsius: impl Into<i64>) -> Read<Millicelsius> {
    unit(celsius.into().saturating_mul(1000))
}

/// The version field of a structure: `NVML_STRUCT_VERSION` of nvml.h.
pub(super) fn version<T>(number: u32) -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(u32::MAX) | number << 24
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Rpm;
    use nvml_wrapper_sys::bindings::{nvmlClockOffset_v1_t, nvmlTemperature_v1_t};

    #[test]
    fn the_code_is_the_drivers_own() {
        for (error, number) in [
            (NvmlError::GpuLost, 15),
            (NvmlError::UnexpectedVariant(26), 26),
            (NvmlError::LibRmVersionMismatch, 18),
            (NvmlError::InsufficientSize(None), 7),
            (NvmlError::FailedToLoadSymbol(String::new()), 13),
            (NvmlError::GetPciInfoFailed, 999),
        ] {
            let text = error.to_string();
            assert_eq!(code(error), Code(number), "{text}");
        }
        assert_eq!(check(0), Ok(()));
        assert_eq!(check(4), Err(Code::NO_PERMISSION));
    }

    #[test]
    fn the_older_function_is_asked_only_where_the_newer_cannot() {
        let (gone, unsupported, lost) =
            (Err(Code::FUNCTION_NOT_FOUND), Err(Code::NOT_SUPPORTED), Err(Code::GPU_IS_LOST));
        for (newer, older, expected) in [
            (Ok(1), Ok(2), Ok(1)),
            (gone, Ok(2), Ok(2)),
            (unsupported, Ok(2), Ok(2)),
            (Err(Code(25)), Ok(2), Ok(2)),
            (gone, unsupported, unsupported),
            (unsupported, gone, unsupported),
            (unsupported, Err(Code::DEPRECATED), unsupported),
            (gone, lost, lost),
            (lost, Ok(2), lost),
            (Err(Code::NO_PERMISSION), Ok(2), Err(Code::NO_PERMISSION)),
        ] {
            assert_eq!(or_older(newer, || older), expected, "{newer:?} {older:?}");
        }
    }

    #[test]
    fn what_does_not_fit_its_unit_is_unknown() {
        assert_eq!(unit::<Rpm>(65_535_u32), Ok(Rpm(65_535)), "implausible, and the agent's to judge");
        assert_eq!(unit::<Rpm>(65_536_u32), Err(Code::UNKNOWN));
        assert_eq!(degrees(-5), Ok(Millicelsius(-5_000)));
        assert_eq!(degrees(u32::MAX), Err(Code::UNKNOWN));
        assert_eq!(fewer::<u8>(256), Err(Code::UNKNOWN));
    }

    #[test]
    fn versions_are_those_of_the_header() {
        // nvml.h 13.5: three and six fields of 4 bytes.
        assert_eq!(version::<nvmlTemperature_v1_t>(1), 0x0100_000c);
        assert_eq!(version::<nvmlClockOffset_v1_t>(1), 0x0100_0018);
    }
}
