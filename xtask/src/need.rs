//! What a step needs and a fresh machine lacks: found, or installed aloud, or the reason why not.

use std::cell::Cell;
use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::checkout::{Arch, Checkout};
use crate::process;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A component of the Rust toolchain.
    Component(&'static str),
    /// The standard library for the static builds.
    StaticTargets,
    /// A program from a package of the distribution.
    Package { program: &'static str, package: &'static str },
    /// A program from crates.io: minutes of building, so a desk is asked to do it and only CI does it by itself.
    Crate { program: &'static str, version: &'static str },
    /// QEMU, a kernel and all that belongs to the guest.
    Guest,
}

pub(crate) struct Needs<'a> {
    checkout: &'a Checkout,
    ci: bool,
    apt_is_fresh: Cell<bool>,
}

impl<'a> Needs<'a> {
    pub(crate) fn new(checkout: &'a Checkout, ci: bool) -> Self {
        Self { checkout, ci, apt_is_fresh: Cell::new(false) }
    }

    /// Fails when `need` is neither there nor to be had; the error says why.
    pub(crate) fn meet(&self, need: Need) -> Result<()> {
        match need {
            Need::Component(name) => self.rustup("component", name),
            Need::StaticTargets => Arch::ALL.into_iter().try_for_each(|arch| self.rustup("target", arch.triple())),
            Need::Package { program, package } => self.package(program, package),
            Need::Crate { program, version } => self.crates_io(program, version),
            Need::Guest => process::run(self.checkout.command("tests/guest/setup.sh").arg("all")),
        }
    }

    fn rustup(&self, kind: &str, name: &str) -> Result<()> {
        let installed = match process::output(self.checkout.command("rustup").args([kind, "list", "--installed"])) {
            Ok(installed) => installed,
            // A toolchain that did not come by rustup is taken as it is; the step itself will tell.
            Err(_) if !on_path("rustup") => return Ok(()),
            Err(error) => return Err(error),
        };
        if installed.lines().any(|line| line.starts_with(name)) {
            return Ok(());
        }
        println!("needs: installing Rust {kind} {name} (rustup)");
        process::run(self.checkout.command("rustup").args([kind, "add", name]))
    }

    fn package(&self, program: &str, package: &str) -> Result<()> {
        if on_path(program) {
            return Ok(());
        }
        let wanted = || format!("{program} is missing, and installing the package {package} takes root and apt-get");
        ensure!(on_path("apt-get") && rustix::process::geteuid().is_root(), wanted());
        println!("needs: installing {package} (apt, as root) for {program}");
        if !self.apt_is_fresh.replace(true) {
            process::run(Command::new("apt-get").args(["-qq", "update"]))?;
        }
        // RUNLEVEL=1: a service in a package must not start by itself.
        let mut install = Command::new("apt-get");
        install.args(["-qq", "-y", "--no-install-recommends", "install", package]);
        process::run(install.envs([("DEBIAN_FRONTEND", "noninteractive"), ("RUNLEVEL", "1")])).with_context(wanted)
    }

    fn crates_io(&self, program: &str, version: &str) -> Result<()> {
        if on_path(program) {
            return Ok(());
        }
        let install = format!("cargo install --locked {program}@{version}");
        ensure!(self.ci, "{program} is missing; `{install}` takes some minutes");
        println!("needs: {install} (a debug build)");
        let version = format!("{program}@{version}");
        process::run(self.checkout.command("cargo").args(["install", "--quiet", "--debug", "--locked", &version]))
    }
}

/// Services are in the sbin folders, which a user's PATH may leave out.
fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(|folder| Path::new(folder).to_owned()));
    folders.into_iter().any(|folder| folder.join(program).is_file())
}
