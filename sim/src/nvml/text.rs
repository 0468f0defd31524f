//! The words of the control socket that are about cards.

use super::driver::Driver;
use super::fault::Fault;
use crate::quantize::whole;
use crate::world::World;

/// What can be said.
pub(crate) const HELP: &str = "\
fault gpu 3 nvmlDeviceGetTemperature hang after 10  never comes back, after 10 calls that do; `any` function, `all` cards
fault gpu 3 any slow 500      comes back after so many ms
fault gpu 3 any lost          lost from the next call on
fault gpu 3 GetPowerUsage code 3   this code; also not-supported, no-permission, unknown, deprecated, mismatch, not-loaded
fault gpu 3 GetComputeRunningProcesses_v3 race  the list grows between the call for its size and the next
fault gpu 3 SetFanSpeed_v2 ignored  accepted, and nothing changes
fault gpu 3 any segv          the caller dies of it; also abort
fault gpu 3 any garbage       noise for every number and for the length of lists
fault gpu 3 fan stuck         a fan of the card stands whatever its drive
fault nvml init mismatch      calls of no card in particular: init, or any function of all cards
gpu 3 xid 79                  an Xid error: event and kernel log; 79 is lost too
gpu 3 fall                    lost with nothing but a line in the kernel log
gpu 3 energy-reset            its counter of energy starts again
gpu 3 process 4242 1024       a process with so many MiB there; 0 MiB ends it
gpu 3 ecc 5 1                 memory errors, corrected and not
gpu 3 rows 1 0 1 0            rows remapped: corrected, uncorrected, one waits, one failed
gpu 3 replays 7               packets that were sent again
gpu 3 width 4                 lanes of its link
driver reload                 settings are lost, lost cards are not found, clients must init again
driver order 1 0              NVML's indices: cards in this order, the rest behind
clear gpu 3                   no faults, and back if it was lost, as after a reset; also clear gpu, clear nvml
get hits                      how often each fault of NVML was met
get settings                  the last calls that were to change something, with their codes
";

/// Does what the words say; none if they are not about cards.
pub(crate) fn obey(driver: &mut Driver, world: &mut World, words: &[&str]) -> Option<Result<String, String>> {
    Some(match words {
        ["fault", "gpu", which, "fan", "stuck"] => each(driver, which, |_, gpu| {
            if let Some(gpu) = world.gpus.get_mut(gpu) {
                gpu.fans.iter_mut().for_each(|fan| fan.stuck = true);
            }
            Ok(())
        }),
        ["fault", "gpu", "all", rest @ ..] | ["fault", "nvml", rest @ ..] => broken(driver, None, rest),
        ["fault", "gpu", which, rest @ ..] => card(driver, which).and_then(|card| broken(driver, Some(card), rest)),
        ["clear", "gpu" | "nvml"] => {
            driver.repair(world, None);
            Ok(String::new())
        }
        ["clear", "gpu", which] => card(driver, which).map(|card| {
            driver.repair(world, Some(card));
            String::new()
        }),
        ["gpu", which, rest @ ..] => each(driver, which, |driver, card| happen(driver, world, card, rest)),
        ["driver", "reload"] => {
            driver.reload(world);
            Ok(String::new())
        }
        ["driver", "order", cards @ ..] => order(driver, cards),
        ["get", "hits"] => Ok(driver.hits().map(|(hits, fault)| format!("{hits} {fault}\n")).collect()),
        ["get", "settings"] => Ok(driver.setters().map(|setter| format!("{setter}\n")).collect()),
        ["driver", ..] => Err("driver reload or driver order 1 0".to_owned()),
        _ => return None,
    })
}

fn broken(driver: &mut Driver, card: Option<usize>, words: &[&str]) -> Result<String, String> {
    driver.break_it(Fault::parse(card, words)?).map(|()| String::new())
}

fn card(driver: &Driver, which: &str) -> Result<usize, String> {
    let many = driver.cards.len();
    let there = || format!("no GPU `{which}`; there are 0 to {}, and all", many.saturating_sub(1));
    which.parse().ok().filter(|card| *card < many).ok_or_else(there)
}

fn each(
    driver: &mut Driver,
    which: &str,
    mut run: impl FnMut(&mut Driver, usize) -> Result<(), String>,
) -> Result<String, String> {
    let cards = if which == "all" { 0..driver.cards.len() } else { card(driver, which).map(|card| card..card + 1)? };
    for card in cards {
        run(driver, card)?;
    }
    Ok(String::new())
}

