//! A payload's log, told as it grows to whoever asked for it, and for no longer than was asked.
//!
//! ```text
//! log ring ── each 500 ms, the newest 4 KiB at most ──> channel of 4 ──> publisher ── QoS 0 ──> r1/{rig}/up/log
//! ```
//!
//! So 8 KiB a second at most, whatever the payload says. Nothing of it is kept or comes again: what is more than that, and what
//! the link has no room for, is passed over, and each piece says how many bytes that was since the beginning. One log is
//! followed at a time: the next order to follow one ends this one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::{Actor, Done, Failure};
use crate::payload::LogPart as Part;
use crate::payload::supervisor::What;
use crate::wire::{LogLines, Outcome};

/// Between two looks at the log.
const EVERY: Duration = Duration::from_millis(500);
/// Most that one look brings, bytes.
const PIECE: usize = 4 * 1024;
/// Pieces that wait for the link; one more is passed over.
const WAITING: usize = 4;

/// The way of followed logs to the link.
#[derive(Clone)]
pub struct Follow {
    lines: mpsc::Sender<LogLines>,
    /// Counts the orders to follow: who sees that it has moved ends.
    turn: Arc<watch::Sender<u64>>,
}

impl Follow {
    /// It, and what comes out of it.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<LogLines>) {
        let (lines, out) = mpsc::channel(WAITING);
        (Self { lines, turn: Arc::new(watch::channel(0).0) }, out)
    }
}

/// How far a log was told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    next: Option<u64>,
    skipped: u64,
}

impl Told {
    /// Takes a piece that was read; what is to be said of it, if anything.
    fn take(&mut self, payload: &str, part: Part) -> Option<LogLines> {
        let Part { from, next, text } = part;
        if text.is_empty() {
            return None;
        }
        // From the beginning on, what was there before is no loss.
        self.skipped = self.skipped.saturating_add(from.saturating_sub(self.next.unwrap_or(from)));
        self.next = Some(next);
        Some(LogLines { payload: payload.to_owned(), text, from, skipped: self.skipped })
    }

    /// Nobody took it.
    fn lost(&mut self, from: u64) {
        self.skipped = self.skipped.saturating_add(self.next.unwrap_or(from).saturating_sub(from));
    }
}

impl Actor {
    /// Tells what a payload says for so many seconds, or until another such order.
    pub(super) async fn follow(&self, payload: &str, seconds: u16) -> Done {
        self.follow.turn.send_modify(|turn| *turn = turn.wrapping_add(1));
        if seconds == 0 {
            return Ok(Outcome::Nothing);
        }
        let mut turn = self.follow.turn.subscribe();
        let mut told = Told::default();
        let telling = async {
            loop {
                let part = self.piece(payload, told.next).await?;
                if let Some(lines) = told.take(payload, part) {
                    let from = lines.from;
                    if self.follow.lines.try_send(lines).is_err() {
                        told.lost(from);
                    }
                }
                tokio::select! {
                    () = sleep(EVERY) => {}
                    _ = turn.changed() => return Ok::<_, Failure>("another order ended it"),
                }
            }
        };
        // The end of the time is the end that was ordered.
        let ended = timeout(Duration::from_secs(seconds.into()), telling).await.unwrap_or(Ok("its time is over"))?;
        Ok(Outcome::Text(format!("{ended}; {} bytes were passed over", told.skipped)))
    }

    /// What is new since then, or the newest of it where that is too much.
    async fn piece(&self, payload: &str, since: Option<u64>) -> Result<Part, Failure> {
        let newest = self.ask(payload, |reply| What::Log(None, PIECE, reply)).await?;
        match since {
            Some(since) if newest.next <= since => Ok(Part::default()),
            Some(since) if newest.from <= since => {
                self.ask(payload, |reply| What::Log(Some(since), PIECE, reply)).await
            }
            Some(_) | None => Ok(newest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(from: u64, next: u64) -> Part {
        Part { from, next, text: "x".repeat(usize::try_from(next - from).unwrap()) }
    }

    #[test]
    fn what_was_passed_over_is_counted_from_the_beginning_on() {
        let mut told = Told::default();
        for (name, piece, expected) in [
            ("nothing yet", part(0, 0), None),
            ("the end of what was there", part(5_000, 5_100), Some(0)),
            ("what follows", part(5_100, 5_200), Some(0)),
            ("nothing new", part(5_200, 5_200), None),
            ("more than may go out", part(9_200, 9_300), Some(4_000)),
            ("what follows that", part(9_300, 9_301), Some(4_000)),
        ] {
            let lines = told.take("llm", piece);
            assert_eq!(lines.map(|lines| lines.skipped), expected, "{name}");
        }
        told.lost(9_300);
        assert_eq!(told, Told { next: Some(9_301), skipped: 4_001 }, "nobody took the last one");
    }
}
