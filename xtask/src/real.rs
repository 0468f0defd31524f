//! Real payloads under the real agent. Not part of what CI runs: they bring 150 MB from PyPI, or a container engine.

use std::fs;

use anyhow::{Context, Result};

use crate::checkout::Checkout;
use crate::need::real_ai_folder;
use crate::process;

/// llama.cpp's server with a model of random weights.
pub(crate) fn ai(checkout: &Checkout) -> Result<()> {
    let (folder, scripts) = (real_ai_folder(checkout), checkout.root().join("tests/real"));
    fs::copy(scripts.join("serve.py"), folder.join("serve.py"))?;
    let mut model = checkout.command("python3");
    model.arg(scripts.join("model.py")).arg(folder.join("model.gguf")).env("PYTHONPATH", &folder);
    process::run(&mut model).context("the model could not be written")?;
    e2e(checkout, "real_ai::", Some(("RIGD_REAL_AI", folder.as_os_str())))
}

/// A container.
pub(crate) fn podman(checkout: &Checkout) -> Result<()> {
    e2e(checkout, "real_container::", None)
}

fn e2e(checkout: &Checkout, name: &str, variable: Option<(&str, &std::ffi::OsStr)>) -> Result<()> {
    // The agent, its helper and the simulated NVML are built by whoever builds the tests.
    let fixed = ["test", "--locked", "--package", "rigd", "--all-features", "--test", "e2e", name, "--", "--ignored"];
    process::run(checkout.cargo(&fixed).args(["--nocapture"]).envs(variable))
}
