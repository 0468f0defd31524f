//! The link against brokers that do what real ones do on a bad day: what rumqttc 0.25.1 does then, and what ours does.
//!
//! Each test is for one guard of ours; its comment says what was taken away to see it fail.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

mod fake;
mod rig;
mod traps;
