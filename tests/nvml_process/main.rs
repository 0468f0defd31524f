//! The process that owns NVML, as the agent runs it: one socket as its input and output. What it loads is the simulated
//! rig's library.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod asking;
mod ending;
mod process;
mod starting;
