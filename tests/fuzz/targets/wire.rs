//! `cargo xtask fuzz wire`.

#![no_main]

#[path = "../parts/wire.rs"]
mod wire;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wire::exercise(bytes));
