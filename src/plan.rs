//! Which payload has which GPU. Pure: the same inputs give the same plan.
//!
//! 1. **Leases of AI work win.** In the order of their priority each is granted if its GPUs can be found beside those of the
//!    leases granted before it, or refused as a whole.
//! 2. **Then margin**: value of a unit × measured rate − price of energy × measured watts, over [`Inputs::horizon`]. A GPU on
//!    which nothing earns stays idle.
//! 3. **Moving must pay**: a GPU's present payload is given up only for one that earns more than the switch costs (the time
//!    in which nothing earns, the energy of loading, the work that is lost) and a part on top, [`Inputs::stickiness`].
//!
//! All of that is one number for each GPU and payload, so the best plan as a whole is an assignment of least cost with
//! capacities, found by successive shortest paths (`matching.rs`): exact, 16 GPUs and 16 payloads in some tens of microseconds.
//! What is not a lease takes its GPUs one by one, up to [`Payload::most`].
//!
//! Only what was measured is planned with: a payload that never ran on a GPU has no rate there, and but for a lease does not
//! get it.

mod matching;
#[cfg(feature = "ctl")]
pub mod policy;
#[cfg(feature = "ctl")]
pub mod simulate;
#[cfg(feature = "ctl")]
pub mod tune;
mod why;

use std::time::Duration;

use crate::sorted;
use crate::units::{MicroPerHour, MicroPerKilowattHour, MicroPerTera, MilliPerSecond, Milliwatts, Percent};
pub use why::Why;

/// GPUs and payloads that are planned for; what comes after is left out.
pub const MOST: usize = 64;
/// No margin over any horizon is as large; a lease's place is worth it, whatever the rest earns.
const LEASE: i64 = 1 << 52;
/// The largest score, so that the sum of all GPUs stays below one [`LEASE`].
const LARGEST: i64 = 1 << 45;

/// What could run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Its name.
    pub name: String,
    /// A lease's terms; none for work that runs when it pays.
    pub lease: Option<Lease>,
    /// GPUs that it may have at most; a lease has exactly these.
    pub most: u8,
    /// GPUs that can carry it, by bit.
    pub fits: u64,
    /// Minutes of the day, from and to, in which it may run; none is always. From after to is over midnight.
    pub hours: Option<(u16, u16)>,
    /// What a unit of its work is worth.
    pub value: MicroPerTera,
    /// What it costs to start and to end it.
    pub switch: Switch,
}

/// What a customer was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// From when, ms since 1970.
    pub from_ms: u64,
    /// Until when.
    pub to_ms: u64,
    /// The higher goes first; below 0 is nobody's promise.
    pub priority: i16,
}

/// What a change of payloads costs, as it was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switch {
    /// From the order to end until the GPU is free.
    pub drain: Duration,
    /// From its start until its full rate.
    pub load: Duration,
    /// Energy of starting it.
    pub joules: u32,
    /// Work that is lost when it is ended, in thousandths of a unit.
    pub lost_milli: u64,
}

/// What a payload does on a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Yield {
    /// Its rate.
    pub rate: MilliPerSecond,
    /// What the GPU draws with it, at the rig's input.
    pub power: Milliwatts,
}

/// What is known.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Now, ms since 1970.
    pub now_ms: u64,
    /// Minute of the local day.
    pub minute: u16,
    /// What could run.
    pub payloads: &'a [Payload],
    /// One per GPU: what runs there, an index into the payloads.
    pub current: &'a [Option<usize>],
    /// Rate and watts by payload, then by GPU; none where it was never measured.
    pub yields: &'a [Vec<Option<Yield>>],
    /// What an idle GPU draws.
    pub idle: Milliwatts,
    /// What energy costs.
    pub energy: MicroPerKilowattHour,
    /// How long prices are taken to stay as they are.
    pub horizon: Duration,
    /// What a change must bring on top of its cost, in hundredths of what is earned now.
    pub stickiness: Percent,
    /// A lease gets its GPUs so long before it begins.
    pub lead: Duration,
}

