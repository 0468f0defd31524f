//! Calls that change a card. All need root.

use super::call::{Answer, numbers};
use super::code;
use super::driver::Driver;
use super::wire::Call;
use crate::world::card::Locks;
use crate::world::{Gpu, PSTATES, World};

const MEMORY: i64 = 2;
/// Largest clock that can be asked for, MHz.
const MAX_CLOCK: i64 = 1_000_000;

/// Answers a call that changes something; none if it is no such call.
pub(super) fn answer(driver: &mut Driver, world: &mut World, index: usize, name: &str, call: &Call) -> Option<Answer> {
    let setter = name.starts_with("DeviceSet") || name.starts_with("DeviceReset");
    setter.then(|| {
        if call.uid != 0 {
            return Err(code::NO_PERMISSION);
        }
        let gpu = world.gpus.get_mut(index).ok_or(code::INVALID_ARGUMENT)?;
        match name {
            "DeviceSetPersistenceMode" | "DeviceSetComputeMode" => mode(driver, index, name, &call.arguments),
            _ => change(gpu, name, &call.arguments),
        }?;
        numbers([])
    })
}

fn mode(driver: &mut Driver, index: usize, name: &str, arguments: &[i64]) -> Result<(), u32> {
    let card = driver.cards.get_mut(index).ok_or(code::INVALID_ARGUMENT)?;
    match (name, arguments) {
        ("DeviceSetPersistenceMode", [on @ 0..=1]) => card.persistent = *on == 1,
        ("DeviceSetComputeMode", [mode @ (0 | 2 | 3)]) => card.compute_mode = *mode,
        _ => return Err(code::INVALID_ARGUMENT),
    }
    Ok(())
}

fn change(gpu: &mut Gpu, name: &str, arguments: &[i64]) -> Result<(), u32> {
    let profile = gpu.profile;
    let core = profile.locks != Locks::None;
    let both = profile.locks == Locks::Both;
    let only = |is: bool| if is { Ok(()) } else { Err(code::NOT_SUPPORTED) };
    match (name, arguments) {
        ("DeviceSetPowerManagementLimit", [limit]) => {
            let [least, _, most] = profile.limits;
            let limit = u32::try_from(*limit).map_err(|_| code::INVALID_ARGUMENT)?;
            gpu.control.limit =
                Some(limit).filter(|limit| (least..=most).contains(limit)).ok_or(code::INVALID_ARGUMENT)?;
        }
        ("DeviceSetGpuLockedClocks", [low, high]) => {
            only(core)?;
            gpu.control.core_lock = core_lock(profile.core, *low, *high)?;
        }
        ("DeviceResetGpuLockedClocks", []) => {
            only(core)?;
            gpu.control.core_lock = None;
        }
        ("DeviceSetMemoryLockedClocks", [low, high]) => {
            only(both)?;
            let [low, high] = range(*low, *high)?;
            // The fastest state between the two, else the nearest: one user asked for 5001 and got 6000.
            let between = profile.memory.iter().position(|(_, mhz)| (low..=high).contains(mhz));
            gpu.control.memory_lock = Some(between.unwrap_or_else(|| profile.nearest_memory(high)));
        }
        ("DeviceResetMemoryLockedClocks", []) => {
            only(both)?;
            gpu.control.memory_lock = None;
        }
        ("DeviceSetClockOffsets", [clock, pstate, offset]) => set_offset(gpu, *clock, Some(*pstate), *offset)?,
        // The old calls are for all performance states.
        ("DeviceSetGpcClkVfOffset", [offset]) => set_offset(gpu, 0, None, *offset)?,
        ("DeviceSetMemClkVfOffset", [offset]) => set_offset(gpu, MEMORY, None, *offset)?,
        ("DeviceSetFanSpeed_v2", [fan, percent]) => {
            let percent = u32::try_from(*percent).ok().filter(|percent| (profile.least_fan..=100).contains(percent));
            at(gpu, *fan)?.manual = Some(percent.ok_or(code::INVALID_ARGUMENT)?);
        }
        ("DeviceSetDefaultFanSpeed_v2", [fan]) => at(gpu, *fan)?.manual = None,
        ("DeviceSetFanControlPolicy", [fan, policy @ 0..=1]) => {
            let fan = at(gpu, *fan)?;
            let now = u32::try_from(crate::quantize::whole(fan.intended * 100.0, 0, 100)).unwrap_or(100);
            fan.manual = (*policy == 1).then(|| fan.manual.unwrap_or(now));
        }
        _ => return Err(code::INVALID_ARGUMENT),
    }
    Ok(())
}

