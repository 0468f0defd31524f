//! Meters: how fast a payload works, by its own word, and whether that word can be believed.
//!
//! A payload tells its rate over an API of its own, and each has another one. A meter is a file that says where it
//! listens, what to ask and where in the answer each value stands; one engine reads them all, so that a new miner is
//! twenty lines of TOML and no code. The built-in ones are in `meters/`: copy a neighbour, and add a recorded answer to
//! `tests/meters/`.
//!
//! ```text
//! fetch: loopback, 2 s, 256 KiB ──► Answer ──► read(meter, answer, counters) ──► Sample ──► believe(history with watts)
//! ```
//!
//! What a meter file may say:
//!
//! ```toml
//! name = "xmrig"
//! unit = "H/s"                      # or "tokens/s", "requests/s", "jobs/s"
//! transport = "http"                # a GET; or "tcp": one line there, an answer back
//! format = "json"                   # or "prometheus", or "pairs" (`KEY=VALUE;...|`)
//! port = 18080                      # left out where the program has none of its own
//! path = "/2/summary"               # of a GET; a tcp meter has `request` instead
//!
//! [guard]                           # the answer is this API's only if a text begins like this
//! at = "/kind"
//! starts = ["miner"]
//!
//! [rate]
//! at = ["/hashrate/total/0"]        # places; the first that is there counts
//! units = ["kH/s"]                  # of each place, or one for all; the meter's own where left out
//! factor_at = ["/factor"]           # where the answer gives a number to multiply with
//! unit_at = ["/unit"]               # where the answer names its unit itself, if there is no such number
//! counter = true                    # it only ever grows: the engine differentiates it
//!
//! [values]                          # the same kind of lists
//! accepted = ["/connection/accepted"]   # also: rejected, stale, work, running, queue, loaded, uptime, version
//!
//! [pause]                           # where the API can make the program rest; METHOD PATH, and for POST a JSON body
//! pause = 'POST /json_rpc {"jsonrpc":"2.0","id":1,"method":"pause"}'
//! resume = 'POST /json_rpc {"jsonrpc":"2.0","id":1,"method":"resume"}'
//! at = "/result/status"             # it has done so only if a text in the answer begins like this
//! starts = ["OK"]
//! ```
//!
//! A place is a JSON pointer (with `*` for "sum over all", `?` for "the only one", `#` for "how many"), a series with
//! labels to match (all that match are summed), or a key. Numbers as strings are numbers. Every poll costs the payload
//! something, and two programs that poll one miner break each other (MaynardMiner/SWARM, issue 201): poll from one place and
//! fan out.
//!
//! Bounds: an answer is read up to 256 KiB and for 2 s, and what came until then is used as far as it is complete. A
//! first request to a program that never answers costs 2 s of waiting in its own task, and nothing else.

mod beats;
mod belief;
mod builtin;
mod fetch;
mod file;
mod http;
mod json;
mod mend;
mod pairs;
mod place;
mod read;
mod series;

use std::time::Duration;

pub use beats::Beats;
pub use belief::{Beat, Flag, Rules, believe};
pub use builtin::BUILTIN;
pub use fetch::{LARGEST_ANSWER, TIMEOUT, Token, fetch, tell};
pub use read::read;

use crate::reading::{Missing, Reading};
use crate::units::MilliPerSecond;
use place::Place;

/// How one kind of payload is asked and its answer read.
#[derive(Clone, Debug, PartialEq)]
pub struct Meter {
    /// What manifests call it.
    pub name: String,
    /// For people.
    pub description: String,
    /// What its rate counts.
    pub unit: Unit,
    /// What is sent.
    pub ask: Ask,
    /// What comes back.
    pub format: Format,
    /// Where the program listens if nobody says otherwise; `None` where it does not listen by itself.
    pub port: Option<u16>,
    /// How it is made to rest and to go on; `None` where it cannot be.
    pub pause: Option<Pausing>,
    guard: Option<Guard>,
    rate: Option<Rate>,
    values: Values,
}

/// What a rate counts, each a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Hashes, or whatever the algorithm's proof is made of: solutions, graphs.
    Hashes,
    /// Tokens that were generated.
    Tokens,
    /// Requests that were answered.
    Requests,
    /// Pieces of work of any kind.
    Jobs,
}

/// What is sent to a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// `GET` of this path.
    Http(String),
    /// This line.
    Tcp(String),
}

/// How a program is made to rest and to go on.
#[derive(Clone, Debug, PartialEq)]
pub struct Pausing {
    pause: Call,
    resume: Call,
    /// What it says where it has done so.
    done: Guard,
}

