//! Energy: what the rig, each supply, each GPU and each payload has used, and what work came of it.
//!
//! ```text
//! watts ── trapezoid between two readings ──> increments ── apportioned ──> accounts ── every 10 s ──> file
//!   └ missing, or too far apart: a gap, in milliseconds                        └── every quarter of an hour ──> chained record
//! ```
//!
//! Kept in microjoule: a milliwatt for a millisecond is one exactly, where a milliwatt-hour is 3.6 million of them and each
//! tick would be rounded. 64 bits of it are five gigawatt-hours. For people it is shown in watt-hours.
//!
//! **Gaps are not filled.** Where a reading is missing, or the last one is more than [`LONGEST`] ago, nothing is counted and
//! the time is. What was counted never shrinks. The time in which no agent ran, and the seconds before that which it had not
//! written down, are a gap of the rig, its supplies and its GPUs; of a payload nobody knows whether it worked then.
//!
//! **The rig** is the sum of its supplies' inputs, as control sees it ([`Snapshot::input`](crate::reading::Snapshot::input)): all of them
//! have to tell. Where the board has no supply it is the sum of its rails, and where it has none the sum of the GPUs:
//! [`Books::basis`] says which.
//!
//! **What is shown is what is kept**: telemetry, the local socket and receipts have the books as they were last written, up to
//! ten seconds old, so that an agent that is killed never shows less than before.
//!
//! **Who pays for what.** The rig's energy of each interval, with the supply's loss, fans and board in it, goes to the GPUs in
//! proportion to what they drew themselves: loss grows with watts, and so does the air that carries them away. A GPU's part
//! is its payload's; that of a GPU without one, and all of it while none draws anything, is overhead. So payloads and overhead
//! are the rig, to the microjoule. Where the GPU of a payload does not tell, that payload has a gap, and others are not charged for
//! it: its part is overhead. What a GPU drew itself is what its own counter says, and its power where it has none: `meter.rs`.
//!
//! A payload's work is its meter's rate over the same intervals. It is told for the whole payload, so each of its GPUs gets the
//! part that its energy is of the payload's.
//!
//! **Nothing is cut off at a tick.** Time is counted in whole milliseconds, and what is left of one comes with the next tick; so does
//! what is left of a microjoule, and of a thousandth of a unit of work.

mod interval;
mod key;
mod meter;
mod run;
mod store;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use interval::{Broken, Interval, Line, QUARTER, verify};
pub use key::Key;
pub use run::{Inputs as RunInputs, RECEIPTS, run, shown};
pub use store::{Kept, Moment, SAVE_EVERY, SYNC_EVERY, Store, records};

use crate::reading::Reading;
use crate::units::{Microjoules, MilliPerSecond, Millijoules, Milliwatts};
use meter::{Own, Trapezoid};

/// Two readings farther apart than this say nothing of what was between them.
pub const LONGEST: Duration = Duration::from_secs(5);
/// Accounts of one kind; what comes after that goes to the last one, called [`OTHERS`].
pub const MOST: usize = 256;
/// Whose account that is.
pub const OTHERS: &str = "others";
/// Parts of a millionth of a unit of work that are still told apart: a year of ticks at 100 Hz cuts off three thousandths.
const PARTS: u128 = 1_000_000;

/// What was used, and how sure that is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Used while it was measured.
    pub energy: Microjoules,
    /// Work done in the same time: hashes, tokens, requests or jobs. 0 where there is no meter.
    pub work: u64,
    /// Measured for so long, ms.
    pub counted_ms: u64,
    /// Not measured for so long, ms.
    pub gap_ms: u64,
    /// Thousandths of a unit of work that are not a whole one yet.
    pub thousandths: u16,
}

impl Account {
    /// Thousandths of a unit of work for a joule; none before anything was used.
    #[must_use]
    pub fn milli_per_joule(&self) -> Option<u64> {
        (self.milli() * 1_000_000)
            .checked_div(self.energy.0.into())
            .map(|milli| u64::try_from(milli).unwrap_or(u64::MAX))
    }

