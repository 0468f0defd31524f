//! What is passed on, in whole lines: what is lost is told, and no half of a line looks like a whole one, since half a secret is not
//! known for one. System calls only, as all of the keeper.
//!
//! ```text
//! passed on        lost            passed on
//! one⏎two⏎thr │ ee⏎four⏎fi │ ve⏎ │ six⏎
//!             └ [rigd: part of a line]⏎[rigd: 14 bytes dropped]⏎
//! ```
//!
//! The rest of a line whose beginning was lost goes the same way. A beginning whose rest was lost stands where it is already, and ends
//! in a mark; whoever reads shows the mark and not what is before it.

use super::super::{MARK, is_end};
use super::length;

/// Where it is passed on to; gives how many bytes could not be.
type To<'a> = &'a mut dyn FnMut(&[u8]) -> u64;

/// What was passed on and what was lost.
#[derive(Default)]
pub(super) struct Lines {
    /// Bytes that nobody was told of yet.
    lost: u64,
    /// The beginning of this line was lost.
    skips: bool,
    /// The last byte that was passed on ends no line.
    open: bool,
}

impl Lines {
    /// Passes on, behind a note where something is missing before it. What cannot be is lost.
    pub(super) fn pass(&mut self, bytes: &[u8], to: To<'_>) {
        let end = if self.skips { bytes.iter().position(is_end).map_or(bytes.len(), |at| at + 1) } else { 0 };
        let (rest, bytes) = bytes.split_at_checked(end).unwrap_or((bytes, &[]));
        self.lose(rest);
        if bytes.is_empty() {
            return;
        }
        let left = if self.tell(to) { self.put(bytes, to) } else { bytes };
        self.lose(left);
    }

    /// What is not passed on.
    pub(super) fn lose(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last() {
            self.lost = self.lost.saturating_add(length(bytes));
            self.skips = !is_end(last);
        }
    }

    /// Whether there is something to tell.
    pub(super) const fn has_lost(&self) -> bool {
        self.lost > 0
    }

    /// Tells what was lost; whether all of that is told.
    pub(super) fn tell(&mut self, to: To<'_>) -> bool {
        let told = self.lost == 0 || self.put(Note::new(self.lost, self.open).text(), to).is_empty();
        if told {
            self.lost = 0;
        }
        told
    }

    /// Gives what could not be passed on.
    fn put<'a>(&mut self, bytes: &'a [u8], to: To<'_>) -> &'a [u8] {
        let left = usize::try_from(to(bytes)).unwrap_or(usize::MAX);
        let (done, left) = bytes.split_at_checked(bytes.len().saturating_sub(left)).unwrap_or((bytes, &[]));
        if let Some(last) = done.last() {
            self.open = !is_end(last);
        }
        left
    }
}

/// A line that says how much is missing.
struct Note {
    text: [u8; Self::MOST],
    length: usize,
}

impl Note {
    const PART: &[u8] = b"part of a line]\n";
    const AFTER: &[u8] = b" bytes dropped]\n";
    /// The largest number has twenty digits. A pipe takes as little whole or not at all (pipe(7), `PIPE_BUF`).
    const MOST: usize = MARK.len() + Self::PART.len() + MARK.len() + 20 + Self::AFTER.len();

    /// `open` where it comes behind half a line.
    fn new(dropped: u64, open: bool) -> Self {
        let mut digits = [b'0'; 20];
        let (mut rest, mut first) = (dropped, digits.len());
        for (i, digit) in digits.iter_mut().enumerate().rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
            first = i;
            if rest == 0 {
                break;
            }
        }
        let (mark, nothing) = (MARK.as_bytes(), [].as_slice());
        let half = if open { [mark, Self::PART] } else { [nothing; 2] };
        let parts = [mark, digits.get(first..).unwrap_or_default(), Self::AFTER];
        let mut note = Self { text: [0; Self::MOST], length: 0 };
        for (slot, byte) in note.text.iter_mut().zip(half.into_iter().chain(parts).flatten()) {
            *slot = *byte;
            note.length += 1;
        }
        note
    }

    fn text(&self) -> &[u8] {
        self.text.get(..self.length).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_tells_how_much() {
        for (dropped, open, expected) in [
            (7, false, "[rigd: 7 bytes dropped]\n"),
            (1_234_567, false, "[rigd: 1234567 bytes dropped]\n"),
            (u64::MAX, true, "[rigd: part of a line]\n[rigd: 18446744073709551615 bytes dropped]\n"),
        ] {
            assert_eq!(std::str::from_utf8(Note::new(dropped, open).text()), Ok(expected));
        }
        assert_eq!(Note::new(u64::MAX, true).length, Note::MOST);
    }

    #[test]
    fn no_half_of_a_line_looks_like_a_whole_one() {
        const ALL: u64 = u64::MAX;
        // What is said, with how many bytes there is room for; and what is to stand there.
        for (said, expected) in [
            ([("one\n", ALL), ("two\n", ALL), ("three\n", ALL)], "one\ntwo\nthree\n"),
            // Between two lines.
            ([("one\n", ALL), ("two\n", 0), ("three\n", ALL)], "one\n[rigd: 4 bytes dropped]\nthree\n"),
            // The beginning of a line is lost: so is the rest of it.
            ([("one\n", ALL), ("two\nth", 0), ("ree\nfour\n", ALL)], "one\n[rigd: 10 bytes dropped]\nfour\n"),
            ([("one\n", ALL), ("two", 0), ("th\rree\n", ALL)], "one\n[rigd: 6 bytes dropped]\nree\n"),
            // Not over before the line is.
            ([("tw", 0), ("o, and", ALL), (" more\n", ALL)], "[rigd: 14 bytes dropped]\n"),
            // The rest of a line is lost: the beginning of it is marked.
            (
                [("one\ntw", ALL), ("o\n", 0), ("three\n", ALL)],
                "one\ntw[rigd: part of a line]\n[rigd: 2 bytes dropped]\nthree\n",
            ),
            // Both, in one piece.
            (
                [("one\ntwo\n", 6), ("thr", 0), ("ee\nfour\n", ALL)],
                "one\ntw[rigd: part of a line]\n[rigd: 8 bytes dropped]\nfour\n",
            ),
            // A prompt that waits for more.
            ([("pass", ALL), ("word: ", ALL), ("ok\n", ALL)], "password: ok\n"),
            // Where there is no room for the note there is none for what comes behind it.
            (
                [("one", ALL), ("two\n", 0), ("three\n", 7)],
                "one[rigd: [rigd: part of a line]\n[rigd: 10 bytes dropped]\n",
            ),
        ] {
            let (mut lines, mut passed) = (Lines::default(), Vec::new());
            for (text, mut room) in said {
                lines.pass(text.as_bytes(), &mut |bytes| {
                    let fits = usize::try_from(room).unwrap().min(bytes.len());
                    passed.extend_from_slice(&bytes[..fits]);
                    room -= u64::try_from(fits).unwrap();
                    length(&bytes[fits..])
                });
            }
            let told = lines.tell(&mut |bytes| {
                passed.extend_from_slice(bytes);
                0
            });
            assert!(told && !lines.has_lost());
            assert_eq!(String::from_utf8(passed).as_deref(), Ok(expected), "{said:?}");
        }
    }
}
