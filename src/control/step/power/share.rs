//! The GPUs' limits: each its lowest, then by worth as much as it wants, then what is left over. Rails are parts of supplies
//! and supplies are parts of the rig, so giving to the worthiest first is the best division, not only a good one (a linear
//! objective over nested limits is a polymatroid; Edmonds, 1970).

use std::time::Duration;

use super::budget::{at_worst, bit, toward};
use super::halt::Halts;
use super::{Cause, Gpu, GpuOrder, Inputs, Orders, Rung, WORTH_WRITING, milliwatts};
use crate::sorted;
use crate::units::{Megahertz, Percent};

/// Uses so many hundredths of its limit and it wants more.
const WANTS: i64 = 97;
/// What it wants otherwise, in hundredths of what it uses, and on top of that.
const HEADROOM: (i64, i64) = (110, 10_000);
/// What a GPU is taken to use sinks with this time constant: kernels come in bursts. It rises at once.
const REST_MS: i64 = 500;
/// Clocks are locked no lower than this part of the highest, in hundredths: below, a card earns less than it idles.
const LOWEST_CLOCK: i64 = 40;
/// What a GPU at its lowest clocks draws of what its lowest limit leaves above idle, in hundredths. Guessed high: power falls
/// faster than clocks, and the meter corrects it.
const AT_LOWEST_CLOCK: i64 = 60;
/// Levels are found to this many milliwatts.
const LEAST: i64 = 200;
/// It draws so many hundredths more than it was taken to use, and so much: no noise, its load comes back.
const RISES: (i64, i64) = (6, 3_000);
/// Locks are whole steps of this, MHz; one upwards in a tenth of a second.
const CLOCK_STEP: i64 = 15;
/// Downwards a lock is where it should be after about this time.
const LOCK_MS: i64 = 250;

/// A limit of the sum of some GPUs.
#[derive(Clone, Debug)]
pub(super) struct Constraint {
    pub(super) cause: Cause,
    /// For the GPUs, in milliwatts.
    pub(super) budget: i64,
    /// Each GPU counts by its limit, not by what it uses.
    pub(super) strict: bool,
    /// Which GPUs, by bit.
    pub(super) members: u64,
}

/// What is remembered of the limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shares(Vec<Share>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    /// Ordered last; none where nothing was.
    set: Option<i64>,
    /// What it is taken to use.
    used: i64,
    /// The clock lock ordered last, MHz.
    lock: Option<i64>,
}

/// What a GPU counts for while it is being decided.
struct Part {
    lowest: i64,
    top: i64,
    want: i64,
    set: i64,
    /// What it uses, and how much less that is than what it wants or must have.
    used: i64,
    lent: i64,
    /// What it may be drawing where it does not tell.
    worst: i64,
    /// It tells what it draws.
    known: bool,
}

impl Shares {
    pub(super) fn begin(&mut self, gpus: &[Gpu]) {
        let fresh = |gpu: &Gpu| {
            let top = i64::from(gpu.top.0);
            Share { set: None, used: top, lock: None }
        };
        self.0.truncate(gpus.len());
        self.0.extend(gpus.iter().skip(self.0.len()).map(fresh));
    }

    pub(super) fn set(&self, index: usize) -> Option<i64> {
        self.0.get(index)?.set
    }

    pub(super) fn sum(&self) -> i64 {
        self.0.iter().filter_map(|share| share.set).sum()
    }

    pub(super) fn share(
        &mut self,
        inputs: &Inputs<'_>,
        constraints: &[Constraint],
        halts: &Halts,
        (lend, since): (Percent, Duration),
    ) -> Orders {
        let millis = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        let mut parts: Vec<Option<Part>> =
            inputs.gpus.iter().zip(&mut self.0).map(|(gpu, share)| part(gpu, share, millis)).collect();
        lend_no_more(&mut parts, constraints, lend);
        let worth = |index: &usize| inputs.gpus.get(*index).map(|gpu| gpu.worth);
        let order = sorted::list_by(0..parts.len(), |a, b| worth(b).cmp(&worth(a)));
        let mut room: Vec<i64> = constraints.iter().map(|one| one.budget - charges(one, &parts, Part::least)).collect();
        for wanted in [true, false] {
            for equals in order.chunk_by(|a, b| worth(a) == worth(b)) {
                level(equals, wanted, &mut parts, constraints, &mut room);
            }
        }
        let mut orders = Orders::default();
        for (index, (gpu, part)) in inputs.gpus.iter().zip(&parts).enumerate() {
            let tight = |(one, room): &(&Constraint, &i64)| one.members & bit(index) != 0 && **room < WORTH_WRITING;
            let cause = constraints.iter().zip(&room).find(tight).or(constraints.iter().zip(&room).next());
            let cause = cause.map(|(one, _)| one.cause);
            let Some(share) = self.0.get_mut(index) else { continue };
            orders.gpus.push(share.order(gpu, part.as_ref(), cause, halts.rung(gpu.payload)));
        }
        self.locks(inputs, constraints, (halts, millis), &parts, &mut orders);
        orders
    }