/// Who gets what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// One per GPU: what is to run there.
    pub gpus: Vec<Option<usize>>,
    /// One per GPU: why.
    pub whys: Vec<Why>,
    /// Leases that cannot be served, by index.
    pub refused: Vec<usize>,
}

/// Plans.
#[must_use]
pub fn plan(inputs: &Inputs<'_>) -> Plan {
    let gpus = inputs.current.len().min(MOST);
    let payloads = inputs.payloads.len().min(MOST);
    let (granted, refused) = leases(inputs, gpus);
    // The last column is idleness, which has room for all.
    let capacity: Vec<usize> = inputs
        .payloads
        .iter()
        .take(payloads)
        .enumerate()
        .map(|(index, payload)| match payload.lease {
            Some(_) if !granted.contains(&index) => 0,
            _ => payload.most.into(),
        })
        .chain([gpus])
        .collect();
    let cost = |gpu: usize, payload: usize| {
        if payload == payloads {
            return Some(-inputs.score_of_idle(gpu));
        }
        let lease = if inputs.payloads.get(payload)?.lease.is_some() { LEASE } else { 0 };
        Some(-(inputs.score(gpu, payload)? + lease))
    };
    let places = matching::assign(gpus, &capacity, cost);
    let gpus: Vec<Option<usize>> = places.into_iter().map(|place| place.filter(|place| *place < payloads)).collect();
    let whys = (0..gpus.len()).map(|gpu| why::of(inputs, &gpus, gpu)).collect();
    Plan { gpus, whys, refused }
}

/// The leases that are granted, and those that are due and refused.
fn leases(inputs: &Inputs<'_>, gpus: usize) -> (Vec<usize>, Vec<usize>) {
    let runs = |payload: usize| inputs.current.contains(&Some(payload));
    let due = inputs.payloads.iter().enumerate().take(MOST).filter_map(|(index, payload)| {
        let lease = payload.lease.filter(|_| inputs.may_run(index))?;
        Some((std::cmp::Reverse(lease.priority), !runs(index), lease.from_ms, index))
    });
    let due = sorted::list(due);
    let (mut granted, mut refused) = (Vec::new(), Vec::new());
    let mut places = vec![None; gpus];
    for (.., index) in due {
        let mut tried = places.clone();
        let wanted = inputs.payloads.get(index).map_or(0, |payload| payload.most);
        let fits = |gpu: usize, payload: usize| inputs.fits(gpu, payload);
        if (0..wanted).all(|_| matching::grow(&mut tried, index, &fits)) {
            places = tried;
            granted.push(index);
        } else {
            refused.push(index);
        }
    }
    (granted, refused)
}

