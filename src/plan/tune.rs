//! The tuner's search: which power limit, core clock and memory clock suit a payload on a GPU best. Pure: it says what to try
//! next and is told what came of it.
//!
//! A memory has but a few clocks, so that axis is a list of them, and one step is the next one.
//!
//! Compass search over whole steps (Kolda, Lewis, Torczon, Optimization by direct search, SIAM Review 45, 2003): from the best
//! point so far it looks a stride away along each axis, and along both diagonals of limit and core clock, which are coupled;
//! goes wherever it is better by more than noise; where nothing is, strides are halved. With strides of one step and nothing
//! better the best point is measured twice more, for the best of many noisy numbers is too good: where its mean is not what it
//! promised, the search goes on from what is best then. Every point is tried once, and [`MOST`] in all.
//!
//! Trouble narrows the space and never widens it: where a setting was refused, or work at it was wrong, or an Xid came,
//! nothing with clocks as high is tried again; where heat took the GPU up its ladder, nothing with a limit as high. The
//! second Xid ends the search, and so does the third trouble of any kind: a card is not worth a percent.

use crate::units::{Megahertz, MicroPerKilowattHour, MicroPerTera, MilliPerSecond, Milliwatts};

/// Measurements, the last ones included. With a minute each it takes no more than an hour and a half.
pub const MOST: usize = 90;
/// Better by no more than this many thousandths is noise.
const NOISE: i64 = 4;
/// Times that the best point is measured.
const CONFIRMED: usize = 3;
/// Steps of an axis.
const LARGEST: u32 = 256;
/// Troubles and Xids after which it ends.
const TROUBLES: usize = 3;
const XIDS: usize = 2;
/// Which way to look: limit, core clock, memory clock. The clock first: it acts where the limit does not hold it anyway.
const WAYS: [[i32; 3]; 10] = [
    [0, -1, 0],
    [-1, 0, 0],
    [0, 0, 1],
    [1, 0, 0],
    [0, 1, 0],
    [0, 0, -1],
    [-1, -1, 0],
    [1, 1, 0],
    [-1, 1, 0],
    [1, -1, 0],
];

/// Values of a setting, from the lowest on in whole steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// The lowest, mW or MHz.
    pub lowest: u32,
    /// The highest is at most this.
    pub highest: u32,
    /// One step.
    pub step: u32,
}

/// What may be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// Power limits, within what the card takes.
    pub limit: Axis,
    /// Core clocks.
    pub core: Axis,
    /// Memory clocks from the lowest on, 256 at most; none leaves the memory as it is.
    pub memory: Vec<Megahertz>,
}

/// What is sought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Most work for a joule.
    PerJoule,
    /// Most money an hour.
    Margin {
        /// What a unit of work is worth.
        value: MicroPerTera,
        /// What energy costs.
        energy: MicroPerKilowattHour,
    },
}

/// Settings to be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Power limit.
    pub limit: Milliwatts,
    /// Core clock.
    pub core: Megahertz,
    /// Memory clock; none leaves it as it is, which is the highest.
    pub memory: Option<Megahertz>,
}

/// What came of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It ran, warmed up, and did this.
    Measured(MilliPerSecond, Milliwatts),
    /// The settings were refused or did not hold, or the pool refused the work.
    Rejected,
    /// The driver told of an error.
    Xid,
    /// Heat took the GPU to a lower limit or farther.
    Heat,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Try this, and tell what came of it.
    Try(Point),
    /// This is the best that was found.
    Done {
        /// Where.
        best: Point,
        /// The mean of its measurements: of [`Goal::score`].
        score: i64,
        /// Why it ended.
        end: End,
    },
    /// Nothing could be measured.
    Failed(End),
}

/// Why a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing around it is better.
    Found,
    /// Enough was measured.
    Enough,
    /// Too much trouble.
    Trouble,
}

/// A place in the space, in steps.
type Place = [u32; 3];

/// A search under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    space: Space,
    goal: Goal,
    tried: Vec<Tried>,
    /// What is being tried.
    at: Place,
    strides: Place,
    /// The next of `WAYS`.
    way: usize,
    measured: usize,
    xids: usize,
    troubles: usize,
    /// Nothing as high in both clocks, by step.
    clocks: Vec<[u32; 2]>,
    /// Nothing as high in its limit, by step.
    limit: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Tried {
    place: Place,
    sum: i128,
    count: usize,
}

