//! End to end, named after what breaks: the real agent, a simulated rig behind its sockets, a real mosquitto.
//!
//! Nothing sleeps: every wait is for a condition, with a limit that is far beyond what it takes.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

mod agent;
mod arbiter;
mod audit;
mod broker;
mod broker_breaks;
mod broker_order;
mod broker_tls;
mod bus_breaks;
mod calibrate;
mod certificates;
mod chaos;
mod collect;
mod commands;
mod configuration_breaks;
mod desired;
mod desired_tool;
mod ends;
mod energy;
mod enroll;
mod follow;
mod gpu_breaks;
mod gpu_hangs;
mod gpu_kinds;
mod gpu_matrix;
mod gpu_operator;
mod heat;
mod house;
mod killed;
mod learnt;
mod payload_agents;
mod payload_faults;
mod payload_operator;
mod payloads;
mod player;
mod plot;
mod power;
mod probe;
mod python;
mod real_ai;
mod real_container;
mod referee;
mod subscriber;
mod trust_lost;
mod truth;
mod tune;