impl Inputs<'_> {
    /// It is within its lease and its hours.
    #[must_use]
    pub fn may_run(&self, payload: usize) -> bool {
        let Some(payload) = self.payloads.get(payload) else { return false };
        let lead = u64::try_from(self.lead.as_millis()).unwrap_or(u64::MAX);
        let leased = payload
            .lease
            .is_none_or(|lease| lease.from_ms <= self.now_ms.saturating_add(lead) && self.now_ms < lease.to_ms);
        let open = payload.hours.is_none_or(|(from, to)| match from <= to {
            true => (from..to).contains(&self.minute),
            false => self.minute >= from || self.minute < to,
        });
        leased && open
    }

    fn fits(&self, gpu: usize, payload: usize) -> bool {
        self.payloads.get(payload).is_some_and(|payload| payload.fits & (1 << gpu) != 0)
    }

    /// What is known of this payload there.
    #[must_use]
    pub fn yields(&self, gpu: usize, payload: usize) -> Option<Yield> {
        *self.yields.get(payload)?.get(gpu)?
    }

    /// What it earns there beyond an idle GPU, energy paid; none where that was never measured.
    #[must_use]
    pub fn margin(&self, gpu: usize, payload: usize) -> Option<MicroPerHour> {
        let yields = self.yields(gpu, payload)?;
        let earned = earned(yields.rate, self.payloads.get(payload)?.value);
        let watts = i128::from(yields.power.0) - i128::from(self.idle.0);
        Some(MicroPerHour(narrow(earned - watts * i128::from(self.energy.0) / 1_000_000)))
    }

    /// What it brings there over the horizon, the switch paid; none where it may not run.
    #[must_use]
    pub fn score(&self, gpu: usize, payload: usize) -> Option<i64> {
        if !self.fits(gpu, payload) || !self.may_run(payload) {
            return None;
        }
        let wanted = self.payloads.get(payload)?;
        let margin = match (self.margin(gpu, payload), wanted.lease) {
            (Some(margin), _) => margin,
            // A lease is paid for, whatever its meter says.
            (None, Some(_)) => MicroPerHour(0),
            (None, None) => return None,
        };
        let current = self.current.get(gpu).copied().flatten();
        if current == Some(payload) {
            return Some(over(margin, self.horizon));
        }
        let time = self.horizon.saturating_sub(self.downtime(gpu, payload));
        // Nobody moves for nothing: what is worth the same on two GPUs stays where it is.
        let cost = self.cost_of_leaving(gpu) + self.cost_of_loading(wanted) + 1;
        Some((over(margin, time) - cost).max(-LARGEST))
    }

    /// What an idle GPU brings: nothing, less what it costs to end what runs there.
    #[must_use]
    pub fn score_of_idle(&self, gpu: usize) -> i64 {
        -self.cost_of_leaving(gpu)
    }

    /// Nothing earns for so long when this payload comes to this GPU.
    #[must_use]
    pub fn downtime(&self, gpu: usize, payload: usize) -> Duration {
        let leaving = self.current.get(gpu).copied().flatten().and_then(|current| self.payloads.get(current));
        let drain = leaving.map_or(Duration::ZERO, |payload| payload.switch.drain);
        self.payloads.get(payload).map_or(drain, |payload| payload.switch.load + drain)
    }

    /// What is lost and what must be won on top, when what runs there has to go.
    fn cost_of_leaving(&self, gpu: usize) -> i64 {
        let Some(current) = self.current.get(gpu).copied().flatten() else { return 0 };
        // What may not run any more is not missed.
        if !self.may_run(current) {
            return 0;
        }
        let Some(payload) = self.payloads.get(current) else { return 0 };
        let lost = u128::from(payload.switch.lost_milli) * u128::from(payload.value.0) / 1_000_000_000_000_000;
        let earned = self.margin(gpu, current).map_or(0, |margin| over(margin, self.horizon)).max(0);
        let stickiness = earned / 100 * i64::from(self.stickiness.0);
        i64::try_from(lost).unwrap_or(LARGEST).saturating_add(stickiness).min(LARGEST)
    }

    fn cost_of_loading(&self, payload: &Payload) -> i64 {
        // A kilowatt-hour is 3.6 million joules. One that is paid for taking energy is no reason to load.
        narrow(i128::from(payload.switch.joules) * i128::from(self.energy.0.max(0)) / 3_600_000)
    }
}

/// What this rate earns, millionths an hour.
pub(crate) fn earned(rate: MilliPerSecond, value: MicroPerTera) -> i128 {
    // Two numbers of somebody else: too large for any work that there is, and cut off.
    let micro = (u128::from(rate.0) * 3_600).saturating_mul(value.0.into()) / 1_000_000_000_000_000;
    i128::try_from(micro).unwrap_or(i128::MAX).min(LARGEST.into())
}

/// What is earned in this time.
pub(crate) fn over(margin: MicroPerHour, time: Duration) -> i64 {
    let millis = i128::try_from(time.as_millis()).unwrap_or(i128::MAX).min(1 << 40);
    narrow(i128::from(margin.0) * millis / 3_600_000)
}

fn narrow(value: i128) -> i64 {
    i64::try_from(value.clamp((-LARGEST).into(), LARGEST.into())).unwrap_or(0)
}

#[cfg(test)]
mod tests;
