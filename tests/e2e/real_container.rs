//! A container under the real agent, run by the real podman: `cargo xtask test --podman`.
//!
//! Nothing is fetched: the image is one file, busybox, imported into podman's own storage and removed from it again.

use std::path::Path;
use std::process::{Command, Output};

use rigd::wire::PayloadPhase;

use crate::agent::{Scratch, until};
use crate::broker::free_port;
use crate::house::{House, Seen, cgroup, kill, procs};

const IMAGE: &str = "localhost/rigd-test-busybox:1";

fn podman(arguments: &[&str]) -> Output {
    Command::new("/usr/bin/podman").args(arguments).output().unwrap()
}

fn must(arguments: &[&str]) -> String {
    let said = podman(arguments);
    assert!(said.status.success(), "podman {arguments:?}: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).unwrap()
}

/// The image, as long as the test runs.
struct Image;

impl Image {
    fn make() -> Self {
        let scratch = Scratch::new("image");
        let (root, archive) = (scratch.path.join("root"), scratch.path.join("image.tar"));
        std::fs::create_dir_all(root.join("bin")).unwrap();
        let busybox = Path::new("/bin/busybox");
        assert!(busybox.exists(), "there is no /bin/busybox; cargo xtask test --podman installs it");
        std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
        for name in ["sh", "httpd", "sleep", "mkdir"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        let done = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".").status().unwrap();
        assert!(done.success());
        must(&["import", archive.to_str().unwrap(), IMAGE]);
        Self
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = podman(&["rmi", "--force", IMAGE]);
    }
}

fn containers(name: &str) -> String {
    must(&["ps", "--all", "--quiet", "--filter", &format!("name=rigd-{name}")])
}

#[test]
#[ignore = "takes podman: cargo xtask test --podman"]
fn a_container_is_started_probed_killed_and_stopped_and_nothing_of_it_is_left() {
    let _image = Image::make();
    let port = free_port();
    let scratch = Scratch::new("podman-files");
    let (options, variables) = here(&scratch);
    let manifest = format!(
        "kind = \"ai\"\nautostart = true\nuser = \"root\"\n[container]\nimage = {IMAGE:?}\noptions = {options:?}\n\
         arguments = [\"/bin/sh\", \"-c\", \"mkdir -p /www; echo up > /www/health; echo serves; exec httpd -f -p 127.0.0.1:{port} -h /www\"]\n\
         [environment]\n{variables}PATH = \"/bin:/usr/bin:/usr/sbin:/sbin\"\n\
         [probe]\nhttp = \"http://127.0.0.1:{port}/health\"\ninterval_s = 1\nstartup_s = 30\n[stop]\ngrace_s = 5\n"
    );
    let house = House::new("podman", &[manifest]);
    let name = house.names[0].clone();
    let first = house.runs(0);
    assert_eq!(containers(&name).lines().count(), 1);
    until("its words", || house.log(0).contains("serves").then_some(()));
    // Podman itself is killed. Where its container is in the payload's group it goes with it; elsewhere --replace removes it.
    let group =
        cgroup(first).and_then(|group| group.ancestors().find(|group| group.ends_with(&name)).map(Path::to_owned));
    let one = containers(&name);
    kill(first);
    until("another container, and one only", || {
        let two = containers(&name);
        (two.lines().count() == 1 && two != one).then_some(())
    });
    house.until(0, "ready again", |payload| {
        payload.now.phase == PayloadPhase::Running && payload.pid.is_some_and(|pid| pid != first)
    });
    let last = house.one(0).unwrap().pid.unwrap();
    assert!(house.ctl(&["stop", &name]).status.success());
    house.until(0, "stopped", |payload| payload.now.phase == PayloadPhase::Stopped);
    assert!(Seen::of(last).is_none());
    until("no container is left", || containers(&name).is_empty().then_some(()));
    if let Some(group) = group {
        assert!(procs(&group).is_empty());
    }
}

/// What podman needs beside the manifest's own on this machine: options, and variables.
///
/// `--cgroups=split`, as payloads have it, is for cgroup v2 alone; where v1 is mounted beside it the last `--cgroups` counts, and of the
/// two runtimes only runc takes such a machine. The payload's own group holds the container all the same.
fn here(scratch: &Scratch) -> (Vec<&'static str>, String) {
    // Without CAP_SYS_RESOURCE podman's defaults cannot be set.
    let mut options = vec!["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"];
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return (options, String::new());
    }
    println!("cgroup v1 beside v2: the container runs with --cgroups=no-conmon and runc, not with --cgroups=split");
    options.push("--cgroups=no-conmon");
    let file = scratch.path.join("containers.conf");
    std::fs::write(&file, "[engine]\nruntime = \"runc\"\n").unwrap();
    (options, format!("CONTAINERS_CONF = {file:?}\n"))
}