/// A request that changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    path: String,
    /// JSON, sent with POST; a GET where there is none.
    body: Option<String>,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON; what is broken off is read as far as it goes.
    Json,
    /// Prometheus' text exposition format.
    Prometheus,
    /// `KEY=VALUE;...|`.
    Pairs,
}

/// The answer is this API's only if the text at a place begins with one of these.
#[derive(Clone, Debug, PartialEq)]
struct Guard {
    at: Place,
    starts: Vec<String>,
}

/// Where the rate stands.
#[derive(Clone, Debug, PartialEq)]
struct Rate {
    /// Each with the factor of its unit.
    at: Vec<(Place, f64)>,
    factor_at: Vec<Place>,
    unit_at: Vec<Place>,
    counter: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Values {
    work: Vec<Place>,
    accepted: Vec<Place>,
    rejected: Vec<Place>,
    stale: Vec<Place>,
    running: Vec<Place>,
    queue: Vec<Place>,
    loaded: Vec<Place>,
    uptime: Vec<Place>,
    version: Vec<Place>,
}

/// What a payload answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The body, up to [`LARGEST_ANSWER`].
    pub bytes: Vec<u8>,
    /// Whether nothing is missing at its end, as far as the transport can tell.
    pub whole: bool,
}

/// What a payload says of itself. In every value [`Missing::NotPresent`] means that the answer has no such thing (or that
/// it is not this API's answer), [`Missing::Bus`] that it broke off before, [`Missing::Implausible`] that it is no number
/// that can be true: not finite, negative, too large, in a unit nobody knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// How fast it works, in thousandths of [`Meter::unit`]; for a counter the mean since the sample before, and
    /// [`Missing::NotPresent`] the first time and after a restart.
    pub rate: Reading<MilliPerSecond>,
    /// Work done since its start: what the rate is counted from, or a total that the API has beside it, or else the
    /// accepted results.
    pub work: Reading<u64>,
    /// Results that a pool or a client took.
    pub accepted: Reading<u64>,
    /// Results that it refused, or requests that failed.
    pub rejected: Reading<u64>,
    /// Results that came too late.
    pub stale: Reading<u64>,
    /// Requests in work.
    pub running: Reading<u64>,
    /// Requests that wait.
    pub queue: Reading<u64>,
    /// Models in memory, of a server that loads them on demand.
    pub loaded: Reading<u64>,
    /// Since its start, in seconds.
    pub uptime_s: Reading<u64>,
    /// Of the program, at most 64 characters, printable ones.
    pub version: Reading<String>,
    /// To be given to the next [`read`].
    pub counters: Counters,
}

/// What a rate is differentiated from: totals as they were, and for how long there was no newer one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counters {
    work: Option<f64>,
    uptime: Option<f64>,
    age: Duration,
}

impl Counters {
    /// As words to be kept over a restart of the agent; an absent total is all ones, which is no number.
    #[must_use]
    pub fn words(&self) -> Vec<u64> {
        let bits = |total: Option<f64>| total.map_or(u64::MAX, f64::to_bits);
        vec![bits(self.work), bits(self.uptime), u64::try_from(self.age.as_millis()).unwrap_or(u64::MAX)]
    }

    /// From such words; what cannot be is as if it had never been counted.
    #[must_use]
    pub fn from_words(words: &[u64]) -> Self {
        let &[work, uptime, age] = words else { return Self::default() };
        let total = |bits: u64| Some(f64::from_bits(bits)).filter(|total| total.is_finite() && *total >= 0.0);
        Self { work: total(work), uptime: total(uptime), age: Duration::from_millis(age) }
    }
}

// No total is ever NaN: `Document::number` lets none through.
impl Eq for Counters {}

impl Sample {
    /// A payload that could not be asked; the counters are kept, `elapsed` older.
    #[must_use]
    pub fn missing(reason: Missing, previous: Option<&Counters>, elapsed: Duration) -> Self {
        let kept = previous.copied().unwrap_or_default();
        Self {
            rate: Err(reason),
            work: Err(reason),
            accepted: Err(reason),
            rejected: Err(reason),
            stale: Err(reason),
            running: Err(reason),
            queue: Err(reason),
            loaded: Err(reason),
            uptime_s: Err(reason),
            version: Err(reason),
            counters: Counters { age: kept.age.saturating_add(elapsed), ..kept },
        }
    }
}

impl Unit {
    /// As meter files and people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hashes => "H/s",
            Self::Tokens => "tokens/s",
            Self::Requests => "requests/s",
            Self::Jobs => "jobs/s",
        }
    }
}

#[cfg(test)]
mod tests;
