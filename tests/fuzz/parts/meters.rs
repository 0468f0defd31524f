//! Any answer to any meter: a sample, and the same one from the same bytes.

use std::sync::OnceLock;
use std::time::Duration;

use rigd::payload::meter::{Answer, BUILTIN, Meter, read};

pub(crate) fn exercise(bytes: &[u8]) {
    static METERS: OnceLock<Vec<Meter>> = OnceLock::new();
    let meters = METERS.get_or_init(|| BUILTIN.iter().filter_map(|(name, _)| Meter::load(name).ok()).collect());
    assert_eq!(meters.len(), BUILTIN.len());
    for meter in meters {
        for whole in [true, false] {
            let answer = Answer { bytes: bytes.to_vec(), whole };
            let first = read(meter, &answer, None, Duration::ZERO);
            let again = read(meter, &answer, Some(&first.counters), Duration::from_secs(1));
            assert_eq!((first.work, first.accepted), (again.work, again.accepted), "{}", meter.name);
        }
    }
}

/// A meter file with anything in it: a meter or its problems.
pub(crate) fn take(text: &str) {
    if let Err(problems) = Meter::parse("m.toml", text) {
        assert!(!problems.0.is_empty());
    }
}
