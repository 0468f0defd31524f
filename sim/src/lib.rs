//! A simulated rig: one world of heat, watts and air behind chips at register level. Never shipped.
//!
//! ```text
//! agent ── Unix socket per bus ── server ── rig ──┬── chip models: registers, watchdog
//!       ── fake NVML library ─── driver of the cards
//!          control socket ────── control ────────┤
//!                                                └── world: load, heat, air, rails, supply
//! ```
//!
//! Everything here is simulated, and says so. The agent under test talks to it over the same protocol as to any other
//! bus and cannot reach past the registers; a test reaches past them through [`Sim`]. The modules in reading order:
//!
//! - [`world`]: what is true of the rig, stepped with a fixed time.
//! - [`chip`]: what the chips make of it, register by register.
//! - [`fault`]: what can be broken.
//! - [`nvml`]: what the cards' driver makes of them, call by call.
//! - `rig`: world, chips and faults put together for a board.
//! - `control`: the text that sets, breaks and asks.
//! - `server`, [`sim`]: sockets and threads around it.

pub mod chip;
mod control;
pub mod fault;
pub mod nvml;
mod quantize;
pub mod random;
mod rig;
mod server;
pub mod sim;
mod wire;
pub mod world;

pub use fault::{Fault, Kind};
pub use sim::{Options, Sim};
pub use wire::{Operation, Outcome, Request};
