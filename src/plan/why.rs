//! Why a GPU has what it has, in one line, and what would change it.

use super::{Inputs, Payload, earned};
use crate::units::{MicroPerHour, MicroPerKilowattHour, MicroPerTera};

/// Why a GPU has what it has; numbers are indices into the payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was leased.
    Leased {
        /// To this one.
        payload: usize,
    },
    /// It earns most here.
    Earns {
        /// This one.
        payload: usize,
        /// So much.
        margin: MicroPerHour,
        /// At this price of energy it would earn nothing; none where it draws no more than an idle GPU.
        until: Option<MicroPerKilowattHour>,
        /// The next best, and the value of its work at which it would take over.
        next: Option<(usize, MicroPerTera)>,
    },
    /// Another would earn more, not enough to pay for the change.
    Stays {
        /// What runs.
        payload: usize,
        /// So much.
        margin: MicroPerHour,
        /// What would earn more.
        other: usize,
        /// So much.
        more: MicroPerHour,
        /// The value of its work at which the change would pay.
        from: Option<MicroPerTera>,
    },
    /// Something else would earn more here, and it earns more on another GPU, or has as many as it may have.
    Spared {
        /// What runs.
        payload: usize,
        /// So much.
        margin: MicroPerHour,
        /// What it would be.
        other: usize,
    },
    /// Nothing earns.
    Idle {
        /// The best.
        payload: usize,
        /// What it would earn, or rather lose.
        margin: MicroPerHour,
        /// Below this price of energy it would earn.
        below: Option<MicroPerKilowattHour>,
    },
    /// Nobody knows what it yields here: it is tried for some minutes.
    Tried {
        /// This one.
        payload: usize,
    },
    /// Nothing may run here.
    Nothing,
    /// What may run here was never measured, and nobody has a guess.
    Unknown {
        /// The first of them.
        payload: usize,
    },
}

/// Why this GPU got what the plan gives it.
pub(super) fn of(inputs: &Inputs<'_>, plan: &[Option<usize>], gpu: usize) -> Why {
    let open = |payload: &usize| {
        inputs.payloads.get(*payload).is_some_and(|payload| payload.lease.is_none())
            && inputs.score(gpu, *payload).is_some()
    };
    let others = || (0..inputs.payloads.len()).filter(open);
    let margin = |payload: usize| inputs.margin(gpu, payload).unwrap_or_default();
    let Some(payload) = plan.get(gpu).copied().flatten() else {
        let Some(best) = others().max_by_key(|other| (margin(*other), std::cmp::Reverse(*other))) else {
            let may = |payload: &usize| inputs.fits(gpu, *payload) && inputs.may_run(*payload);
            let unknown = (0..inputs.payloads.len()).find(may);
            return unknown.map_or(Why::Nothing, |payload| Why::Unknown { payload });
        };
        return Why::Idle { payload: best, margin: margin(best), below: break_even(inputs, gpu, best) };
    };
    if inputs.payloads.get(payload).is_some_and(|payload| payload.lease.is_some()) {
        return Why::Leased { payload };
    }
    let own = margin(payload);
    let score = |payload: usize| inputs.score(gpu, payload).unwrap_or(i64::MIN);
    let next =
        others().filter(|other| *other != payload).max_by_key(|other| (score(*other), std::cmp::Reverse(*other)));
    let takes_over = |other: usize| needed(inputs, gpu, other, score(payload));
    match next {
        Some(other) if score(other) > score(payload) => Why::Spared { payload, margin: own, other },
        Some(other) if margin(other) > own && inputs.current.get(gpu) == Some(&Some(payload)) => {
            Why::Stays { payload, margin: own, other, more: margin(other), from: takes_over(other) }
        }
        next => Why::Earns {
            payload,
            margin: own,
            until: break_even(inputs, gpu, payload),
            next: next.and_then(|other| Some((other, takes_over(other)?))),
        },
    }
}

