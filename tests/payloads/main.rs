//! Payloads as real processes: started, killed, jailed, left alone by an agent that dies.
//!
//! Cgroups and other users need root; what is left out without it is said.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it leaves out"
)]

mod agent;
mod calls;
mod faults;
mod held;
mod jail;
mod life;
mod links;
mod loud;
mod metered;
mod nodes;
mod reload;
mod rig;
mod unit;
