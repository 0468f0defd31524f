//! Which call does what: the calls of no card here, those of a card in `read` and `set`.

use rigd::gpu::wire::PciAddress;

use super::driver::{Driver, XID_EVENT, is_there, pci, uuid};
use super::wire::{Call, Return, SYMBOLS};
use super::{code, read, set};
use crate::world::World;

/// Versions: visibly none of a real driver. nvml-wrapper takes field ids of NVML 12 for such a one.
const DRIVER_VERSION: &str = "000.00 simulated";
const NVML_VERSION: &str = "12.000.00 simulated";

/// What comes out of a call: numbers and text, or a code.
pub(super) type Answer = Result<(Vec<i64>, String), u32>;

pub(super) fn numbers<const N: usize>(values: [i64; N]) -> Answer {
    Ok((values.to_vec(), String::new()))
}

pub(super) fn text(text: impl Into<String>) -> Answer {
    Ok((Vec::new(), text.into()))
}

/// The call without what is broken in it.
pub(super) fn answer(driver: &mut Driver, world: &mut World, client: u64, call: &Call) -> Return {
    match dispatch(driver, world, client, call) {
        Ok((values, text)) => Return { values, text, ..Return::default() },
        Err(code) => Return { code, ..Return::default() },
    }
}

fn dispatch(driver: &mut Driver, world: &mut World, client: u64, call: &Call) -> Answer {
    let name = call.symbol.strip_prefix("nvml").unwrap_or_default();
    if !SYMBOLS.contains(&name) {
        return Err(code::UNKNOWN);
    }
    let first = call.arguments.first().copied().unwrap_or(0);
    let up = driver.client(client).is_some_and(|client| client.inits > 0);
    match name {
        "Init_v2" | "InitWithFlags" => {
            let client = driver.client(client).ok_or(code::UNKNOWN)?;
            client.inits = client.inits.saturating_add(1);
            return numbers([]);
        }
        _ if !up => return Err(code::UNINITIALIZED),
        "Shutdown" => {
            if let Some(client) = driver.client(client) {
                client.inits = client.inits.saturating_sub(1);
            }
            driver.unload_unused(world);
            return numbers([]);
        }
        "SystemGetDriverVersion" => return text(DRIVER_VERSION),
        "SystemGetNVMLVersion" => return text(NVML_VERSION),
        "SystemGetProcessName" => {
            let known = driver.cards.iter().flat_map(|card| &card.processes).any(|(pid, _)| i64::from(*pid) == first);
            return if known { text("/simulated/payload") } else { Err(code::NOT_FOUND) };
        }
        "EventSetCreate" | "EventSetFree" | "EventSetWait_v2" => return events(driver, world, client, name, first),
        "DeviceGetCount_v2" => return numbers([of(driver.order.len())]),
        "DeviceGetHandleByIndex_v2" | "DeviceGetHandleByUUID" | "DeviceGetHandleByPciBusId_v2" => {
            return found(world, asked_for(driver, call)?);
        }
        _ => {}
    }
    let card = call.card.filter(|card| *card < driver.cards.len()).ok_or(code::INVALID_ARGUMENT)?;
    if name == "DeviceRegisterEvents" {
        return register(driver, world, client, card, &call.arguments);
    }
    if !is_there(world, card) {
        return Err(code::GPU_IS_LOST);
    }
    match set::answer(driver, world, card, name, call) {
        Some(answer) => answer,
        None => read::answer(driver, world, card, name, &call.arguments),
    }
}

/// The card that a call asks a handle of.
pub(super) fn asked_for(driver: &Driver, call: &Call) -> Result<usize, u32> {
    match call.symbol.as_str() {
        "nvmlDeviceGetHandleByIndex_v2" => {
            let index = call.arguments.first().and_then(|index| usize::try_from(*index).ok());
            index.and_then(|index| driver.order.get(index).copied()).ok_or(code::INVALID_ARGUMENT)
        }
        "nvmlDeviceGetHandleByUUID" => search(driver, |card| uuid(card) == call.text),
        "nvmlDeviceGetHandleByPciBusId_v2" => {
            let asked: PciAddress = call.text.to_lowercase().parse().map_err(|_| code::INVALID_ARGUMENT)?;
            search(driver, |card| pci(card) == asked.to_string())
        }
        _ => Err(code::INVALID_ARGUMENT),
    }
}

fn search(driver: &Driver, mine: impl Fn(usize) -> bool) -> Result<usize, u32> {
    driver.order.iter().copied().find(|card| mine(*card)).ok_or(code::NOT_FOUND)
}

/// A handle; `nvml.h` has GPU_IS_LOST for those that are not to be had.
fn found(world: &World, card: usize) -> Answer {
    if is_there(world, card) { numbers([of(card)]) } else { Err(code::GPU_IS_LOST) }
}

pub(super) fn of(many: usize) -> i64 {
    i64::try_from(many).unwrap_or(i64::MAX)
}

fn events(driver: &mut Driver, world: &World, client: u64, name: &str, set: i64) -> Answer {
    let new = driver.next_set;
    driver.next_set += 1;
    let client = driver.client(client).ok_or(code::UNKNOWN)?;
    if name == "EventSetCreate" {
        return Driver::add_set(client, new).map(|id| (vec![id], String::new()));
    }
    let at = client.sets.iter().position(|known| known.id == set).ok_or(code::INVALID_ARGUMENT)?;
    if name == "EventSetFree" {
        client.sets.remove(at);
        return numbers([]);
    }
    let set = client.sets.get_mut(at).ok_or(code::INVALID_ARGUMENT)?;
    match set.events.pop_front() {
        Some(event) => numbers(event),
        None if set.registered.iter().any(|(card, _)| !is_there(world, *card)) => Err(code::GPU_IS_LOST),
        None => Err(code::TIMEOUT),
    }
}

fn register(driver: &mut Driver, world: &World, client: u64, card: usize, arguments: &[i64]) -> Answer {
    let [types, set] = *arguments else { return Err(code::INVALID_ARGUMENT) };
    if !is_there(world, card) {
        return Err(code::GPU_IS_LOST);
    }
    let client = driver.client(client).ok_or(code::UNKNOWN)?;
    let set = client.sets.iter_mut().find(|known| known.id == set).ok_or(code::INVALID_ARGUMENT)?;
    if types & !read::EVENT_TYPES != 0 || types & XID_EVENT == 0 && types != 0 {
        return Err(code::NOT_SUPPORTED);
    }
    set.registered.retain(|(known, _)| *known != card);
    set.registered.push((card, types));
    numbers([])
}
