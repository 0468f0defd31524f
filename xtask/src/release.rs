//! `cargo xtask release`: what an operator installs. The same commit gives the same bytes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::args::{self, Args};
use crate::checkout::{Arch, Checkout, Program};
use crate::need::{Need, Needs};
use crate::process;
use crate::scratch::Scratch;
use crate::{sbom, test};

const HELP: &str = "\
cargo xtask release: what an operator installs

usage: cargo xtask release [--out DIR] [--verify]

  --out DIR   where to put it (default dist)
  --verify    build the same commit once more, from a clone in another directory, and compare the binaries

Per architecture, x86_64 and aarch64: rigd-VERSION-ARCH.tar.gz with rigd and rigd-ctl (static), rigd-nvml (for glibc 2.17
and later), boards/, systemd/, examples/, README.md with what it points operators to, and LICENSE; a bill of materials for each binary
(CycloneDX 1.5). SHA256SUMS covers all of it. Times in the archives are that of the commit, or SOURCE_DATE_EPOCH.
";

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Beside the binaries, under the names that README has for them.
const CONTENTS: [&str; 7] =
    ["CHANGELOG.md", "LICENSE", "README.md", "boards", "examples", "src/wire/README.md", "systemd"];

pub(crate) fn command(mut args: Args) -> Result<()> {
    let (mut out, mut verify) = (PathBuf::from("dist"), false);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--out" => out = args.value("--out")?.into(),
            "--verify" => verify = true,
            "--help" | "-h" => return args::help(HELP),
            other => return Err(args::unknown("release", other)),
        }
    }
    let checkout = Checkout::here()?;
    let needs = Needs::new(&checkout, false);
    [Need::StaticTargets, Need::GlibcTargets].into_iter().try_for_each(|need| needs.meet(need))?;
    let changed = process::output(checkout.command("git").args(["status", "--porcelain"]))?;
    ensure!(
        changed.is_empty() || !verify,
        "--verify compares with the last commit, and there are changes since:\n{changed}"
    );
    if !changed.is_empty() {
        println!("release: there are changes since the last commit; nobody else will get these bytes");
    }
    let built = Built::all(&checkout)?;
    if verify {
        verify_elsewhere(&checkout, &built)?;
    }
    package(&checkout, &built, &checkout.root().join(out))
}

/// The six binaries, checked to run on every rig.
struct Built(Vec<(Program, Arch, PathBuf)>);

impl Built {
    fn all(checkout: &Checkout) -> Result<Self> {
        let mut built = Vec::new();
        for program in Program::ALL {
            for (arch, path) in checkout.build_shipped(program, &Arch::ALL)? {
                test::check_shipped(program, arch, &path)?;
                built.push((program, arch, path));
            }
        }
        Ok(Self(built))
    }
}

fn verify_elsewhere(checkout: &Checkout, built: &Built) -> Result<()> {
    let scratch = Scratch::new("verify")?;
    let clone = scratch.path().join("a folder of another name");
    println!("release: building the same commit again in {}", clone.display());
    process::run(checkout.command("git").args(["clone", "--quiet", "."]).arg(&clone))?;
    let again = Built::all(&checkout.elsewhere(clone))?;
    for ((program, arch, first), (.., second)) in built.0.iter().zip(&again.0) {
        let same = fs::read(first)? == fs::read(second)?;
        ensure!(same, "{} for {} differs from a build in another directory", program.name(), arch.name());
        println!("release: {} for {}: the same bytes", program.name(), arch.name());
    }
    Ok(())
}

fn package(checkout: &Checkout, built: &Built, out: &Path) -> Result<()> {
    let epoch = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(epoch) => epoch,
        Err(_) => process::output(checkout.command("git").args(["log", "-1", "--format=%ct"]))?,
    };
    let epoch: u64 = epoch.trim().parse().with_context(|| format!("SOURCE_DATE_EPOCH: {epoch}"))?;
    let date =
        process::output(checkout.command("date").args(["-u", "-d", &format!("@{epoch}"), "+%Y-%m-%dT%H:%M:%SZ"]))?;
    fs::create_dir_all(out)?;
    let mut files = Vec::new();
    for arch in Arch::ALL {
        let name = format!("rigd-{VERSION}-{}", arch.name());
        let stage = checkout.target().join("release-stage").join(&name);
        if stage.exists() {
            fs::remove_dir_all(&stage)?;
        }
        fs::create_dir_all(&stage)?;
        for content in CONTENTS {
            process::run(checkout.command("cp").args(["-r", "--parents", content]).arg(&stage))?;
        }
        for (program, _, path) in built.0.iter().filter(|(_, of, _)| *of == arch) {
            fs::copy(path, stage.join(program.name()))?;
            let bill = format!("{}-{VERSION}-{}.cdx.json", program.name(), arch.name());
            fs::write(out.join(&bill), sbom::bill(checkout, *program, arch, date.trim())?)?;
            files.push(bill);
        }
        let archive = format!("{name}.tar.gz");
        tar(checkout, &stage, &out.join(&archive), epoch)?;
        files.push(archive);
    }
    files.sort();
    let sums = process::output(checkout.command("sha256sum").args(&files).current_dir(out))?;
    fs::write(out.join("SHA256SUMS"), &sums)?;
    println!("release: {}\n{sums}", out.display());
    Ok(())
}

/// Nothing of this machine, its user or the time of day gets in.
fn tar(checkout: &Checkout, stage: &Path, archive: &Path, epoch: u64) -> Result<()> {
    let (folder, name) = stage.parent().zip(stage.file_name()).context("the stage is a folder in a folder")?;
    let fixed = [
        "--create",
        "--format=ustar",
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mode=u=rwX,go=rX",
    ];
    let mut command = checkout.command("tar");
    command.args(fixed).arg(format!("--mtime=@{epoch}")).args(["--use-compress-program", "gzip -9 -n"]);
    process::run(command.arg("--file").arg(archive).arg("--directory").arg(folder).arg(name))
}
