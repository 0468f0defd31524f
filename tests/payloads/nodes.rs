//! GPUs that are granted and GPUs that are not: nodes of their own, which nobody else has in his list of devices.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;

use rigd::payload::lifecycle::Phase;
use rigd::payload::manifest::Manifest;
use rigd::payload::sandbox::Layer;
use rigd::payload::supervisor::{Hooks, Meter, NoGrant};
use rigd::payload::{Gpu, Grant};
use rigd::reading::{Missing, Reading};
use rigd::units::Milliwatts;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::jail::possible;
use super::rig::{Rig, block_on, cgroup, directory, root, script};

/// Three that anybody may open, for all that their mode says. They go when this goes.
struct Nodes(Vec<PathBuf>);

impl Nodes {
    /// None where nobody may make any.
    fn make() -> Option<Self> {
        let paths = (0..3).map(|number| PathBuf::from(format!("/dev/rigd-test-{}-gpu{number}", std::process::id())));
        let nodes = Self(paths.collect());
        for node in &nodes.0 {
            // What `/dev/zero` is too: it takes and gives anything (Documentation/admin-guide/devices.txt).
            mknodat(CWD, node, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 5)).ok()?;
            fs::set_permissions(node, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
            File::options().read(true).write(true).open(node).ok()?;
        }
        Some(nodes)
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in &self.0 {
            let _ = fs::remove_file(node);
        }
    }
}

/// Gives everybody a GPU for each of these.
struct Give(Vec<PathBuf>);

impl Hooks for Give {
    fn grant(&self, _: &Manifest) -> Result<Grant, NoGrant> {
        let gpu = |node: &PathBuf| Gpu { uuid: format!("GPU{}", node.display()), nodes: vec![node.clone()] };
        Ok(Grant { gpus: self.0.iter().map(gpu).collect() })
    }

    fn power(&self, _: &[Gpu]) -> Reading<Milliwatts> {
        Err(Missing::NotPresent)
    }

    fn quarantined(&self, _: &Manifest) {}

    fn meter(&self, _: &Manifest, _: &[u64]) -> Option<Box<dyn Meter>> {
        None
    }
}

#[test]
fn a_payload_opens_the_gpus_that_it_was_granted_and_no_others() {
    if !root() {
        return;
    }
    let Some(nodes) = Nodes::make() else {
        eprintln!("no device nodes can be made here: without");
        return;
    };
    if !possible(Layer::Files) {
        eprintln!("no landlock: without");
        return;
    }
    let a_try = |node: &PathBuf| {
        format!("({{ head -c 1 && echo >&0; }} > /dev/null 2>&1 <> {}) && echo yes || echo no", node.display())
    };
    let tries: Vec<String> = nodes.0.iter().map(a_try).collect();
    let body = format!("{}; echo end", tries.join("; "));
    block_on(async {
        for (name, given, more, expected) in [
            ("none", vec![], "", "no\nno\nno\n"),
            ("one", vec![1], "", "no\nyes\nno\n"),
            ("two", vec![0, 2], "", "yes\nno\nyes\n"),
            // Who else may open them is not the question: the jail is what keeps them from it.
            ("free", vec![], "[sandbox]\noff = [\"files\"]", "yes\nyes\nyes\n"),
        ] {
            let give = given.iter().map(|number: &usize| nodes.0[*number].clone()).collect();
            let more = format!("{more}\n[restart]\npolicy = \"never\"");
            let rig = Rig::with(directory(name), cgroup(name), vec![script(name, &body, &more)], |inputs| {
                inputs.hooks = Arc::new(Give(give));
            });
            rig.start(name).await.unwrap();
            rig.until(name, |status| status.phase == Phase::Stopped && status.exit.is_some()).await;
            let said = rig.until_said(name, "end\n").await;
            assert_eq!(said, format!("{expected}end\n"), "{name}");
            rig.end().await;
        }
    });
}
