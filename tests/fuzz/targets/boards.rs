//! `cargo xtask fuzz boards`.

#![no_main]

#[path = "../parts/boards.rs"]
mod boards;
#[path = "../parts/tape.rs"]
mod tape;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| boards::exercise(bytes));