    /// Locks clocks where the lowest limits are too much.
    fn locks(
        &mut self,
        inputs: &Inputs<'_>,
        constraints: &[Constraint],
        (halts, millis): (&Halts, i64),
        parts: &[Option<Part>],
        orders: &mut Orders,
    ) {
        for (index, ((gpu, share), order)) in inputs.gpus.iter().zip(&mut self.0).zip(&mut orders.gpus).enumerate() {
            let Some(highest) = gpu.max_clock.map(|clock| i64::from(clock.0)) else { continue };
            let lowest = gpu.limits.map_or(0, |(lowest, _)| i64::from(lowest.0));
            let locking = constraints.iter().filter(|one| one.members & bit(index) != 0 && halts.locks(one));
            let goals = locking.map(|one| (goal_of(one, parts, lowest), one.cause));
            let Some((goal, cause)) = goals.min_by_key(|(goal, _)| *goal) else {
                share.lock = None;
                continue;
            };
            let (Ok(power), Ok(clock)) = (gpu.power, gpu.clock) else { continue };
            let (power, clock) = (i64::from(power.0), i64::from(clock.0));
            let from = share.lock.unwrap_or(clock).min(clock.max(highest * LOWEST_CLOCK / 100));
            let moved = if power > goal {
                // Part of the way: the draw comes after the clock.
                toward(from, from * goal / power.max(1), millis, LOCK_MS)
            } else if power * 100 < goal * 95 {
                share.lock.unwrap_or(clock) + CLOCK_STEP * (millis / 100).max(1)
            } else {
                share.lock.unwrap_or(clock)
            };
            let lock = (moved / CLOCK_STEP * CLOCK_STEP).clamp(highest * LOWEST_CLOCK / 100, highest);
            share.lock = Some(lock);
            order.clock = u32::try_from(lock).ok().map(Megahertz);
            if order.rung < Rung::Clocks {
                (order.rung, order.cause) = (Rung::Clocks, Some(cause));
            }
        }
    }
}

/// What a budget leaves a card of its lowest limit.
fn goal_of(one: &Constraint, parts: &[Option<Part>], lowest: i64) -> i64 {
    let members = parts.iter().enumerate().filter(|(index, _)| one.members & bit(*index) != 0);
    let least = members.filter_map(|(_, part)| Some(part.as_ref()?.lowest)).sum::<i64>().max(1);
    let goal = i128::from(one.budget.max(0)) * i128::from(lowest) / i128::from(least);
    i64::try_from(goal).unwrap_or(lowest).min(lowest)
}

impl Share {
    fn order(
        &mut self,
        gpu: &Gpu,
        part: Option<&Part>,
        cause: Option<Cause>,
        halted: Option<(Rung, Cause)>,
    ) -> GpuOrder {
        let held = part.filter(|_| cause.is_some()).map(|part| {
            // Downwards at once; upwards only what is worth a write, and to the top.
            let whole = if part.set < part.top { (part.set / 1000 * 1000).max(part.lowest) } else { part.top };
            let small = |before: &i64| whole > *before && whole - before < WORTH_WRITING && whole < part.top;
            self.set.filter(small).unwrap_or(whole)
        });
        self.set = held;
        let limited = held.filter(|set| *set < i64::from(gpu.top.0));
        let (rung, cause) = match (halted, limited) {
            (Some((rung, cause)), _) => (rung, Some(cause)),
            (None, Some(_)) => (Rung::Limit, cause),
            (None, None) => (Rung::Free, None),
        };
        GpuOrder { limit: limited.map(milliwatts), clock: None, rung, cause }
    }
}