impl Axis {
    fn last(self) -> u32 {
        (self.highest.saturating_sub(self.lowest) / self.step.max(1)).min(LARGEST)
    }

    const fn value(self, steps: u32) -> u32 {
        self.lowest.saturating_add(self.step.saturating_mul(steps))
    }
}

impl Space {
    /// Measurements at most: each place as often as the best one, [`MOST`] in all.
    #[must_use]
    pub fn most(&self) -> usize {
        let places = lasts(self).map(|last| usize::try_from(last).unwrap_or(MOST).saturating_add(1));
        places.into_iter().fold(CONFIRMED, usize::saturating_mul).min(MOST)
    }
}

impl Goal {
    /// The number that is made as large as can be: thousandths of a unit for a kilojoule, or millionths of money an hour.
    #[must_use]
    pub fn score(&self, rate: MilliPerSecond, power: Milliwatts) -> i64 {
        let score = match self {
            Self::PerJoule => (i128::from(rate.0) * 1_000_000).checked_div(power.0.into()).unwrap_or(0),
            Self::Margin { value, energy } => {
                super::earned(rate, *value) - i128::from(power.0) * i128::from(energy.0) / 1_000_000
            }
        };
        i64::try_from(score).unwrap_or(if score < 0 { i64::MIN } else { i64::MAX })
    }
}

impl State {
    /// Begins at these settings, or what is nearest to them in the space.
    #[must_use]
    pub fn begin(space: Space, goal: Goal, from: Point) -> (Self, Next) {
        let lasts = lasts(&space);
        let near = |axis: Axis, value: u32| (value.saturating_sub(axis.lowest) / axis.step.max(1)).min(axis.last());
        // The highest that is not above it.
        let memory = space.memory.iter().filter(|own| from.memory.is_none_or(|clock| **own <= clock)).count();
        let at = [near(space.limit, from.limit.0), near(space.core, from.core.0), steps(memory.saturating_sub(1))];
        let state = Self {
            space,
            goal,
            tried: Vec::new(),
            at,
            // A quarter of each axis.
            strides: lasts.map(|last| (last / 4).max(1)),
            way: 0,
            measured: 0,
            xids: 0,
            troubles: 0,
            clocks: Vec::new(),
            limit: u32::MAX,
        };
        let point = state.point(state.at);
        (state, Next::Try(point))
    }

    /// Takes what came of the last point.
    #[must_use]
    pub fn next(mut self, event: Event) -> (Self, Next) {
        self.measured += 1;
        let [limit, core, memory] = self.at;
        match event {
            Event::Measured(rate, power) => {
                let score = self.goal.score(rate, power);
                self.take(score.into());
            }
            Event::Rejected => self.trouble(Some([core, memory])),
            Event::Xid => {
                self.xids += 1;
                self.trouble(Some([core, memory]));
            }
            Event::Heat => {
                self.limit = self.limit.min(limit);
                self.trouble(None);
            }
        }
        if self.xids >= XIDS || self.troubles >= TROUBLES {
            return self.end(End::Trouble);
        }
        if self.measured >= MOST {
            return self.end(End::Enough);
        }
        let Some(best) = self.best() else {
            // Not even the first point worked: half way down to the lowest, as often as there are troubles left.
            self.at = self.at.map(|steps| steps / 2);
            let point = self.point(self.at);
            return if self.open(self.at) { (self, Next::Try(point)) } else { self.end(End::Trouble) };
        };
        self.search(best)
    }

    /// The best of what was measured so far; none before the first measurement.
    #[must_use]
    pub fn so_far(&self) -> Option<Point> {
        self.best().map(|best| self.point(best))
    }

    fn take(&mut self, score: i128) {
        let before = self.best();
        match self.tried.iter_mut().find(|tried| tried.place == self.at) {
            Some(tried) => (tried.sum, tried.count) = (tried.sum + score, tried.count + 1),
            None => self.tried.push(Tried { place: self.at, sum: score, count: 1 }),
        }
        if self.best() != before {
            // From there every way is open again.
            self.way = 0;
        }
    }

