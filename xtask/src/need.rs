//! What a step needs and a fresh machine lacks: found, or installed aloud, or the reason why not.

use std::cell::Cell;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::checkout::{Arch, Checkout};
use crate::{process, zigbuild};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A component of the Rust toolchain.
    Component(&'static str),
    /// The standard library and zig, as a C compiler, for the static builds.
    StaticTargets,
    /// The standard library, the linker and zig for what runs with any glibc.
    GlibcTargets,
    /// A program from a package of the distribution.
    Package { program: &'static str, package: &'static str },
    /// A program from crates.io: minutes of building, so a desk is asked to do it and only CI does it by itself.
    Crate { program: &'static str, version: &'static str },
    /// NVIDIA's header and Python client, from PyPI: what the simulated NVML is held against.
    NvidiaClients,
    /// llama.cpp's server and what writes a model for it, from PyPI.
    LlamaCpp,
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
            Need::StaticTargets => {
                Arch::ALL.into_iter().try_for_each(|arch| self.rustup("target", arch.triple()))?;
                self.zig()
            }
            Need::GlibcTargets => {
                Arch::ALL.into_iter().try_for_each(|arch| self.rustup("target", arch.glibc_triple()))?;
                self.zig()
            }
            Need::Package { program, package } => self.package(program, package),
            Need::Crate { program, version } => self.crates_io(program, version),
            Need::NvidiaClients => self.nvidia_clients(),
            Need::LlamaCpp => self.llama_cpp(),
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

    fn zig(&self) -> Result<()> {
        if zigbuild::is_installed(self.checkout) {
            return Ok(());
        }
        let has_pip = || process::output(Command::new("python3").args(["-m", "pip", "--version"])).is_ok();
        if !on_path("python3") || !has_pip() {
            self.apt("pip", "python3-pip")?;
        }
        println!("needs: installing cargo-zigbuild and zig (pip, below target/, some 100 MB)");
        zigbuild::install(self.checkout)
    }

    fn package(&self, program: &str, package: &str) -> Result<()> {
        if on_path(program) { Ok(()) } else { self.apt(program, package) }
    }

    fn apt(&self, program: &str, package: &str) -> Result<()> {
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

    /// Versions are fixed: another header is another truth, and a step that changes by itself tells nothing.
    fn nvidia_clients(&self) -> Result<()> {
        const PACKAGES: [&str; 2] = ["nvidia-nvml-dev==13.5.37", "nvidia-ml-py==13.615.71"];
        let folder = honesty_folder(self.checkout);
        if folder.join("nvidia/cu13/include/nvml.h").is_file() && folder.join("pynvml.py").is_file() {
            return Ok(());
        }
        self.package("python3", "python3")?;
        self.package("cc", "gcc")?;
        println!("needs: {} from PyPI into {}", PACKAGES.join(" and "), folder.display());
        self.pip(&folder, &["--no-deps"], &PACKAGES)
            .context("pip could not fetch NVIDIA's header and client; is there a network?")
    }

    /// xllamacpp is llama.cpp's own server as a library, built for any CPU; gguf writes the model, and brings numpy.
    fn llama_cpp(&self) -> Result<()> {
        const PACKAGES: [&str; 2] = ["xllamacpp==2026.10.11549", "gguf==0.19.0"];
        let folder = real_ai_folder(self.checkout);
        self.package("python3", "python3")?;
        // The payload runs as another user, who may not reach a Python in a home.
        ensure!(Path::new("/usr/bin/python3").exists(), "there is no /usr/bin/python3, which the payload is run by");
        if ["xllamacpp", "gguf", "numpy"].iter().all(|name| folder.join(name).is_dir()) {
            return Ok(());
        }
        println!("needs: {} from PyPI into {} (150 MB)", PACKAGES.join(" and "), folder.display());
        self.pip(&folder, &[], &PACKAGES).context("pip could not fetch llama.cpp's server; is there a network?")
    }

    fn pip(&self, folder: &Path, how: &[&str], packages: &[&str]) -> Result<()> {
        let mut pip = self.checkout.command("python3");
        // Only wheels: a package of sources is half an hour of compiling.
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--only-binary=:all:",
            "--upgrade",
        ]);
        process::run(pip.args(how).arg("--target").arg(folder).args(packages))
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

/// Where NVIDIA's header and client are.
pub(crate) fn honesty_folder(checkout: &Checkout) -> PathBuf {
    checkout.target().join("honesty")
}

/// Where llama.cpp's server and its model are.
pub(crate) fn real_ai_folder(checkout: &Checkout) -> PathBuf {
    checkout.target().join("real-ai")
}

/// Services are in the sbin folders, which a user's PATH may leave out.
fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(|folder| Path::new(folder).to_owned()));
    folders.into_iter().any(|folder| folder.join(program).is_file())
}