impl Part {
    /// What a limit counts for: in full, or where it is lent, by what is used as far as that is.
    fn charge(&self, set: i64, strict: bool) -> i64 {
        if strict { set } else { (set - self.lent).max(set.min(self.used)) }
    }

    /// The highest limit that counts for no more than this.
    const fn afford(&self, charge: i64, strict: bool) -> i64 {
        if strict || charge < self.used { charge } else { charge + self.lent }
    }

    /// As much as it wants, or all that it may have.
    fn goal(&self, wanted: bool) -> i64 {
        if wanted { self.want.clamp(self.lowest, self.top) } else { self.top }
    }

    const fn least(&self) -> i64 {
        self.lowest
    }
}

fn part(gpu: &Gpu, share: &mut Share, millis: i64) -> Option<Part> {
    let (lowest, highest) = gpu.limits?;
    let (lowest, highest) = (i64::from(lowest.0), i64::from(highest.0));
    let top = i64::from(gpu.top.0).clamp(lowest, highest.max(lowest));
    // One that does not tell what it draws is given no more than it was.
    let top = if gpu.power.is_err() { share.set.map_or(top, |set| set.clamp(lowest, top)) } else { top };
    let drawn = gpu.power.map_or(top, |power| i64::from(power.0));
    share.used = if drawn > share.used + RISES.1.max(share.used * RISES.0 / 100) {
        // Its load comes back: it will use all that it may before the next limit is on the card.
        share.set.unwrap_or(top).max(drawn)
    } else if drawn >= share.used {
        drawn
    } else {
        toward(share.used, drawn, millis, REST_MS)
    };
    let hungry = share.used * 100 >= share.set.unwrap_or(top) * WANTS;
    let want = if hungry { top } else { (share.used * HEADROOM.0 / 100 + HEADROOM.1).min(top) };
    // One that wants more than it has lends only what it leaves of that.
    let mine = if hungry { share.set.unwrap_or(top) } else { want };
    let lent = (mine.max(lowest) - share.used).max(0);
    Some(Part {
        lowest,
        top,
        want,
        set: lowest,
        used: share.used,
        lent,
        worst: at_worst(gpu),
        known: gpu.power.is_ok(),
    })
}

/// Cuts what is lent to a part of the budget that it is lent from: all of it may be asked back at once.
fn lend_no_more(parts: &mut [Option<Part>], constraints: &[Constraint], lend: Percent) {
    let budget = constraints.iter().filter(|one| !one.strict).map(|one| one.budget.max(0)).min();
    let Some(most) = budget.map(|budget| budget * i64::from(lend.0) / 100) else { return };
    let lent: i64 = parts.iter().flatten().map(|part| part.lent).sum();
    if lent > most {
        for part in parts.iter_mut().flatten() {
            part.lent = part.lent * most / lent;
        }
    }
}

/// What the members count for at this much each.
fn charges(one: &Constraint, parts: &[Option<Part>], each: impl Fn(&Part) -> i64) -> i64 {
    let charge = |(index, part): (usize, &Option<Part>)| {
        let part = part.as_ref().filter(|_| one.members & bit(index) != 0)?;
        // One that does not tell may not have taken its limit: it counts in full where nobody measures.
        Some(if one.strict && !part.known { part.worst } else { part.charge(each(part), one.strict) })
    };
    parts.iter().enumerate().filter_map(charge).sum()
}

