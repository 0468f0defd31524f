//! What cargo builds out of a checkout, and where it is then.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{process, zigbuild};

/// What a rig runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arch {
    X86_64,
    Aarch64,
}

impl Arch {
    pub(crate) const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Rust's name of the build that links with the C library of the machine it runs on.
    pub(crate) fn glibc_triple(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// Rust's name of the static build.
    pub(crate) fn triple(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-musl",
            Self::Aarch64 => "aarch64-unknown-linux-musl",
        }
    }
}

/// What is shipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// The agent, with nothing in it that only the operator's tool needs.
    Rigd,
    RigdCtl,
    /// Loads NVIDIA's library, which a static program cannot.
    RigdNvml,
}

/// The oldest glibc that a shipped program must run with: CentOS 7's, and the oldest for aarch64 that Rust knows.
pub(crate) const OLDEST_GLIBC: [u32; 2] = [2, 17];

impl Program {
    pub(crate) const ALL: [Self; 3] = [Self::Rigd, Self::RigdCtl, Self::RigdNvml];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rigd => "rigd",
            Self::RigdCtl => "rigd-ctl",
            Self::RigdNvml => "rigd-nvml",
        }
    }

    /// Needs nothing of the machine that it runs on.
    pub(crate) fn is_static(self) -> bool {
        match self {
            Self::Rigd | Self::RigdCtl => true,
            Self::RigdNvml => false,
        }
    }

    /// Rust's name of its build.
    pub(crate) fn triple(self, arch: Arch) -> &'static str {
        if self.is_static() { arch.triple() } else { arch.glibc_triple() }
    }

    /// The feature selection, for every cargo command that asks about this program.
    pub(crate) fn features(self) -> &'static [&'static str] {
        match self {
            Self::Rigd => &["--no-default-features"],
            Self::RigdCtl => &["--no-default-features", "--features", "ctl"],
            Self::RigdNvml => &["--no-default-features", "--features", "nvml"],
        }
    }
}

/// What makes a static program a fifth smaller, for the linker that comes with Rust.
///
/// - Nothing is ever unwound (`panic = "abort"`), but the standard library was compiled with the tables for it, and with it all is:
///   `-Cforce-unwind-tables=no` changes nothing. So the linker throws them away, and what would read them: 65 kB of the agent
///   without the tables. A panic still says what and where.
/// - Relocations as a bit map (`DT_RELR`), which Rust's musl understands: it is 1.2.5, and 1.2.4 was the first to.
/// - Functions with the same instructions become one, 16 kB: nothing here tells two functions apart by where they are, and Rust
///   promises nothing about that.
///
/// The path is from the root of the workspace, where the linker is started: an absolute one would be in cargo's hashes.
const SMALLER: [&str; 4] = [
    "-Clink-arg=-zpack-relative-relocs",
    "-Clink-arg=--no-eh-frame-hdr",
    "-Clink-arg=--script=xtask/no-unwinding.ld",
    "-Clink-arg=--icf=all",
];

/// A source tree and the place its builds go to.
pub(crate) struct Checkout {
    root: PathBuf,
    target: PathBuf,
    tools: PathBuf,
}

impl Checkout {
    /// The tree this program was started from.
    pub(crate) fn here() -> Result<Self> {
        let own = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| OsString::from(env!("CARGO_MANIFEST_DIR")));
        let root = Path::new(&own).parent().context("xtask is a folder of the checkout")?.to_owned();
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        Ok(Self { root, tools: target.join("tools"), target })
    }

    /// Another tree, with the tools of this one.
    pub(crate) fn elsewhere(&self, root: PathBuf) -> Self {
        Self { target: root.join("target"), root, tools: self.tools.clone() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Where tools are that xtask installed.
    pub(crate) fn tools(&self) -> &Path {
        &self.tools
    }

    /// A command that runs in the root of the checkout.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        command
    }

    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments).env("CARGO_TARGET_DIR", &self.target);
        command
    }

    /// Builds every program of the workspace and the simulated library for this machine, unoptimized, and returns the folder
    /// they are in.
    pub(crate) fn build_programs(&self, also_tests: bool) -> Result<PathBuf> {
        // A test build asks more of some dependencies: with the same selection as the tests, nothing is built twice.
        let selection: &[&str] = if also_tests { &["--tests"] } else { &["--exclude", "xtask"] };
        let fixed = ["build", "--quiet", "--workspace", "--all-features", "--bins", "--lib"];
        process::run(self.cargo(&fixed).args(selection))?;
        Ok(self.target.join("debug"))
    }

    /// Builds a binary as it is shipped, for these processors at once: the last step of each is one thread's, and takes a minute.
    pub(crate) fn build_shipped(&self, program: Program, arches: &[Arch]) -> Result<Vec<(Arch, PathBuf)>> {
        let mut command = if program.is_static() { self.cargo(&["build"]) } else { zigbuild::command(self)? };
        command.args(["--locked", "--release", "--package", "rigd", "--bin", program.name()]);
        for arch in arches {
            let triple = program.triple(*arch);
            if program.is_static() {
                zigbuild::compile_c(self, *arch, &mut command)?;
                command.args(["--target", triple]);
            } else {
                let [major, minor] = OLDEST_GLIBC;
                command.args(["--target", &format!("{triple}.{major}.{minor}")]);
            }
        }
        if program == Program::RigdCtl {
            // Nobody counts its bytes, and every crate of it would be optimized twice, the second time by one processor.
            command.args([
                "--config",
                "profile.release.lto = \"off\"",
                "--config",
                "profile.release.codegen-units = 16",
            ]);
        }
        let mut flags = self.remapped()?;
        if program.is_static() {
            flags.extend(SMALLER.map(str::to_owned));
        }
        command.args(program.features()).env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        process::run(&mut command)?;
        let built = |arch: &Arch| self.target.join(program.triple(*arch)).join("release").join(program.name());
        Ok(arches.iter().map(|arch| (*arch, built(arch))).collect())
    }

    /// Paths of this machine must not reach the binary: the same commit gives the same bytes everywhere.
    fn remapped(&self) -> Result<Vec<String>> {
        let sysroot = process::output(self.command("rustc").args(["--print", "sysroot"]))?;
        let version = process::output(self.command("rustc").arg("-vV"))?;
        let commit =
            version.lines().find_map(|line| line.strip_prefix("commit-hash: ")).context("rustc -vV names no commit")?;
        let cargo_home = match env::var_os("CARGO_HOME") {
            Some(home) => PathBuf::from(home),
            None => PathBuf::from(env::var_os("HOME").context("HOME is not set")?).join(".cargo"),
        };
        let mut from_to = vec![
            (self.root.clone(), "/rigd".to_owned()),
            // As the standard library calls itself where its sources are not installed.
            (Path::new(sysroot.trim()).join("lib/rustlib/src/rust"), format!("/rustc/{commit}")),
            (cargo_home.clone(), "/cargo".to_owned()),
        ];
        // The name of this folder depends on where the registry's index was fetched from. rustc takes the last match.
        if let Ok(registries) = fs::read_dir(cargo_home.join("registry/src")) {
            from_to.extend(registries.filter_map(|entry| Some((entry.ok()?.path(), "/crates".to_owned()))));
        }
        Ok(from_to.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())).collect())
    }
}