    /// What was added since `earlier`; nothing where that was more.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut more = Self {
            energy: Microjoules(self.energy.0.saturating_sub(earlier.energy.0)),
            counted_ms: self.counted_ms.saturating_sub(earlier.counted_ms),
            gap_ms: self.gap_ms.saturating_sub(earlier.gap_ms),
            ..Self::default()
        };
        more.worked(self.milli().saturating_sub(earlier.milli()));
        more
    }

    fn plus(&mut self, more: &Self) {
        self.add(more.energy.0, more.counted_ms);
        self.miss(more.gap_ms);
        self.worked(more.milli());
    }

    fn milli(&self) -> u128 {
        u128::from(self.work) * 1000 + u128::from(self.thousandths)
    }

    fn add(&mut self, microjoules: u64, millis: u64) {
        self.energy.0 = self.energy.0.saturating_add(microjoules);
        self.counted_ms = self.counted_ms.saturating_add(millis);
    }

    fn miss(&mut self, millis: u64) {
        self.gap_ms = self.gap_ms.saturating_add(millis);
    }

    fn worked(&mut self, milli: u128) {
        let all = milli + u128::from(self.thousandths);
        self.work = self.work.saturating_add(u64::try_from(all / 1000).unwrap_or(u64::MAX));
        self.thousandths = u16::try_from(all % 1000).unwrap_or(0);
    }
}

/// What the rig's own numbers are made of. Numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// The supplies' inputs: all that the rig takes.
    #[default]
    Input,
    /// The rails: without the supplies' loss, and without what no rail feeds.
    Rails,
    /// What the GPUs tell of themselves, and nothing else.
    Gpus,
}

/// Everything that is counted; accounts are never taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    /// The rig, at its input.
    pub rig: Account,
    /// Its part that no payload used.
    pub overhead: Account,
    /// Each supply by name: its input, its output.
    pub supplies: Vec<(String, Account, Account)>,
    /// Each GPU by UUID: what it drew itself.
    pub gpus: Vec<(String, Account)>,
    /// Each payload on each GPU, by name and UUID: its part of the rig's.
    pub payloads: Vec<(String, String, Account)>,
    /// What the rig's numbers are made of now.
    pub basis: Basis,
}

impl Books {
    /// Nobody measured for so long: a gap of everything but payloads, which may not have worked.
    pub fn away(&mut self, millis: u64) {
        self.rig.miss(millis);
        self.overhead.miss(millis);
        for (_, input, output) in &mut self.supplies {
            input.miss(millis);
            output.miss(millis);
        }
        self.gpus.iter_mut().for_each(|(_, account)| account.miss(millis));
    }

    /// What they were before an interval and what that says are the books after it, but for the supplies' outputs.
    fn plus(&mut self, interval: &Interval) {
        self.rig.plus(&interval.rig);
        self.overhead.plus(&interval.overhead);
        self.basis = interval.basis;
        let supply = |name: &str| (name.to_owned(), Account::default(), Account::default());
        for Line { name, used, .. } in &interval.supplies {
            with(&mut self.supplies, |(known, ..)| known == name, supply, name, |(_, input, _)| input.plus(used));
        }
        let gpu = |name: &str| (name.to_owned(), Account::default());
        for Line { name, used, .. } in &interval.gpus {
            with(&mut self.gpus, |(known, _)| known == name, gpu, name, |(_, account)| account.plus(used));
        }
        for Line { name, gpu, used } in &interval.payloads {
            let same = |(payload, uuid, _): &(String, String, Account)| payload == name && uuid == gpu;
            let payload = |name: &str| (name.to_owned(), gpu.clone(), Account::default());
            with(&mut self.payloads, same, payload, name, |(.., account)| account.plus(used));
        }
    }

    /// And what was counted apart from these, in accounts of the same names.
    fn join(&mut self, more: &Self) {
        self.plus(&Interval::between(0, (0, &Self::default()), (0, more)));
        // An interval says nothing of outputs.
        let supply = |name: &str| (name.to_owned(), Account::default(), Account::default());
        for (name, _, used) in &more.supplies {
            with(&mut self.supplies, |(known, ..)| known == name, supply, name, |(.., output)| output.plus(used));
        }
    }

    /// A payload's accounts as one. Its times are those of all its GPUs together.
    #[must_use]
    pub fn payload(&self, name: &str) -> Account {
        let mut all = Account::default();
        for (_, _, account) in self.payloads.iter().filter(|(known, ..)| known == name) {
            all.plus(account);
        }
        all
    }
}