/// Numbers, or the words of `nvmlClockLimitId_t` by the table of `nvml.h`; not one of each. What is locked to "TDP" is a
/// guess: the clock that it reaches at work.
fn core_lock([least, tdp, most]: [u32; 3], low: i64, high: i64) -> Result<Option<(u32, u32)>, u32> {
    const TDP: i64 = 0xffff_ff01;
    const UNLIMITED: i64 = 0xffff_ff02;
    match (low, high) {
        (UNLIMITED, UNLIMITED) => Ok(None),
        (TDP, TDP) => Ok(Some((tdp, tdp))),
        (UNLIMITED, TDP) => Ok(Some((least, tdp))),
        (TDP, UNLIMITED) => Ok(Some((tdp, most))),
        _ => range(low, high).map(|range| Some(range.map(|mhz| mhz.clamp(least, most)).into())),
    }
}

fn range(low: i64, high: i64) -> Result<[u32; 2], u32> {
    if low > high || !(0..=MAX_CLOCK).contains(&low) || !(0..=MAX_CLOCK).contains(&high) {
        return Err(code::INVALID_ARGUMENT);
    }
    Ok([low, high].map(|mhz| u32::try_from(mhz).unwrap_or(0)))
}

fn set_offset(gpu: &mut Gpu, clock: i64, pstate: Option<i64>, offset: i64) -> Result<(), u32> {
    let profile = gpu.profile;
    let ([low, high], offsets) = match clock {
        0 => (profile.core_offsets, &mut gpu.control.core_offset),
        MEMORY => (profile.memory_offsets, &mut gpu.control.memory_offset),
        _ => return Err(code::INVALID_ARGUMENT),
    };
    if low == high {
        return Err(code::NOT_SUPPORTED);
    }
    let offset =
        i32::try_from(offset).ok().filter(|offset| (low..=high).contains(offset)).ok_or(code::INVALID_ARGUMENT)?;
    let has = |pstate: usize| profile.memory.iter().any(|(known, _)| usize::from(*known) == pstate);
    let chosen = match pstate {
        Some(pstate) => {
            usize::try_from(pstate).ok().filter(|pstate| has(*pstate)).ok_or(code::INVALID_ARGUMENT)?
                ..=pstate_index(pstate)
        }
        None => 0..=PSTATES - 1,
    };
    for (pstate, value) in offsets.iter_mut().enumerate() {
        if chosen.contains(&pstate) {
            *value = offset;
        }
    }
    Ok(())
}

fn pstate_index(pstate: i64) -> usize {
    usize::try_from(pstate).unwrap_or(0)
}

fn at(gpu: &mut Gpu, fan: i64) -> Result<&mut crate::world::CardFan, u32> {
    if gpu.fans.is_empty() {
        return Err(code::NOT_SUPPORTED);
    }
    usize::try_from(fan).ok().and_then(|fan| gpu.fans.get_mut(fan)).ok_or(code::INVALID_ARGUMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_locks_are_numbers_or_words_but_not_one_of_each() {
        const CORE: [u32; 3] = [210, 1695, 2100];
        let (tdp, unlimited) = (0xffff_ff01, 0xffff_ff02);
        for (low, high, lock) in [
            (900, 1200, Ok(Some((900, 1200)))),
            (0, 9999, Ok(Some((210, 2100)))),
            (1200, 900, Err(code::INVALID_ARGUMENT)),
            (-1, 900, Err(code::INVALID_ARGUMENT)),
            (tdp, tdp, Ok(Some((1695, 1695)))),
            (unlimited, tdp, Ok(Some((210, 1695)))),
            (tdp, unlimited, Ok(Some((1695, 2100)))),
            (unlimited, unlimited, Ok(None)),
            (900, tdp, Err(code::INVALID_ARGUMENT)),
        ] {
            assert_eq!(core_lock(CORE, low, high), lock, "{low} {high}");
        }
    }
}
