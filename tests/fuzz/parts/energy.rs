//! A receipt from anybody, and a state directory's files of any content: told from what was signed, and nothing is taken for more
//! than it is.

use rigd::energy::{Kept, verify};
use rigd::framed::{frame, salvage};
use rigd::wire::{ChainHash, Hex, PublicKey, Receipt};

pub(crate) fn exercise(bytes: &[u8]) {
    // As the body of one, with a signature of nobody's.
    let (signature, body) = bytes.split_at(bytes.len().min(64));
    let key = PublicKey([0x66; 32]);
    let made = Receipt {
        previous: ChainHash([0; 32]),
        body: Hex(body.to_vec()),
        hash: ChainHash([0; 32]),
        key,
        signature: Hex(signature.to_vec()),
    };
    assert!(made.check(Some(&key), 0).is_err(), "nobody signed it");
    if let Some(interval) = made.interval() {
        let again = Receipt::after(made.previous, &interval);
        assert_eq!(again.interval(), Some(interval));
        assert!(verify(&[again], None).is_err(), "it is not signed");
    }
    // As the bytes of the files.
    let read = |bytes: &[u8]| {
        let all = salvage(bytes, 1 << 16);
        let whole: usize = all.iter().map(|body| frame(body).len()).sum();
        assert!(whole <= bytes.len(), "no byte is in two records");
        for body in all {
            let _ = postcard_of(body);
        }
    };
    read(bytes);
    let whole = frame(bytes);
    read(&[&whole, bytes, &whole].concat());
    if let Some((last, before)) = whole.split_last().filter(|_| !bytes.is_empty()) {
        let damaged = [before, &[!last], &whole].concat();
        assert_eq!(salvage(&damaged, bytes.len()).last(), Some(&bytes), "what stands behind damage is found");
    }
}

fn postcard_of(body: &[u8]) -> (Option<Kept>, Option<Receipt>) {
    (Kept::parse(body), Receipt::parse(body))
}
