//! `cargo xtask fuzz meters`.

#![no_main]

#[path = "../parts/meters.rs"]
mod meters;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    meters::exercise(bytes);
    meters::take(&String::from_utf8_lossy(bytes));
});
