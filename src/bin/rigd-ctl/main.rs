//! The operator's tool: everything around the agent that a person does. A file of its own, so that the agent stays small.

mod agent;
mod audit;
mod boards;
mod broker;
mod calibrate;
mod check;
mod collect;
mod decode;
mod desired;
mod energy;
mod enroll;
mod events;
mod gpu;
mod identity;
mod kernel;
mod keygen;
mod payload;
mod people;
mod plan;
mod plot;
mod power;
mod probe;
mod read;
#[cfg(test)]
#[path = "../../scratch.rs"]
mod scratch;
mod send;
mod session;
mod simulate;
mod trust;
mod tune;
mod watch;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use rigd::local::PayloadOrder;

/// Look after rigs: check their files, watch them, read their messages.
#[derive(Parser)]
#[command(
    name = "rigd-ctl",
    version,
    propagate_version = true,
    after_help = "Start here:\n  rigd-ctl probe                         what is connected to this machine?\n  rigd-ctl boards                        which boards and parts are known\n  rigd-ctl check                         is this rig's configuration right?\n  rigd-ctl watch                         what are the rigs doing?\n  rigd-ctl plot                          what did this rig do in the last hour?\n  rigd-ctl gpu list                      what do its GPUs do now?\n  rigd-ctl tune PAYLOAD                  with which power limit and clock does it do most for a joule?\n\nExit code: 0 done, 1 not, 2 a wrong command line; where a verb has more of them, its --help says so."
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Check the configuration and the board file, and show what they mean on this machine
    Check(check::Arguments),
    /// Find out what is connected, and print a board file to start from
    Probe(probe::Arguments),
    /// Read a chip once: its registers, and what they mean
    Read(read::Arguments),
    /// Read or write what the board's EEPROM says of the board
    Identity(identity::Arguments),
    /// Watch rigs live over MQTT: a table on a terminal, plain lines elsewhere
    Watch(watch::Arguments),
    /// Collect what all rigs say into a store, and tell them what it has
    Collect(collect::Arguments),
    /// Prove that a collector's store has every message, or name what is missing
    Complete(collect::Complete),
    /// Show alarms raised and cleared: the last ones from a store, the next ones live
    Events(events::Arguments),
    /// Plot the last hour of this rig: temperatures, fan drives, watts
    Plot(plot::Arguments),
    /// Measure the fans of a zone: speed by drive, where they start and where they stall
    Calibrate(calibrate::Arguments),
    /// Show the GPUs, or test their driver
    Gpu(gpu::Arguments),
    /// Show what holds this rig's power back: caps, limits of supplies, heat
    Power(power::Arguments),
    /// List the payloads of this rig
    Ps(payload::Ps),
    /// Show which payload is to have which GPU of this rig, why, and what would change it
    Plan(plan::Arguments),
    /// Start a payload
    Start(payload::One),
    /// Stop a payload: its stop signal, its grace, then all of it is killed
    Stop(payload::One),
    /// Stop a payload and start it again
    Restart(payload::One),
    /// Let a payload finish what it has begun, and stop it
    Drain(payload::Drain),
    /// Lift a payload's quarantine and forget its restarts
    Clear(payload::One),
    /// Read the payloads' manifests again: changed ones are restarted, those without a file are drained
    Reload(payload::Reload),
    /// Show what a payload said
    Logs(payload::Logs),
    /// Sign an order, send it to a rig or a group, and wait for what comes of it
    Send(Box<send::Arguments>),
    /// What a rig shall be: show it, set it, or show how the rig differs from it
    #[command(subcommand)]
    Desired(desired::Verb),
    /// Try a policy over prices that were: what a rig would have earned, and with which payloads
    Simulate(simulate::Arguments),
    /// Find the power limit and the clocks at which a payload does most for its energy, on this rig
    Tune(Box<tune::Arguments>),
    /// Make a key that may give orders
    Keygen(keygen::Arguments),
    /// Make keys and certificates for TLS: of a rig, the broker, the control plane
    Enroll(enroll::Arguments),
    /// What a rig has used and what came of it; its signed receipts
    #[command(subcommand)]
    Energy(energy::Verb),
    /// Read a rig's log of who did what, or check that nobody changed it
    #[command(subcommand)]
    Audit(audit::Verb),
    /// Decode a message of a rig into JSON
    Decode(decode::Arguments),
    /// List the built-in boards, or print one to start from
    Boards(boards::Arguments),
    /// Print completions for a shell
    #[command(after_help = "Example:\n  rigd-ctl completions bash > /etc/bash_completion.d/rigd-ctl")]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

fn main() -> ExitCode {
    let done = |()| ExitCode::SUCCESS;
    let outcome = match Arguments::parse().verb {
        Verb::Send(arguments) => send::run(*arguments),
        Verb::Desired(verb) => desired::run(verb),
        Verb::Audit(verb) => audit::run(&verb),
        Verb::Energy(verb) => energy::run(&verb),
        Verb::Enroll(arguments) => enroll::run(&arguments).map(done),
        Verb::Keygen(arguments) => keygen::run(&arguments).map(done),
        Verb::Tune(arguments) => tune::run(&arguments).map(done),
        Verb::Simulate(arguments) => simulate::run(&arguments).map(done),
        Verb::Check(arguments) => check::run(&arguments).map(done),
        Verb::Probe(arguments) => probe::run(&arguments).map(done),
        Verb::Read(arguments) => read::run(&arguments).map(done),
        Verb::Identity(arguments) => identity::run(&arguments).map(done),
        Verb::Watch(arguments) => watch::run(arguments).map(done),
        Verb::Plot(arguments) => plot::run(&arguments).map(done),
        Verb::Calibrate(arguments) => calibrate::run(&arguments).map(done),
        Verb::Gpu(arguments) => gpu::run(&arguments).map(done),
        Verb::Plan(arguments) => plan::run(&arguments).map(done),
        Verb::Power(arguments) => power::run(&arguments).map(done),
        Verb::Ps(arguments) => payload::ps(&arguments).map(done),
        Verb::Start(one) => payload::order(&one, PayloadOrder::Start).map(done),
        Verb::Stop(one) => payload::order(&one, PayloadOrder::Stop).map(done),
        Verb::Restart(one) => payload::order(&one, PayloadOrder::Restart).map(done),
        Verb::Drain(arguments) => payload::drain(&arguments).map(done),
        Verb::Clear(one) => payload::order(&one, PayloadOrder::Clear).map(done),
        Verb::Reload(arguments) => payload::reload(&arguments).map(done),
        Verb::Logs(arguments) => payload::logs(&arguments).map(done),
        Verb::Decode(arguments) => decode::run(&arguments),
        Verb::Boards(arguments) => boards::run(&arguments).map(done),
        Verb::Completions { shell } => completions(shell).map(done),
        Verb::Collect(arguments) => collect::run(&arguments).map(done),
        Verb::Complete(arguments) => collect::complete(&arguments).map(done),
        Verb::Events(arguments) => events::run(&arguments).map(done),
    };
    match outcome {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // With stderr gone too there is nobody left to tell.
            let _ = writeln!(std::io::stderr(), "rigd-ctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `rigd-ctl watch | head` ends when head has seen enough.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Everything that is printed goes through here, so that a full disk is an error and not a panic.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("could not write to standard output")
}

/// From the kernel, which may be waited for at its start; at most 256 bytes, which come at once (getrandom(2)).
fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).context("no random number")?;
    Ok(bytes)
}

fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "rigd-ctl", &mut script);
    print(&String::from_utf8_lossy(&script))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