fn happen(driver: &mut Driver, world: &mut World, index: usize, words: &[&str]) -> Result<(), String> {
    let number = |text: &str| {
        let number = text.parse::<u32>().map(i64::from);
        number.map_err(|_| format!("`{text}` is no number from 0 to {}", u32::MAX))
    };
    match words {
        ["xid", xid] => {
            let xid = u32::try_from(number(xid)?).unwrap_or(0);
            driver.xid(world, index, xid);
            return Ok(());
        }
        ["fall"] => {
            driver.fall(world, index);
            return Ok(());
        }
        _ => {}
    }
    let (Some(card), Some(gpu)) = (driver.cards.get_mut(index), world.gpus.get(index)) else {
        return Err(format!("no GPU {index}"));
    };
    match words {
        ["energy-reset"] => card.energy_from = gpu.joules,
        ["process", pid, mib] => {
            let (pid, mib) = (u32::try_from(number(pid)?).unwrap_or(0), number(mib)?);
            card.processes.retain(|(known, _)| *known != pid);
            if mib > 0 {
                card.processes.push((pid, mib << 20));
            }
        }
        ["ecc", corrected, uncorrected] => card.ecc = [number(corrected)?, number(uncorrected)?],
        ["rows", corrected, uncorrected, waits, failed] => {
            card.rows = [number(corrected)?, number(uncorrected)?, number(waits)?, number(failed)?];
        }
        ["replays", many] => card.replays = number(many)?,
        ["width", lanes] => card.width = number(lanes)?,
        _ => {
            return Err(
                "gpu 3 xid 79, fall, energy-reset, process PID MIB, ecc N N, rows N N N N, replays N or width N"
                    .to_owned(),
            );
        }
    }
    Ok(())
}

fn order(driver: &mut Driver, cards: &[&str]) -> Result<String, String> {
    let mut order = Vec::new();
    for which in cards {
        let card = card(driver, which)?;
        if order.contains(&card) {
            return Err(format!("GPU {card} is there twice"));
        }
        order.push(card);
    }
    let rest: Vec<usize> = driver.order.iter().copied().filter(|card| !order.contains(card)).collect();
    order.extend(rest);
    driver.order = order;
    Ok(String::new())
}

/// The truth about cards, in the units of the agent's telemetry.
pub(crate) fn truth(driver: &Driver, world: &World) -> String {
    let mut text = String::new();
    for (index, (gpu, card)) in world.gpus.iter().zip(&driver.cards).enumerate() {
        let mut line = |key: &str, value: String| text += &format!("gpu.{index}.{key}={value}\n");
        let manual: Vec<String> = gpu.fans.iter().map(|fan| fan.manual.is_some().to_string()).collect();
        let percent = |part: f64| whole(part * 100.0, 0, 100).to_string();
        let fans: Vec<String> = gpu.fans.iter().map(|fan| percent(fan.speed)).collect();
        let lock =
            |lock: Option<(u32, u32)>| lock.map_or_else(|| "none".to_owned(), |(low, high)| format!("{low}-{high}"));
        let memory = gpu.control.memory_lock.and_then(|state| gpu.profile.memory.get(state));
        let list = |list: Vec<String>| if list.is_empty() { "none".to_owned() } else { list.join(",") };
        line("class", gpu.profile.class.to_owned());
        line("pci", super::driver::pci(index));
        line("uuid", super::driver::uuid(index));
        line("presence", format!("{:?}", gpu.presence).to_lowercase());
        line("clock_mhz", gpu.core_mhz.to_string());
        line("memory_clock_mhz", gpu.memory_mhz.to_string());
        line("pstate", gpu.pstate.to_string());
        line("work_ppm", whole(gpu.work() * 1e6, 0, i32::MAX).to_string());
        line("limit_mw", gpu.control.limit.to_string());
        line("core_lock_mhz", lock(gpu.control.core_lock));
        line("memory_lock_mhz", memory.map_or_else(|| "none".to_owned(), |(_, mhz)| mhz.to_string()));
        let at_work = gpu.profile.memory.get(gpu.profile.work_state).map_or(0, |(pstate, _)| usize::from(*pstate));
        line("core_offset_mhz", gpu.control.core_offset.get(at_work).unwrap_or(&0).to_string());
        line("memory_offset_mhz", gpu.control.memory_offset.get(at_work).unwrap_or(&0).to_string());
        line("fan_pct", list(fans));
        line("manual", list(manual));
        line("reasons", format!("{:#x}", gpu.reasons));
        line("persistent", card.persistent.to_string());
    }
    text
}