/// What is known in this tick.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// Now, on a clock that never jumps.
    pub now: Instant,
    /// The rig's input.
    pub rig: Reading<Milliwatts>,
    /// The supplies: name, input, output.
    pub supplies: &'a [(&'a str, Reading<Milliwatts>, Reading<Milliwatts>)],
    /// The GPUs.
    pub gpus: &'a [Gpu<'a>],
    /// What works: name, and its rate where its meter tells one.
    pub payloads: &'a [(&'a str, Option<MilliPerSecond>)],
}

/// A GPU as energy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gpu<'a> {
    /// Its UUID.
    pub uuid: &'a str,
    /// What it draws.
    pub power: Reading<Milliwatts>,
    /// What it counts itself, since its driver was loaded.
    pub energy: Reading<Millijoules>,
    /// The payload that has it.
    pub payload: Option<&'a str>,
}

/// What is remembered from one tick to the next; the books alone outlive the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The books.
    pub books: Books,
    /// Everything is counted up to here, less than a millisecond ago.
    at: Option<Instant>,
    rig: Trapezoid,
    supplies: Vec<[Trapezoid; 2]>,
    /// By UUID, for GPUs may come in another order.
    gpus: Vec<(String, Own)>,
    /// Of each payload's account, in their order: work that is not a whole thousandth yet, in [`PARTS`] of a millionth of a unit.
    work: Vec<u128>,
}

impl State {
    /// Goes on where these books were closed. What was used meanwhile is not known and not counted: see [`Books::away`].
    #[must_use]
    pub fn new(books: Books) -> Self {
        Self { books, ..Self::default() }
    }

    /// Goes on with these books, which were kept before the first tick and are known only now: what was counted since comes on top.
    fn adopt(&mut self, mut books: Books) {
        if self.at.is_some() {
            books.join(&self.books);
        }
        self.books = books;
        // Accounts are in another order now; less than a thousandth of each is lost.
        self.work.clear();
    }

    /// GPUs whose counter is too far from their power, by UUID.
    pub fn doubted(&self) -> impl Iterator<Item = &str> {
        self.gpus.iter().filter(|(_, meter)| meter.doubted).map(|(uuid, _)| uuid.as_str())
    }
}

/// Counts one tick.
#[must_use]
pub fn step(mut state: State, inputs: &Inputs<'_>) -> State {
    let passed = state.at.map(|at| inputs.now.saturating_duration_since(at));
    let millis = passed.map_or(0, |passed| u64::try_from(passed.as_millis()).unwrap_or(u64::MAX));
    let whole = passed.map(|_| Duration::from_millis(millis));
    // What is left of a millisecond is counted with the next tick.
    state.at = state.at.zip(whole).and_then(|(at, whole)| at.checked_add(whole)).or(Some(inputs.now));
    let since = whole.filter(|whole| *whole <= LONGEST);
    let books = &mut state.books;

    state.supplies.resize(inputs.supplies.len(), [Trapezoid::default(); 2]);
    for ((name, input, output), meters) in inputs.supplies.iter().zip(&mut state.supplies) {
        let [first, second] = meters;
        let used = (first.next(*input, since), second.next(*output, since));
        let make = |name: &str| (name.to_owned(), Account::default(), Account::default());
        with(
            &mut books.supplies,
            |(known, ..)| known == name,
            make,
            name,
            |(_, into, out)| {
                count(into, used.0, millis);
                count(out, used.1, millis);
            },
        );
    }
    let mut drawn = Vec::with_capacity(inputs.gpus.len());
    for gpu in inputs.gpus {
        let make = |uuid: &str| (uuid.to_owned(), Own::default());
        let next = |(_, meter): &mut (String, Own)| meter.next(gpu.power, gpu.energy, (since, millis));
        let now = with(&mut state.gpus, |(known, _)| known == gpu.uuid, make, gpu.uuid, next);
        let make = |uuid: &str| (uuid.to_owned(), Account::default());
        let settle = |(_, account): &mut (String, Account)| {
            if let Some((millis, used)) = now.settled {
                count(account, used, millis);
            }
        };
        with(&mut books.gpus, |(known, _)| known == gpu.uuid, make, gpu.uuid, settle);
        drawn.push(now.weight);
    }
    let used = state.rig.next(inputs.rig, since);
    count(&mut books.rig, used, millis);
    apportion(&mut state, inputs, used, &drawn, millis);
    state
}

