//! `cargo xtask fuzz energy`.

#![no_main]

#[path = "../parts/energy.rs"]
mod energy;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| energy::exercise(bytes));
