//! Manifests that are read again while payloads run.

use std::path::Path;

use rigd::payload::Hold;
use rigd::payload::lifecycle::{Failure, Phase};
use rigd::payload::manifest::Manifest;
use rigd::payload::supervisor::{Refusal, Status, What};

use super::rig::{Rig, block_on, root, script, until_quiet};

fn running(status: &Status) -> bool {
    status.phase == Phase::Running
}

fn sleeper(name: &str, word: &str) -> Manifest {
    script(name, &format!("echo {word}; exec sleep 1000"), "autostart = true")
}

#[test]
fn what_has_changed_is_taken_in_and_the_rest_does_not_notice() {
    block_on(async {
        let rig = Rig::new("reload", vec![sleeper("a", "one"), sleeper("b", "one"), sleeper("c", "one")]);
        let mut pids = Vec::new();
        for name in ["a", "b", "c"] {
            pids.push(rig.until(name, running).await.pid);
        }
        let told = rig.reload((vec![sleeper("a", "one"), sleeper("b", "two"), sleeper("d", "one")], vec![])).await;
        assert_eq!((&told.added[..], &told.changed[..]), (&["d".to_owned()][..], &["b".to_owned()][..]));
        assert_eq!((&told.removed[..], &told.problems[..]), (&["c".to_owned()][..], &[][..]));
        let b = rig.until("b", |status| running(status) && status.pid != pids[1]).await;
        assert_eq!(b.restarts, 0);
        rig.until_said("b", "two\n").await;
        rig.until("d", running).await;
        let c = rig.until("c", |status| status.phase == Phase::Stopped).await;
        assert!(c.removed && c.pid.is_none());
        assert_eq!(rig.start("c").await, Err(Refusal::Unknown));
        assert!(rig.log("c").await.contains("one"), "what it said can still be read");
        assert_eq!(rig.until("a", |_| true).await.pid, pids[0], "nobody has touched it");
        // Back again: as one that was never seen, in its old place.
        let all = ["a", "b", "c", "d"].map(|name| sleeper(name, if name == "b" { "two" } else { "one" }));
        let told = rig.reload((all.to_vec(), vec![])).await;
        assert_eq!((told.added, told.changed, told.removed), (vec!["c".to_owned()], vec![], vec![]));
        assert!(!rig.until("c", running).await.removed);
        assert_eq!(rig.reload((all.to_vec(), vec![])).await, Default::default());
        for name in ["a", "b", "c", "d"] {
            rig.stop(name).await;
        }
        rig.end().await;
    });
}

#[test]
fn a_disk_that_hangs_keeps_no_order_waiting() {
    block_on(async {
        let rig = Rig::new("hanging", vec![sleeper("a", "one")]);
        rig.until("a", running).await;
        let told = rig.reload_slowly(async {
            rig.stop("a").await;
            rig.start("a").await.unwrap();
            rig.hold("a", Hold::Stop).await;
            rig.until("a", |status| status.hold == Hold::Stop && status.pid.is_none()).await;
        });
        // Nothing is there any more, as that disk says at last.
        assert_eq!(told.await.removed, ["a"]);
        rig.end().await;
    });
}

#[test]
fn a_wrong_file_changes_nothing_and_a_mended_one_is_tried_again() {
    block_on(async {
        let missing = Manifest { argv: vec!["/nonexistent/miner".to_owned()], ..sleeper("late", "") };
        let files = std::env::temp_dir().join(format!("rigd-reload-{}", std::process::id()));
        std::fs::create_dir_all(&files).unwrap();
        let good = Manifest { file: files.join("good.toml").display().to_string(), ..sleeper("good", "one") };
        let rig = Rig::new("wrong", vec![good, missing]);
        let pid = rig.until("good", running).await.pid;
        rig.until("late", |status| status.phase == Phase::Failed(Failure::Start)).await;
        std::fs::write(files.join("good.toml"), "kind = \"ai\"\nargv = [\"/a\"]\nuser = 7\n").unwrap();
        let (found, problems) = Manifest::load_all(Path::new(&files));
        let found = found.into_iter().chain([sleeper("late", "one")]).collect();
        let told = rig.reload((found, problems)).await;
        assert_eq!((told.changed, told.removed), (vec!["late".to_owned()], vec![]));
        let line = format!("{}:3: user: must be a string", files.join("good.toml").display());
        assert!(told.problems.len() == 1 && told.problems[0].starts_with(&line), "{:?}", told.problems);
        assert_eq!(rig.until("good", running).await.pid, pid);
        rig.until("late", running).await;
        // One that was stopped stays so with whatever manifest.
        rig.stop("late").await;
        let found = vec![sleeper("late", "two")];
        let told = rig.reload((found, Manifest::load_all(Path::new(&files)).1)).await;
        assert_eq!(told.changed, ["late"]);
        rig.order("late", What::Clear).await.unwrap();
        assert_eq!(rig.until("late", |_| true).await.phase, Phase::Stopped);
        rig.start("late").await.unwrap();
        rig.until_said("late", "two\n").await;
        rig.stop("late").await;
        rig.stop("good").await;
        std::fs::remove_dir_all(files).unwrap();
        rig.end().await;
    });
}

#[test]
fn what_has_no_manifest_any_more_leaves_no_cgroup_behind_and_strangers_are_left_alone() {
    if !root() {
        return;
    }
    block_on(async {
        let rig = Rig::new("groups", vec![sleeper("a", "one"), sleeper("b", "one"), sleeper("c", "one")]);
        let groups = rig.cgroup.as_ref().unwrap().join("payloads");
        let has = |name: &str| groups.join(name).exists();
        for name in ["a", "b", "c"] {
            rig.until_said(name, "one").await;
        }
        assert!(["a", "a.log", "b", "b.log", "c", "c.log"].into_iter().all(has));
        // One goes while it runs, one while it rests.
        rig.stop("b").await;
        rig.reload((vec![sleeper("c", "one")], vec![])).await;
        rig.until("a", |status| status.removed && status.phase == Phase::Stopped).await;
        until_quiet("their groups are gone", || !["a", "a.log", "b", "b.log"].into_iter().any(has)).await;
        // And one between two agents. Another agent's is nobody's business here.
        rig.stop("c").await;
        until_quiet("its log is written down", || rig.procs("c.log").is_empty()).await;
        let (place, group) = rig.leave().await;
        std::fs::create_dir(groups.join("other")).unwrap();
        assert!(has("c"));
        let rig = Rig::with(place, group, vec![sleeper("d", "one")], |_| {});
        rig.until_said("d", "one").await;
        assert!(!has("c") && has("other") && has("d"));
        until_quiet("so is its log's", || !has("c.log")).await;
        rig.stop("d").await;
        rig.end().await;
    });
}
