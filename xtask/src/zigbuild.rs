//! cargo-zigbuild: cargo with a linker that knows the symbols of every glibc, so that what is built here runs on old systems,
//! and a C compiler for every target.
//!
//! It and zig come from PyPI as wheels, pinned by hash in `xtask/zigbuild.txt`, into a folder below `target/`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::checkout::{Arch, Checkout};
use crate::process;

const REQUIREMENTS: &str = include_str!("../zigbuild.txt");

/// The folder that they are in, by their hashes: another version goes elsewhere.
fn folder(checkout: &Checkout) -> PathBuf {
    checkout.tools().join(format!("zigbuild-{:016x}", fnv1a(REQUIREMENTS.as_bytes())))
}

pub(crate) fn is_installed(checkout: &Checkout) -> bool {
    folder(checkout).is_dir()
}

/// Fetches both: some 100 MB. What is in the folder is complete: it gets its name last.
pub(crate) fn install(checkout: &Checkout) -> Result<()> {
    let folder = folder(checkout);
    let partial = folder.with_extension(std::process::id().to_string());
    fs::create_dir_all(checkout.tools())?;
    let fixed = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    let checked = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement", "xtask/zigbuild.txt"];
    let mut pip = checkout.command("python3");
    // In words that an old pip does not know, and overlooks, rather than an option that it refuses.
    pip.args(fixed).args(checked).arg("--target").arg(&partial).env("PIP_ROOT_USER_ACTION", "ignore");
    let installed = process::run(&mut pip);
    // Another one may have been as quick; both have the same in them.
    let installed = installed.and_then(|()| match fs::rename(&partial, &folder) {
        Err(error) if !folder.is_dir() => Err(error).context("cargo-zigbuild"),
        _ => Ok(()),
    });
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    installed
}

/// `cargo zigbuild`; arguments follow. Whatever it keeps is below the folder of its tools.
pub(crate) fn command(checkout: &Checkout) -> Result<Command> {
    let mut command = checkout.command(folder(checkout).join("bin/cargo-zigbuild"));
    command.arg("zigbuild").env("CARGO_TARGET_DIR", checkout.target());
    surround(checkout, &mut command)?;
    Ok(command)
}

/// Lets `cargo build` of a static program find a C compiler: ring has C and assembler in it, and no distribution has a compiler for
/// both processors' musl. Rust links with what it brings itself, as before.
pub(crate) fn compile_c(checkout: &Checkout, arch: Arch, command: &mut Command) -> Result<()> {
    surround(checkout, command)?;
    let program = folder(checkout).join("bin/cargo-zigbuild");
    let (program, triple) = (program.display(), arch.triple());
    command.env(format!("CC_{triple}"), format!("{program} zig cc -- -target {}-linux-musl", arch.name()));
    command.env(format!("AR_{triple}"), format!("{program} zig ar --"));
    Ok(())
}

fn surround(checkout: &Checkout, command: &mut Command) -> Result<()> {
    let folder = folder(checkout);
    let cache = folder.with_extension("cache");
    command.env("PYTHONPATH", &folder).env("PATH", in_front(&folder.join("bin"))?);
    for variable in ["XDG_CACHE_HOME", "CARGO_ZIGBUILD_CACHE_DIR", "ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"] {
        command.env(variable, &cache);
    }
    Ok(())
}

fn in_front(folder: &Path) -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths(std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path)))?)
}

/// The 64-bit hash of Fowler, Noll and Vo: names a folder, guards nothing.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
