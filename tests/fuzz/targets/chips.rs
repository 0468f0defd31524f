//! `cargo xtask fuzz chips`.

#![no_main]

#[path = "../parts/chips.rs"]
mod chips;
#[path = "../parts/tape.rs"]
mod tape;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chips::exercise(bytes));