/// Raises the limits of GPUs that are worth the same to one level, as far as every constraint has room, and those that are on a
/// constraint with more of it further: a card earns less with each watt that it has already.
fn level(equals: &[usize], wanted: bool, parts: &mut [Option<Part>], constraints: &[Constraint], room: &mut [i64]) {
    for _ in 0..=constraints.len() {
        let full = |index: usize, room: &[i64]| {
            constraints.iter().zip(room).any(|(one, room)| one.members & bit(index) != 0 && *room < LEAST)
        };
        let open = |index: &&usize| {
            let part = parts.get(**index).and_then(Option::as_ref);
            part.is_some_and(|part| part.set < part.goal(wanted)) && !full(**index, room)
        };
        let open: Vec<usize> = equals.iter().filter(open).copied().collect();
        let of = |index: &usize| parts.get(*index).and_then(Option::as_ref);
        let (Some(mut low), Some(highest)) = (
            open.iter().filter_map(of).map(|part| part.set).min(),
            open.iter().filter_map(of).map(|part| part.goal(wanted)).max(),
        ) else {
            return;
        };
        let fits = |level: i64| {
            constraints.iter().zip(&*room).all(|(one, room)| {
                let cost = |index: &usize| {
                    let part =
                        of(index).filter(|part| one.members & bit(*index) != 0 && (part.known || !one.strict))?;
                    let set = level.min(part.goal(wanted)).max(part.set);
                    Some(part.charge(set, one.strict) - part.charge(part.set, one.strict))
                };
                open.iter().filter_map(cost).sum::<i64>() <= *room
            })
        };
        let mut high = highest;
        if !fits(high) {
            while high - low > LEAST {
                let middle = i64::midpoint(low, high);
                if fits(middle) { low = middle } else { high = middle }
            }
            high = low;
        }
        for index in &open {
            let Some(Some(part)) = parts.get_mut(*index) else { continue };
            let goal = high.min(part.goal(wanted));
            give(part, goal, *index, constraints, room);
        }
        // What is left of the level is less than a write is worth, on one of the constraints.
        if open.iter().all(|index| !full(*index, room)) {
            break;
        }
    }
    for index in equals {
        let Some(Some(part)) = parts.get_mut(*index) else { continue };
        let goal = part.goal(wanted);
        give(part, goal, *index, constraints, room);
    }
}

/// Raises one GPU's limit to the goal, as far as every constraint on it has room.
fn give(part: &mut Part, goal: i64, index: usize, constraints: &[Constraint], room: &mut [i64]) {
    let on = |one: &Constraint| one.members & bit(index) != 0;
    let free = |one: &Constraint| one.strict && !part.known;
    let highest = |(one, room): (&Constraint, &i64)| {
        let charge = part.charge(part.set, one.strict).saturating_add(*room);
        (on(one) && !free(one)).then(|| if *room > 0 { part.afford(charge, one.strict) } else { part.set })
    };
    let most = constraints.iter().zip(&*room).filter_map(highest).min().unwrap_or(i64::MAX);
    let set = goal.min(most).max(part.set);
    for (one, room) in constraints.iter().zip(&mut *room).filter(|(one, _)| on(one) && !free(one)) {
        *room -= part.charge(set, one.strict) - part.charge(part.set, one.strict);
    }
    part.set = set;
}

/// What a constraint's members draw at least: those that are halted idle, or are as good as; the others at their lowest limits, or at
/// their lowest clocks. Those that take no limit are counted with the rest.
pub(super) fn at_least(one: &Constraint, gpus: &[Gpu], halts: &Halts, clocks: bool) -> i64 {
    let least = |(_, gpu): (usize, &Gpu)| {
        let Some((lowest, _)) = gpu.limits else { return 0 };
        let (idle, lowest) = (i64::from(gpu.idle.0), i64::from(lowest.0));
        if gpu.power.is_err() && one.strict {
            return at_worst(gpu);
        }
        if halts.rung(gpu.payload).is_some() {
            return idle;
        }
        let used = gpu.power.map_or(lowest, |power| i64::from(power.0));
        let lowest = if one.strict { lowest } else { lowest.min(used * HEADROOM.0 / 100 + HEADROOM.1) };
        if clocks && gpu.max_clock.is_some() && lowest > idle { clocked(idle, lowest) } else { lowest }
    };
    gpus.iter().enumerate().filter(|(index, _)| one.members & bit(*index) != 0).map(least).sum()
}

/// What a card at its lowest clocks draws: less, and nothing works on it. Where its limits are not known, twice what it idles at.
pub(super) fn at_lowest_clocks(gpu: &Gpu) -> i64 {
    let idle = i64::from(gpu.idle.0);
    gpu.limits.map_or(2 * idle, |(lowest, _)| clocked(idle, i64::from(lowest.0)))
}

const fn clocked(idle: i64, lowest: i64) -> i64 {
    idle + (lowest - idle) * AT_LOWEST_CLOCK / 100
}
