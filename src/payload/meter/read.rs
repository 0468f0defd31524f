//! The engine: an answer and a meter give a sample. Pure: the time that passed comes in, and the counters go out.

use std::time::Duration;

use super::place::{Document, Place};
use super::{Answer, Counters, Guard, Meter, Rate, Sample, Unit, Values};
use crate::reading::{Missing, Reading};
use crate::units::MilliPerSecond;

/// A rate over less than this says more of the clock than of the work.
const SHORTEST: Duration = Duration::from_millis(100);
/// A longer version is no version.
const LONGEST_VERSION: usize = 64;

/// Reads an answer. `previous` are the counters of the sample before, `elapsed` the time since that one was fetched; a
/// restart of the payload between them shows as no rate for one sample, never as a jump.
#[must_use]
pub fn read(meter: &Meter, answer: &Answer, previous: Option<&Counters>, elapsed: Duration) -> Sample {
    let document = Document::parse(meter.format, answer);
    if let Some(Guard { at, starts }) = &meter.guard {
        let reason = match document.text(at) {
            Ok(text) if starts.iter().any(|start| text.starts_with(start.as_str())) => None,
            Ok(_) => Some(Missing::NotPresent),
            Err(reason) => Some(reason),
        };
        if let Some(reason) = reason {
            return Sample::missing(reason, previous, elapsed);
        }
    }
    let Values { work, accepted, rejected, stale, running, queue, loaded, uptime, version } = &meter.values;
    let count = |places: &[Place]| first(&document, places).and_then(whole);
    let told = match &meter.rate {
        Some(rate) => scaled(&document, rate, meter.unit),
        None => Err(Missing::NotPresent),
    };
    let uptime = first(&document, uptime);
    let (rate, total, counters) = if meter.rate.as_ref().is_some_and(|rate| rate.counter) {
        let (rate, counters) = differentiate(told, uptime.ok(), previous.copied().unwrap_or_default(), elapsed);
        (rate, told.and_then(whole), counters)
    } else {
        (told, count(work), Counters::default())
    };
    let accepted = count(accepted);
    Sample {
        rate: rate.and_then(milli),
        work: if total == Err(Missing::NotPresent) { accepted } else { total },
        accepted,
        rejected: count(rejected),
        stale: count(stale),
        running: count(running),
        queue: count(queue),
        loaded: count(loaded),
        uptime_s: uptime.and_then(whole),
        version: first_of(version, |place| document.text(place)).and_then(short),
        counters,
    }
}

/// The first place that is there.
fn first(document: &Document<'_>, places: &[Place]) -> Reading<f64> {
    first_of(places, |place| document.number(place))
}

/// The first of the places where something is there. A reason that is not absence is an answer: what broke off at the
/// new place is not looked for at the old one.
fn first_of<P, T>(places: &[P], look: impl Fn(&P) -> Reading<T>) -> Reading<T> {
    for place in places {
        match look(place) {
            Err(Missing::NotPresent) => {}
            found => return found,
        }
    }
    Err(Missing::NotPresent)
}

/// The rate's number in its own unit.
fn scaled(document: &Document<'_>, rate: &Rate, unit: Unit) -> Reading<f64> {
    let number = first_of(&rate.at, |(place, factor)| Ok(document.number(place)? * factor))?;
    if rate.factor_at.is_empty() && rate.unit_at.is_empty() {
        return number_of_work(number);
    }
    let factor = match first(document, &rate.factor_at) {
        Err(Missing::NotPresent) => {
            let name = first_of(&rate.unit_at, |place| document.text(place))?;
            unit.factor(&name).ok_or(Missing::Implausible)?
        }
        told => told?,
    };
    number_of_work(number * factor)
}

/// Nobody undoes work: below zero is no rate and no total, and nothing may be counted from it.
fn number_of_work(number: f64) -> Reading<f64> {
    if number >= 0.0 { Ok(number) } else { Err(Missing::Implausible) }
}

/// The growth since the counters were taken, a second; and the counters for the next time.
fn differentiate(
    now: Reading<f64>,
    uptime: Option<f64>,
    before: Counters,
    elapsed: Duration,
) -> (Reading<f64>, Counters) {
    let age = before.age.saturating_add(elapsed);
    let kept = Counters { age, ..before };
    let now = match now {
        Ok(now) => now,
        Err(reason) => return (Err(reason), kept),
    };
    let fresh = Counters { work: Some(now), uptime, age: Duration::ZERO };
    let Some(work) = before.work else { return (Err(Missing::NotPresent), fresh) };
    let restarted = now < work || before.uptime.zip(uptime).is_some_and(|(before, now)| now < before);
    if restarted {
        return (Err(Missing::NotPresent), fresh);
    }
    if age < SHORTEST {
        return (Err(Missing::NotPresent), kept);
    }
    (Ok((now - work) / age.as_secs_f64()), fresh)
}

/// A rate as what leaves this module.
fn milli(rate: f64) -> Reading<MilliPerSecond> {
    whole(rate * 1_000.0).map(MilliPerSecond)
}

/// The nearest whole number.
fn whole(number: f64) -> Reading<u64> {
    // The first number above the type's range; as a bound it excludes NaN and infinity too.
    const TOO_LARGE: f64 = 18_446_744_073_709_551_616.0;
    if !(0.0..TOO_LARGE).contains(&number) {
        return Err(Missing::Implausible);
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "inside the range, looked at above")]
    Ok(number.round() as u64)
}

fn short(version: String) -> Reading<String> {
    let fits = !version.is_empty() && version.chars().count() <= LONGEST_VERSION;
    if fits && !version.chars().any(char::is_control) { Ok(version) } else { Err(Missing::Implausible) }
}

impl Unit {
    /// How many of this unit one of the text's is: 10^6 for `Mh/s`. Solutions and graphs are what their algorithms count
    /// instead of hashes. `None` for a unit nobody knows: guessing would be a thousandfold mistake.
    pub(super) fn factor(self, text: &str) -> Option<f64> {
        let text = text.trim().to_ascii_lowercase();
        let names: &[&str] = match self {
            Self::Hashes => &["sol/s", "h/s", "g/s", "sols", "hs"],
            Self::Tokens => &["tokens/s", "tok/s", "t/s"],
            Self::Requests => &["requests/s", "req/s", "r/s"],
            Self::Jobs => &["jobs/s", "j/s"],
        };
        match names.iter().find_map(|name| text.strip_suffix(name))?.trim_end() {
            "" => Some(1.0),
            "k" => Some(1e3),
            "m" => Some(1e6),
            "g" => Some(1e9),
            "t" => Some(1e12),
            "p" => Some(1e15),
            _ => None,
        }
    }
}
