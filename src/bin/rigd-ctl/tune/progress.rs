//! Where a search is, on standard error: a line a point, and on a terminal what it waits for.

use std::io::{IsTerminal, Write as _};

use rigd::local::Payload;

use super::found::{Outcome, Tried, Tries, gain};

/// Tells people how far it is.
pub(super) struct Progress {
    terminal: bool,
    /// A point takes so long where all stands still, s.
    each: u64,
    most: u64,
    head: String,
}

impl Progress {
    pub(super) fn new(payload: &Payload, varied: &[String], each: u64, most: u64) -> Self {
        let this = Self { terminal: std::io::stderr().is_terminal(), each, most, head: String::new() };
        let how = match (varied.len(), payload.gpus.len()) {
            (1, 1) => "its GPU".to_owned(),
            (1, all) => format!("GPU {} alone, of {all}, by the rate of all", varied.join("")),
            (all, _) => format!("its {all} GPUs together, which share its rate"),
        };
        this.line(&format!(
            "tuning {}: {how}; up to about {} min",
            payload.info.name,
            (this.each * this.most).div_ceil(60)
        ));
        this
    }

    /// It is known how many points there are.
    pub(super) fn at_most(&mut self, most: usize) {
        self.most = u64::try_from(most).unwrap_or(self.most);
    }

    pub(super) fn begin(&mut self, points: usize, tries: Tries) {
        let done = u64::try_from(points).unwrap_or(u64::MAX);
        let left = (self.each * self.most.saturating_sub(done)).div_ceil(60);
        self.head = format!("{:>2} of at most {}, up to about {left} min left: {tries}", done + 1, self.most);
    }

    pub(super) fn waiting(&self, what: &str) {
        if self.terminal {
            // A terminal that is gone needs no progress.
            let _ = write!(std::io::stderr(), "\r{}: {what}\x1b[K", self.head);
        }
    }

    pub(super) fn came(&self, tried: &Tried, first: Option<&Tried>) {
        let came = match (&tried.came, tried.score) {
            (Outcome::Trouble(trouble), _) => trouble.words().to_owned(),
            (Outcome::Measured(_), Some(score)) => first.and_then(|first| first.score).map_or_else(
                || "measured".to_owned(),
                |first| {
                    let part = ((i128::from(score) - i128::from(first)) * 1000).checked_div(i128::from(first).abs());
                    gain(part.and_then(|part| i64::try_from(part).ok()))
                },
            ),
            (Outcome::Measured(_), None) => "measured".to_owned(),
        };
        self.line(&format!("{}: {came}", self.head));
    }

    pub(super) fn clear(&self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }

    pub(super) fn line(&self, text: &str) {
        self.clear();
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}
