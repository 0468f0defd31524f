//! Power and heat in one tick: what each GPU may take, and how far each payload is held back.

use super::power;
use super::{Inputs, Orders, State, gpu, ladder};
use crate::board::Board;
use crate::gpu::{Gpu, Limits, Presence, air};
use crate::payload::Hold;
use crate::reading::{Missing, Stage, Zone};
use crate::units::Milliwatts;

/// Temperatures that a card can tell and live: what is outside is noise, and nobody knows how hot it is.
const TOLD: std::ops::RangeInclusive<i32> = -40_000..=130_000;

/// What was decided on power and heat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limited {
    /// One per GPU.
    pub gpus: Vec<GpuLimited>,
    /// One per payload: how far it is to be held back.
    pub holds: Vec<Hold>,
    /// What holds of all caps now, and whose it is.
    pub cap: Option<(Milliwatts, power::Source)>,
    /// What the decision rests on.
    pub basis: power::Basis,
    /// What the rig draws by that.
    pub estimate: Milliwatts,
}

/// What was decided on a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GpuLimited {
    /// By power alone.
    pub power: power::GpuOrder,
    /// By heat alone.
    pub heat: ladder::Order,
    /// Of both.
    pub limits: Limits,
}

/// Decides. Without a policy nothing is limited and nothing is remembered.
pub(super) fn decide(board: &Board, state: &mut State, inputs: &Inputs<'_>, orders: &mut Orders) {
    let Some((policy, found)) = &inputs.power else { return };
    let before = state.power.take().unwrap_or_else(|| power::State::new(inputs.now));
    let (next, decided) = power::step(policy, before, found);
    state.power = Some(next);
    let mut holds: Vec<Hold> = decided.payloads.iter().map(|rung| hold(*rung)).collect();
    state.heat.resize(inputs.gpus.len().max(state.heat.len()), ladder::State::new(inputs.now));
    for (index, (gpu, memory)) in inputs.gpus.iter().zip(&mut state.heat).enumerate() {
        let own = found.gpus.get(index);
        let heat = heat(board, gpu, own, &orders.zones, memory, inputs.now);
        let power = decided.gpus.get(index).copied().unwrap_or_default();
        let payload = own.and_then(|own| own.payload);
        let kind = payload.and_then(|payload| found.payloads.get(payload)).map(|payload| payload.kind);
        let joined = ladder::join(&power, &heat, kind);
        if let Some(held) = payload.and_then(|payload| holds.get_mut(payload)) {
            *held = (*held).max(hold(joined.rung));
        }
        let limits = Limits { power: joined.limit, clock: joined.clock, memory: None };
        orders.limited.gpus.push(GpuLimited { power, heat, limits });
    }
    let power::Orders { cap, source, basis, estimate, .. } = decided;
    orders.limited.holds = holds;
    (orders.limited.cap, orders.limited.basis, orders.limited.estimate) = (cap.zip(source), basis, estimate);
}

/// One GPU on heat's ladder. One that does not work is nobody's heat, and one that was let go of on purpose is not blind.
fn heat(
    board: &Board,
    gpu: &Gpu,
    own: Option<&power::Gpu>,
    zones: &[Zone],
    memory: &mut ladder::State,
    now: std::time::Instant,
) -> ladder::Order {
    let off = matches!(gpu.sample, Err(Missing::Off));
    let Some(own) = own.filter(|_| gpu.presence == Presence::Seen && !off) else {
        *memory = ladder::State::new(now);
        return ladder::Order::default();
    };
    let critical = air::critical(gpu.device.as_deref());
    let temperature = gpu::heat(gpu, critical, gpu::TOO_HOT);
    let known = temperature.and_then(|now| if TOLD.contains(&now.0) { Ok(now) } else { Err(Missing::Implausible) });
    let touches =
        |(_, zone): &(usize, &crate::board::Zone)| zone.gpus.as_ref().is_some_and(|which| which.count(gpu.pci));
    let stages = board.zones.iter().enumerate().filter(touches);
    let stages = stages.filter_map(|(index, _)| Some((index, zones.get(index)?.stage)));
    let seen = ladder::Gpu {
        temperature: known,
        critical,
        emergency: air::emergency(gpu.device.as_deref()),
        hysteresis: air::HYSTERESIS,
        zone: stages.max_by_key(|(_, stage)| worse(*stage)),
        limits: own.limits,
        top: own.top,
        answers: gpu.sample.is_ok(),
    };
    let (next, order) = ladder::step(*memory, &seen, now);
    *memory = next;
    order
}

const fn worse(stage: Stage) -> u8 {
    match stage {
        Stage::Critical => 3,
        Stage::Blind => 2,
        Stage::FanFailed => 1,
        Stage::Starting | Stage::Normal | Stage::FanMadeUp | Stage::Quiet | Stage::Calibrating => 0,
    }
}

const fn hold(rung: power::Rung) -> Hold {
    match rung {
        power::Rung::Free | power::Rung::Limit | power::Rung::Clocks => Hold::Free,
        power::Rung::Pause => Hold::Pause,
        power::Rung::Drain => Hold::Drain,
        power::Rung::Stop => Hold::Stop,
    }
}

#[cfg(test)]
mod tests;
