//! `podman run` as an argument list.
//!
//! `--cgroups=split` keeps the container and its monitor in two groups below the payload's own, so that what kills the payload's
//! group kills both (podman-run(1)). GPUs are CDI devices, `nvidia.com/gpu=UUID`, as `nvidia-ctk cdi generate` names them. The
//! network is the rig's, so that probes and meters find the payload on 127.0.0.1 and its ports are the sandbox's business.

use super::{Container, Manifest};

impl Container {
    /// Secrets and variables are handed over by name only: their values are in podman's own environment, not in its arguments.
    pub(super) fn command(&self, manifest: &Manifest, gpus: &[String]) -> Vec<String> {
        let Self { image, podman, options, arguments } = self;
        let name = &manifest.name;
        let mut argv: Vec<String> = vec![podman.clone(), "run".to_owned()];
        argv.extend(
            ["--rm", "--replace", "--init", "--cgroups=split", "--log-driver=none", "--network=host"]
                .map(str::to_owned),
        );
        argv.push(format!("--name=rigd-{name}"));
        argv.push(format!("--stop-timeout={}", manifest.stop.grace.as_secs()));
        let names = manifest.environment.keys().chain(manifest.secrets.keys());
        argv.extend(names.map(|name| format!("--env={name}")));
        argv.extend(gpus.iter().map(|uuid| format!("--device=nvidia.com/gpu={uuid}")));
        argv.extend(options.iter().cloned());
        argv.push(image.clone());
        argv.extend(arguments.iter().cloned());
        argv
    }
}
