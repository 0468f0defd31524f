//! A payload that puts a link where the agent looks for a directory.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use rigd::payload::lifecycle::Phase;
use rigd::payload::supervisor::Refusal;

use super::rig::{Rig, block_on, cgroup, directory, root, script};

/// That of `nobody`.
const NOBODY: u32 = 65_534;

#[test]
fn a_link_that_a_payload_has_made_leads_the_agent_nowhere() {
    if !root() {
        return;
    }
    block_on(async {
        let place = directory("links");
        // Its own, and one that anybody may write as far as modes say: only the jail keeps it from there.
        let (parent, outside) = (place.join("ai"), place.join("outside"));
        for path in [&parent, &outside] {
            fs::create_dir(path).unwrap();
        }
        chown(&parent, Some(NOBODY), None).unwrap();
        fs::set_permissions(&outside, PermissionsExt::from_mode(0o777)).unwrap();
        let at = |key: &str, path: &str| format!("{key} = \"{}\"\n", parent.join(path).display());
        let rest = "[restart]\npolicy = \"never\"\n";
        let workplace = at("working_directory", "");
        let outside_of = |text: &str| format!("{text}; echo x > {}/written && echo out; echo end", outside.display());
        let link = |name: &str| format!("rm -rf {name}; ln -s {} {name}", outside.display());
        for (name, body, more, refused) in [
            // Its states are below what it may write.
            ("state", link("state"), format!("{workplace}{}", at("state_directory", "state")), "could not make"),
            // Anything else that it may write, as long as that is below.
            (
                "write",
                link("models"),
                format!("{workplace}[sandbox]\nwrite = [\"{}\"]\n", parent.join("models").display()),
                "could not open",
            ),
            // A link above the directory, and one in it.
            ("above", link("a"), format!("{workplace}{}", at("state_directory", "a/state")), "could not make"),
        ] {
            for made in ["models", "a"] {
                let _ = fs::remove_file(parent.join(made));
                fs::create_dir_all(parent.join(made)).unwrap();
                chown(parent.join(made), Some(NOBODY), None).unwrap();
            }
            let rig = Rig::with(
                directory(name),
                cgroup(name),
                vec![script(name, &outside_of(&body), &(more + rest))],
                |_| {},
            );
            rig.start(name).await.unwrap();
            let said = rig.until_said(name, "end\n").await;
            assert!(!said.contains("out\n"), "{name}: {said}");
            rig.until(name, |status| status.phase == Phase::Stopped && status.exit.is_some()).await;
            let Err(Refusal::NotStarted(text)) = rig.start(name).await else { panic!("{name}: was started") };
            assert!(text.starts_with(refused) && text.contains("is a link that the payload may have made"), "{text}");
            rig.end().await;
            let found = fs::read_dir(&outside).unwrap().count();
            assert_eq!((found, fs::metadata(&outside).unwrap().uid()), (0, 0), "{name}");
        }
        fs::remove_dir_all(place).unwrap();
    });
}
