//! `cargo xtask guest`: a real kernel as referee. The scripts in tests/guest do the work; here are the binaries for them.

use anyhow::Result;

use crate::args::{self, Args};
use crate::checkout::{Arch, Checkout, Program};
use crate::need::{Need, Needs};
use crate::process;

const HELP: &str = "\
cargo xtask guest: boot a stock Debian kernel in QEMU and let the shipped static binaries read its chips

usage: cargo xtask guest [x86|chips|arm|vhost|payloads|systemd|all]

  x86     chips as registers in the kernel's i2c-stub, compared with the kernel's own drivers for them
  chips   the same, with every other chip that the kernel has a driver for
  arm     chips emulated by QEMU on an i2c controller of an Arm board
  vhost   the simulated rig's chips on a raw I2C adapter; the kernel's own drivers judge them, then rigd reads and drives them
  payloads  limits of payloads under cgroup v2 alone: memory, processes, processor, and what is left of an end
  systemd  the shipped units under a real systemd: payloads of another user, their GPUs' device files, the agent killed and restarted
  all     all of them (the default)

Fetches QEMU and the kernel the first time (tests/guest/setup.sh), which takes root where a package is missing. No KVM needed.
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ring {
    X86,
    Chips,
    Arm,
    Vhost,
    Payloads,
    Systemd,
    All,
}

impl Ring {
    fn name(self) -> &'static str {
        match self {
            Self::X86 => "x86",
            Self::Chips => "chips",
            Self::Arm => "arm",
            Self::Vhost => "vhost",
            Self::Payloads => "payloads",
            Self::Systemd => "systemd",
            Self::All => "all",
        }
    }

    /// The architectures of the guests, with the name that the scripts have for the binary.
    fn guests(self) -> &'static [(Arch, &'static str)] {
        const GUESTS: [(Arch, &str); 2] = [(Arch::X86_64, "RIGD_X86"), (Arch::Aarch64, "RIGD_ARM")];
        match self {
            Self::X86 | Self::Chips | Self::Vhost | Self::Payloads | Self::Systemd => GUESTS.get(..1),
            Self::Arm => GUESTS.get(1..),
            Self::All => Some(&GUESTS[..]),
        }
        .unwrap_or_default()
    }
}

pub(crate) fn command(mut args: Args) -> Result<()> {
    let mut ring = Ring::All;
    while let Some(arg) = args.next() {
        ring = match arg.as_str() {
            "x86" => Ring::X86,
            "chips" => Ring::Chips,
            "arm" => Ring::Arm,
            "vhost" => Ring::Vhost,
            "payloads" => Ring::Payloads,
            "systemd" => Ring::Systemd,
            "all" => Ring::All,
            "--help" | "-h" => return args::help(HELP),
            other => return Err(args::unknown("guest", other)),
        };
    }
    let checkout = Checkout::here()?;
    let needs = Needs::new(&checkout, false);
    [Need::StaticTargets, Need::Guest].into_iter().try_for_each(|need| needs.meet(need))?;
    run(&checkout, ring)
}

/// Builds the binaries as they are shipped and gives them to the guests.
pub(crate) fn run(checkout: &Checkout, ring: Ring) -> Result<()> {
    let mut command = checkout.command("tests/guest/run.sh");
    command.arg(ring.name());
    let arches: Vec<Arch> = ring.guests().iter().map(|(arch, _)| *arch).collect();
    let built = checkout.build_shipped(Program::Rigd, &arches)?;
    for ((_, variable), (_, rigd)) in ring.guests().iter().zip(built) {
        command.env(variable, rigd);
    }
    if matches!(ring, Ring::Vhost | Ring::All) {
        // Of the simulated rig nothing is shipped, and these run on this machine or with its libraries.
        let fixed = ["build", "--quiet", "--locked", "--package", "rigd-sim", "--features", "vhost,traps"];
        process::run(checkout.cargo(&fixed).args(["--bin", "vhost-i2c", "--bin", "bus-traps"]))?;
        for (program, variable) in [("vhost-i2c", "RIGD_VHOST_I2C"), ("bus-traps", "RIGD_BUS_TRAPS")] {
            command.env(variable, checkout.target().join("debug").join(program));
        }
    }
    process::run(&mut command)
}
