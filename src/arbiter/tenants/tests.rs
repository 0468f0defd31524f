use std::fs;

use tokio::sync::{mpsc, watch};

use super::super::Inputs;
use super::super::journal::Kept;
use super::super::look::tests::payload;
use super::super::switch::{Share, Switch};
use super::*;
use crate::board::Board;
use crate::config::Config;
use crate::payload::Terms;
use crate::payload::lifecycle::Phase;
use crate::payload::supervisor::Payloads;
use crate::setpoint::Desk;

/// An arbiter that is asked by hand, and a tenant's payload.
struct Bench {
    arbiter: Arbiter,
    place: PathBuf,
    payloads: watch::Sender<Arc<Payloads>>,
}

impl Bench {
    fn new(name: &str) -> Self {
        let place = std::env::temp_dir().join(format!("rigd-tenants-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&place);
        // As a cgroup looks.
        fs::create_dir_all(place.join("payloads/gone")).unwrap();
        fs::write(place.join("payloads/cgroup.procs"), "").unwrap();
        let text = format!(
            "board = \"simulated-8gpu\"\nstate = {place:?}\n[plan]\nenabled = true\n[payload]\ncgroup = {place:?}\n"
        );
        let config = Config::parse("rigd.toml", &text, "rig-1").map_err(|problems| problems.to_string()).unwrap();
        let board = Arc::new(Board::load("simulated-8gpu").unwrap());
        let (desk, setpoints) = Desk::open(&place, &board, &config.gpus);
        let (payloads, seen) = watch::channel(Arc::default());
        let inputs = Inputs {
            snapshot: watch::channel(Arc::default()).1,
            payloads: seen,
            setpoints,
            desk,
            orders: mpsc::channel(1).0,
            events: mpsc::channel(1).0,
            view: watch::channel(Arc::default()).0,
        };
        let bench = Self { arbiter: Arbiter::open(&config, inputs).unwrap(), place, payloads };
        bench.is(Phase::Stopped);
        bench
    }

    fn is(&self, phase: Phase) {
        let mut status = payload("llm", 1, 1);
        let mut terms = Terms::clone(status.plan.as_ref().unwrap());
        terms.private = Some(self.place.join("private"));
        (status.plan, status.phase) = (Some(Arc::new(terms)), phase);
        self.payloads.send_replace(Arc::new(Payloads(vec![status])));
    }

    /// Something private, and whether it was there before.
    fn writes(&self) -> bool {
        let file = self.place.join("private/secret");
        let was_there = file.exists();
        let _ = fs::create_dir_all(file.parent().unwrap());
        fs::write(file, "x").unwrap();
        was_there
    }

    /// Removes what is due, and gives whose that was.
    async fn wipes(&mut self, again: bool) -> Option<String> {
        self.arbiter.wipe_who_rests(again);
        let (name, done) = self.arbiter.wipers.next().await?;
        self.arbiter.wiped(name.clone(), done).await;
        Some(name)
    }

    /// What the next agent knows of.
    fn on_disk(&self) -> BTreeMap<String, Left> {
        Kept::load(&self.arbiter.journal, 0, std::time::Duration::ZERO).left
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.place);
    }
}

#[tokio::test]
async fn who_came_to_rest_leaves_nothing_however_that_came_about() {
    let mut bench = Bench::new("rests");
    bench.writes();
    let gpus = vec!["G0".to_owned()];
    let moment = bench.arbiter.moment();
    bench.arbiter.leaves("llm", &gpus, &moment);
    bench.arbiter.kept.given.insert("llm".to_owned(), gpus.clone());
    bench.arbiter.inputs.desk.set_given(bench.arbiter.kept.given.clone());
    for phase in [Phase::Starting, Phase::Running, Phase::BackingOff { until: std::time::Duration::ZERO }] {
        bench.is(phase);
        assert_eq!(bench.wipes(true).await, None, "{phase:?}");
    }
    bench.is(Phase::Stopped);
    let share = Share { payload: "llm".to_owned(), gpus };
    bench.arbiter.kept.switches = vec![Switch::new(vec![share], vec![], std::time::Duration::ZERO)];
    assert_eq!(bench.wipes(true).await, None, "a change of hands has its own time for that");
    bench.arbiter.kept.switches.clear();
    bench.arbiter.save().await;
    assert_eq!(bench.on_disk().len(), 1);
    for phase in [Phase::Stopped, Phase::Quarantined] {
        bench.is(phase);
        assert_eq!(bench.wipes(false).await.as_deref(), Some("llm"), "{phase:?}");
        assert!(!bench.writes(), "it was there");
        assert_eq!(bench.arbiter.inputs.desk.now().given("llm"), None, "nobody starts it meanwhile");
        assert_eq!(bench.on_disk(), BTreeMap::new());
        assert_eq!(bench.wipes(true).await, None, "once");
        // Somebody started it by another way.
        bench.is(Phase::Running);
        let moment = bench.arbiter.moment();
        bench.arbiter.note_who_runs(&moment).await;
        assert_eq!(bench.on_disk()["llm"].folders, [bench.place.join("private")]);
    }
}

#[tokio::test]
async fn what_cannot_be_removed_is_told_and_tried_again() {
    let mut bench = Bench::new("tries");
    fs::write(bench.place.join("file"), "x").unwrap();
    let left = Left { folders: vec![bench.place.join("file/private")], gpus: vec![] };
    bench.arbiter.kept.left.insert("llm".to_owned(), left);
    assert_eq!(bench.wipes(false).await.as_deref(), Some("llm"));
    assert!(bench.arbiter.wipers.failed["llm"].contains("Not a directory"));
    assert_eq!((bench.wipes(false).await, bench.arbiter.kept.left.len()), (None, 1));
    assert_eq!(bench.wipes(true).await.as_deref(), Some("llm"));
    fs::remove_file(bench.place.join("file")).unwrap();
    assert_eq!(bench.wipes(true).await.as_deref(), Some("llm"));
    assert!(bench.arbiter.wipers.failed.is_empty() && bench.arbiter.kept.left.is_empty());
}

#[tokio::test]
async fn of_one_without_a_manifest_its_cgroup_says_whether_it_runs() {
    let mut bench = Bench::new("gone");
    bench.writes();
    let left = Left { folders: vec![bench.place.join("private")], gpus: vec![] };
    bench.arbiter.kept.left.insert("gone".to_owned(), left);
    let events = bench.place.join("payloads/gone/cgroup.events");
    fs::write(&events, "populated 1\nfrozen 0\n").unwrap();
    assert_eq!(bench.wipes(false).await.as_deref(), Some("gone"));
    assert!(bench.arbiter.wipers.failed["gone"].contains("may still run"));
    assert!(bench.writes(), "it is there");
    fs::write(&events, "populated 0\nfrozen 0\n").unwrap();
    assert_eq!(bench.wipes(true).await.as_deref(), Some("gone"));
    assert!(!bench.writes() && bench.arbiter.kept.left.is_empty());
}

#[test]
fn a_folder_is_one_of_some_and_gpus_are_those_of_now() {
    let mut left = Left::default();
    let gpus = ["G0".to_owned(), "G1".to_owned()];
    for (folder, gpus, is_new, expected) in [
        ("/a", &gpus[..0], true, (1, 0)),
        ("/a", &gpus[..2], true, (1, 2)),
        ("/a", &gpus[..2], false, (1, 2)),
        ("/a", &gpus[..0], false, (1, 2)),
        ("/b", &gpus[..1], true, (2, 1)),
    ] {
        assert_eq!(left.take(Path::new(folder), gpus), is_new, "{folder} {gpus:?}");
        assert_eq!((left.folders.len(), left.gpus.len()), expected, "{folder} {gpus:?}");
    }
    for number in 0..FOLDERS {
        assert!(left.take(Path::new(&format!("/c{number}")), &[]));
    }
    assert_eq!((left.folders.len(), &left.folders[0]), (FOLDERS, &PathBuf::from("/c0")));
}