    fn trouble(&mut self, clocks: Option<[u32; 2]>) {
        self.troubles += 1;
        self.clocks.extend(clocks);
        // What was measured there does not count any more.
        let (limits, forbidden) = (self.limit, self.clocks.clone());
        self.tried.retain(|tried| is_open(tried.place, limits, &forbidden));
        self.way = 0;
    }

    /// Where to go from the best point.
    fn search(mut self, best: Place) -> (Self, Next) {
        loop {
            while let Some(way) = WAYS.get(self.way) {
                self.way += 1;
                let Some(place) = self.beside(best, way) else { continue };
                if self.open(place) && self.tried.iter().all(|tried| tried.place != place) {
                    self.at = place;
                    let point = self.point(place);
                    return (self, Next::Try(point));
                }
            }
            self.way = 0;
            if self.strides.iter().all(|stride| *stride <= 1) {
                break;
            }
            self.strides = self.strides.map(|stride| (stride / 2).max(1));
        }
        // Nothing is better around it: is it itself as good as it was?
        self.way = WAYS.len();
        if self.tried.iter().any(|tried| tried.place == best && tried.count < CONFIRMED) {
            self.at = best;
            let point = self.point(best);
            return (self, Next::Try(point));
        }
        self.end(End::Found)
    }

    fn end(self, end: End) -> (Self, Next) {
        let found = self.best().and_then(|best| self.tried.iter().find(|tried| tried.place == best));
        let next = found.map_or(Next::Failed(end), |tried| Next::Done {
            best: self.point(tried.place),
            score: i64::try_from(tried.mean()).unwrap_or(i64::MAX),
            end,
        });
        (self, next)
    }

    /// The best so far. One that was tried later must be better by more than noise; or as good with a lower core clock, seen
    /// from more than a step away: a lock that the limit does not let the card reach is no lock, and the way down is flat.
    fn best(&self) -> Option<Place> {
        let better = |best: Option<(Place, i128)>, tried: &Tried| {
            let Some((place, mean)) = best else { return Some((tried.place, tried.mean())) };
            let noise = mean.abs() * i128::from(NOISE) / 1000;
            let ([limit, core, memory], [other, lower, same]) = (place, tried.place);
            let flat = limit == other && memory == same && lower + 1 < core && tried.mean() >= mean - noise;
            if tried.mean() > mean + noise || flat { Some((tried.place, tried.mean())) } else { Some((place, mean)) }
        };
        self.tried.iter().fold(None, better).map(|(place, _)| place)
    }

    fn beside(&self, from: Place, way: &[i32; 3]) -> Option<Place> {
        let lasts = lasts(&self.space);
        let mut place = from;
        for (((place, way), stride), last) in place.iter_mut().zip(way).zip(self.strides).zip(lasts) {
            let moved = i64::from(*place) + i64::from(*way) * i64::from(stride);
            *place = u32::try_from(moved.clamp(0, last.into())).ok()?;
        }
        (place != from).then_some(place)
    }

    fn open(&self, place: Place) -> bool {
        is_open(place, self.limit, &self.clocks)
    }

    fn point(&self, place: Place) -> Point {
        let [limit, core, memory] = place;
        Point {
            limit: Milliwatts(self.space.limit.value(limit)),
            core: Megahertz(self.space.core.value(core)),
            memory: usize::try_from(memory).ok().and_then(|at| self.space.memory.get(at)).copied(),
        }
    }
}

impl Tried {
    fn mean(&self) -> i128 {
        i128::try_from(self.count).ok().and_then(|count| self.sum.checked_div(count)).unwrap_or(0)
    }
}

fn lasts(space: &Space) -> Place {
    [space.limit.last(), space.core.last(), steps(space.memory.len().saturating_sub(1))]
}

fn steps(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(LARGEST).min(LARGEST)
}

fn is_open(place: Place, limit: u32, clocks: &[[u32; 2]]) -> bool {
    let [own, core, memory] = place;
    own < limit && !clocks.iter().any(|[high, fast]| core >= *high && memory >= *fast)
}

#[cfg(test)]
mod tests;
