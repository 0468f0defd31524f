//! The fake library through the real nvml-wrapper: as much as the agent's helper does with it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::exit,
    clippy::print_stdout,
    reason = "a test fails by panicking, and some of these are a process of their own"
)]

mod capabilities;
mod faults;
mod honesty;
mod rig;
mod settings;