/// Gives the rig's energy of one interval to those who caused it.
fn apportion(state: &mut State, inputs: &Inputs<'_>, rig: Option<u64>, drawn: &[Option<u64>], millis: u64) {
    let State { books, work: rests, .. } = state;
    let all: u64 = drawn.iter().flatten().sum();
    let mut left = rig;
    for (gpu, own) in inputs.gpus.iter().zip(drawn) {
        let Some(name) = gpu.payload else { continue };
        let part = rig.zip(*own).map(|(rig, own)| share(rig, own, all));
        let more = part.and(*own).map_or(0, |own| work(inputs, drawn, gpu, own, millis));
        left = left.map(|left| left.saturating_sub(part.unwrap_or(0)));
        let same = |(payload, uuid, _): &(String, String, Account)| payload == name && uuid == gpu.uuid;
        let make = |name: &str| {
            let uuid = if name == OTHERS { "" } else { gpu.uuid };
            (name.to_owned(), uuid.to_owned(), Account::default())
        };
        let at = place(&mut books.payloads, same, make, name);
        rests.resize(books.payloads.len(), 0);
        if let (Some((.., account)), Some(rest)) = (books.payloads.get_mut(at), rests.get_mut(at)) {
            count(account, part, millis);
            let all = more + *rest;
            account.worked(all / (1000 * PARTS));
            *rest = all % (1000 * PARTS);
        }
    }
    count(&mut books.overhead, left, millis);
}

/// Work that a payload has done on this GPU, which drew `own`, in [`PARTS`] of a millionth of a unit.
fn work(inputs: &Inputs<'_>, drawn: &[Option<u64>], gpu: &Gpu<'_>, own: u64, millis: u64) -> u128 {
    let rate = inputs.payloads.iter().find(|(known, _)| Some(*known) == gpu.payload).and_then(|(_, rate)| *rate);
    let members = inputs.gpus.iter().zip(drawn).filter(|(other, _)| other.payload == gpu.payload);
    let (count, sum) = members.fold((0_u64, 0_u64), |(count, sum), (_, used)| (count + 1, sum + used.unwrap_or(0)));
    // Where none of its GPUs draws anything each has done as much as the others.
    let (own, sum) = if sum == 0 { (1, count) } else { (own, sum) };
    let all = u128::from(rate.map_or(0, |rate| rate.0)) * u128::from(millis);
    let (all, sum) = (all * u128::from(own), u128::from(sum.max(1)));
    all / sum * PARTS + all % sum * PARTS / sum
}

fn share(rig: u64, own: u64, all: u64) -> u64 {
    let part = (u128::from(rig) * u128::from(own)).checked_div(all.into()).unwrap_or(0);
    u64::try_from(part).unwrap_or(u64::MAX)
}

fn count(account: &mut Account, used: Option<u64>, millis: u64) {
    match used {
        Some(microjoules) => account.add(microjoules, millis),
        None => account.miss(millis),
    }
}

/// Where the one that is meant is, or a new one; where there are too many already the last, of which nobody asks for anything else.
fn place<T>(list: &mut Vec<T>, same: impl Fn(&T) -> bool, make: impl Fn(&str) -> T, name: &str) -> usize {
    let found = list.iter().position(same);
    found.unwrap_or_else(|| {
        if list.len() < MOST {
            list.push(make(if list.len() + 1 == MOST { OTHERS } else { name }));
        }
        list.len().saturating_sub(1)
    })
}

/// Does this with it.
fn with<T, R>(
    list: &mut Vec<T>,
    same: impl Fn(&T) -> bool,
    make: impl Fn(&str) -> T,
    name: &str,
    then: impl FnOnce(&mut T) -> R,
) -> R {
    let at = place(list, same, &make, name);
    match list.get_mut(at) {
        Some(one) => then(one),
        // There is one: it was just put in.
        None => then(&mut make(name)),
    }
}

#[cfg(test)]
mod tests;