/// The price of energy at which a payload earns nothing there.
fn break_even(inputs: &Inputs<'_>, gpu: usize, payload: usize) -> Option<MicroPerKilowattHour> {
    let yields = inputs.yields(gpu, payload)?;
    let more = i128::from(yields.power.0) - i128::from(inputs.idle.0);
    let earned = earned(yields.rate, inputs.payloads.get(payload)?.value);
    (more > 0)
        .then(|| (earned * 1_000_000).checked_div(more))
        .flatten()
        .and_then(|price| Some(MicroPerKilowattHour(i64::try_from(price).ok()?)))
}

/// The value of a unit at which a payload would have more than this score there: what it is short of, over the time in which it
/// would work. Rounded up.
fn needed(inputs: &Inputs<'_>, gpu: usize, payload: usize, goal: i64) -> Option<MicroPerTera> {
    let short = u128::try_from(i128::from(goal) + 1 - i128::from(inputs.score(gpu, payload)?)).unwrap_or(0);
    let time = inputs.horizon.saturating_sub(inputs.downtime(gpu, payload)).as_millis();
    let work = u128::from(inputs.yields(gpu, payload)?.rate.0).checked_mul(time)?;
    // Thousandths of a unit a second, milliseconds and 10^12 units.
    let more = short.checked_mul(1_000_000_000_000_000_000)?.div_ceil(std::num::NonZeroU128::new(work)?.get());
    let now = inputs.payloads.get(payload)?.value.0;
    Some(MicroPerTera(now.saturating_add(u64::try_from(more).ok()?)))
}

impl Why {
    /// In one line.
    #[must_use]
    pub fn line(&self, payloads: &[Payload]) -> String {
        let name = |payload: usize| payloads.get(payload).map_or("?", |payload| payload.name.as_str());
        let percent = |payload: usize, value: MicroPerTera| {
            let now = payloads.get(payload).map_or(0, |payload| payload.value.0);
            // In hundredths more than now.
            match (u128::from(value.0.saturating_sub(now)) * 100).checked_div(now.into()) {
                Some(more) => format!("{} at {more} % more for its work", name(payload)),
                None => format!("{} if its work were worth anything", name(payload)),
            }
        };
        match *self {
            Self::Leased { payload } => format!("{}: leased", name(payload)),
            Self::Earns { payload, margin, until, next } => {
                let until = until.map_or(String::new(), |price| format!(", while energy is below {}", per_kwh(price)));
                let next = next.map_or(String::new(), |(other, value)| format!("; then {}", percent(other, value)));
                format!("{}: earns most, {}{until}{next}", name(payload), per_hour(margin))
            }
            Self::Stays { payload, margin, other, more, from } => {
                let from = from.map_or(String::new(), |value| format!("; {}", percent(other, value)));
                let (now, then) = (per_hour(margin), per_hour(more));
                format!("{}: stays at {now}, a change to {} for {then} would not pay{from}", name(payload), name(other))
            }
            Self::Spared { payload, margin, other } => {
                format!("{}: {}; {} is of more use on another GPU", name(payload), per_hour(margin), name(other))
            }
            Self::Idle { payload, margin, below } => {
                let below = below.map_or(String::new(), |price| format!("; it pays below {}", per_kwh(price)));
                format!("idle: the best, {}, would bring {}{below}", name(payload), per_hour(margin))
            }
            Self::Tried { payload } => {
                format!("{}: tried for some minutes, nobody knows what it yields here", name(payload))
            }
            Self::Nothing => "idle: nothing may run here now".to_owned(),
            Self::Unknown { payload } => {
                format!(
                    "idle: nobody knows what {} yields here, and it has not been its turn to be tried",
                    name(payload)
                )
            }
        }
    }
}

pub(super) fn decimal(micro: i64) -> String {
    let sign = if micro < 0 { "-" } else { "" };
    let whole = micro.unsigned_abs();
    format!("{sign}{}.{:04}", whole / 1_000_000, whole % 1_000_000 / 100)
}

fn per_hour(margin: MicroPerHour) -> String {
    format!("{}/h", decimal(margin.0))
}

fn per_kwh(price: MicroPerKilowattHour) -> String {
    format!("{}/kWh", decimal(price.0))
}
