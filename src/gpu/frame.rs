//! Frames on a pipe: postcard, then COBS, then a zero byte, which nothing inside of a frame can be.
//!
//! After a torn frame the reader is in step again at the next zero byte, and counts it.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::wire::MAX_FRAME;

/// [`MAX_FRAME`] with what COBS adds: a byte at the start and one for each 254, rounded up.
const MAX_ENCODED: usize = MAX_FRAME + MAX_FRAME / 254 + 2;

/// One frame with its zero byte. Of a value that cannot be told, which none of ours is, nothing but the zero byte is left.
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec_cobs(value).unwrap_or_else(|_| vec![0])
}

/// The receiving end. Holds one frame at most beyond what was pushed at once.
#[derive(Debug, Default)]
pub struct Frames {
    held: Vec<u8>,
    /// The start of `held` is the middle of a frame that was too long.
    skipping: bool,
    torn: u32,
}

impl Frames {
    /// Takes what came, cut wherever it is. [`Self::next`] must be asked until it has no more before the next push.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next whole frame; `None` until more bytes come. What is no `T` or too long is left out and counted.
    #[expect(clippy::should_implement_trait, reason = "the type of the frame is the caller's choice at each call")]
    pub fn next<T: DeserializeOwned>(&mut self) -> Option<T> {
        while let Some(zero) = self.held.iter().position(|byte| *byte == 0) {
            let mut frame: Vec<u8> = self.held.drain(..=zero).collect();
            let skipped = std::mem::take(&mut self.skipping);
            if frame.len() == 1 && !skipped {
                // Two zero bytes in a row: somebody made sure that a frame starts here.
                continue;
            }
            if !skipped
                && frame.len() <= MAX_ENCODED
                && let Ok(value) = postcard::from_bytes_cobs(&mut frame)
            {
                return Some(value);
            }
            self.torn = self.torn.saturating_add(1);
        }
        if self.held.len() > MAX_ENCODED {
            self.held.clear();
            self.skipping = true;
        }
        None
    }

    /// How many frames were left out.
    #[must_use]
    pub const fn torn(&self) -> u32 {
        self.torn
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Call, Message, PciAddress, Request};
    use super::*;
    use proptest::prelude::*;

    fn call(id: u32) -> Call {
        Call { id, request: Request::Sample(PciAddress { domain: 0, bus: 1, device: 0 }) }
    }

    fn all<T: DeserializeOwned>(frames: &mut Frames) -> Vec<T> {
        std::iter::from_fn(|| frames.next()).collect()
    }

    #[test]
    fn after_a_torn_frame_the_next_one_is_whole() {
        let (first, second) = (encode(&call(1)), encode(&call(2)));
        let torn = first.get(..first.len() - 2).unwrap();
        let rows: [(&str, Vec<u8>, Vec<Call>, u32); 6] = [
            ("whole", [first.clone(), second.clone()].concat(), vec![call(1), call(2)], 0),
            ("no end", torn.to_vec(), vec![], 0),
            ("garbage, then a frame", [&b"hello\0"[..], &second].concat(), vec![call(2)], 1),
            ("no end, then a zero", [torn, &[0], &second].concat(), vec![call(2)], 1),
            ("zeros between", [&[0, 0][..], &first, &[0], &second].concat(), vec![call(1), call(2)], 0),
            ("longer than any", [vec![7; 3 * MAX_ENCODED], vec![0], second.clone()].concat(), vec![call(2)], 1),
        ];
        for (name, bytes, expected, torn) in rows {
            let mut frames = Frames::default();
            frames.push(&bytes);
            assert_eq!(all::<Call>(&mut frames), expected, "{name}");
            assert_eq!(frames.torn(), torn, "{name}");
        }
    }

    #[test]
    fn what_never_ends_is_not_kept() {
        let mut frames = Frames::default();
        for _ in 0..1_000 {
            frames.push(&[1; 1024]);
            assert_eq!(frames.next::<Call>(), None);
            assert!(frames.held.len() <= MAX_ENCODED);
        }
        frames.push(&[0]);
        frames.push(&encode(&call(3)));
        assert_eq!(all::<Call>(&mut frames), [call(3)]);
        assert_eq!(frames.torn(), 1, "one frame, however long");
    }

    #[test]
    fn the_longest_frame_goes_through() {
        let text = "x".repeat(MAX_FRAME - 3);
        let mut frames = Frames::default();
        frames.push(&encode(&text));
        assert_eq!(frames.next::<String>(), Some(text));
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_cut_makes_no_difference(
            ids in proptest::collection::vec(any::<u32>(), 0..20), cuts in proptest::collection::vec(1_usize..40, 1..50)
        ) {
            let bytes: Vec<u8> = ids.iter().flat_map(|id| encode(&call(*id))).collect();
            let (mut frames, mut found, mut rest) = (Frames::default(), Vec::new(), bytes.as_slice());
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                frames.push(now);
                found.extend(all::<Call>(&mut frames));
                rest = later;
            }
            prop_assert_eq!(found, ids.into_iter().map(call).collect::<Vec<_>>());
            prop_assert_eq!(frames.torn(), 0);
        }

        #[test]
        fn no_bytes_panic_and_none_hide_the_next_frame(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let mut frames = Frames::default();
            for part in bytes.chunks(7) {
                frames.push(part);
                drop(all::<Message>(&mut frames));
            }
            frames.push(&[0]);
            drop(all::<Message>(&mut frames));
            frames.push(&encode(&call(9)));
            prop_assert_eq!(all::<Call>(&mut frames), [call(9)]);
        }
    }
}
