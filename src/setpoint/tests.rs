use super::*;
use crate::gpu::plan::tests::card;
use crate::gpu::wire::Device;
use crate::gpu::{Gpu, GpuSnapshot};
use crate::scratch::Scratch;

pub(super) struct Bench {
    state: Scratch,
    board: Arc<Board>,
    gpus: GpuConfig,
}

impl Bench {
    pub(super) fn new(name: &str) -> Self {
        let state = Scratch::new(&format!("setpoint-{name}"));
        let profile = crate::gpu::profile::Profile { name: "eco".to_owned(), ..Default::default() };
        let board = Arc::new(Board::load("frame-12gpu").unwrap());
        let mut gpus = GpuConfig::default();
        gpus.profiles.push(profile);
        Self { state, board, gpus }
    }

    pub(super) fn open(&self) -> (Desk, watch::Receiver<Arc<Setpoints>>) {
        Desk::open(&self.state, &self.board, &self.gpus)
    }

    /// The first zone that holds a temperature.
    fn zone(&self) -> &crate::board::Zone {
        self.board.zones.iter().find(|zone| zone.hold.is_some()).unwrap()
    }
}

fn one_gpu() -> Snapshot {
    let device = Device { uuid: "GPU-a".to_owned(), ..card() };
    let gpu = Gpu { device: Some(Arc::new(device.clone())), ..Gpu::unseen(device.pci) };
    Snapshot { gpus: Arc::new(GpuSnapshot { gpus: vec![gpu], ..GpuSnapshot::default() }), ..Snapshot::default() }
}

#[test]
fn what_was_asked_for_holds_at_the_next_start_too() {
    let bench = Bench::new("keeps");
    let (desk, setpoints) = bench.open();
    let zone = bench.zone().name.clone();
    desk.set_profile(None, Some("eco"), &one_gpu()).unwrap();
    desk.set_profile(Some("GPU-a"), Some("none"), &one_gpu()).unwrap();
    desk.set_target(&zone, Some(45_000)).unwrap();
    desk.assign("llm", &["GPU-a".to_owned()], &one_gpu()).unwrap();
    let maintenance = Maintenance { until_ms: Some(5), resume: vec!["llm".to_owned()], desired: false };
    assert_eq!(desk.set_maintenance(Some(maintenance.clone())), None);
    desk.save().unwrap();
    let again = bench.open().1;
    for setpoints in [setpoints, again] {
        let now = setpoints.borrow();
        assert_eq!((now.profile("GPU-a"), now.profile("GPU-b")), (Some("none"), Some("eco")));
        let target = now.board.zones.iter().find(|known| known.name == zone).unwrap().hold.as_ref().unwrap().target;
        assert_eq!(target, Millicelsius(45_000));
        assert_eq!(now.assigned("llm"), Some(&["GPU-a".to_owned()][..]));
        assert_eq!(now.maintenance(), Some(&maintenance));
    }
    desk.assign("llm", &[], &one_gpu()).unwrap();
    assert_eq!(desk.set_maintenance(None), Some(maintenance));
    desk.set_profile(None, None, &one_gpu()).unwrap();
    desk.set_target(&zone, None).unwrap();
    desk.save().unwrap();
    let now = bench.open().1.borrow().clone();
    assert_eq!((&now.kept, &now.board.zones), (&Kept::default(), &bench.board.zones));
}

#[test]
fn what_this_rig_cannot_do_is_refused_and_changes_nothing() {
    let bench = Bench::new("refuses");
    let (desk, setpoints) = bench.open();
    let (name, critical) = (bench.zone().name.clone(), bench.zone().critical.0);
    for (asked, why) in [
        (desk.set_profile(None, Some("turbo"), &one_gpu()), "there is no profile `turbo`, only: eco"),
        (desk.set_profile(Some("GPU-b"), Some("eco"), &one_gpu()), "there is no GPU GPU-b"),
        (desk.assign("llm", &["GPU-a".to_owned(), "GPU-b".to_owned()], &one_gpu()), "there is no GPU GPU-b"),
        (desk.set_target("attic", Some(45_000)), "there is no zone `attic`"),
        (desk.set_target(&name, Some(critical - ROOM + 1)), "can hold 20000 to"),
        (desk.set_target(&name, Some(COLDEST - 1)), "can hold 20000 to"),
    ] {
        let error = asked.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    assert_eq!(setpoints.borrow().kept, Kept::default());
}

#[test]
fn what_does_not_fit_any_more_is_forgotten() {
    let mut bench = Bench::new("forgets");
    let (desk, _held) = bench.open();
    desk.set_profile(None, Some("eco"), &one_gpu()).unwrap();
    desk.save().unwrap();
    bench.gpus.profiles.clear();
    assert_eq!(bench.open().1.borrow().profile("GPU-a"), None);
}

#[test]
fn a_rig_is_heard_by_turns_and_not_for_ever() {
    let bench = Bench::new("pulses");
    let (desk, setpoints) = bench.open();
    let start = crate::clock::now();
    desk.identify(start, Duration::from_secs(3_600));
    let heard = |s| setpoints.borrow().pulses(start + Duration::from_secs(s));
    assert_eq!([heard(0), heard(3), heard(4), heard(8), heard(600)], [true, true, false, true, false]);
    desk.identify(start, Duration::ZERO);
    assert!(!setpoints.borrow().pulses(start));
}

#[test]
fn what_the_plan_gives_and_the_market_says_is_told_and_not_kept() {
    let bench = Bench::new("market");
    let (desk, mut setpoints) = bench.open();
    setpoints.borrow_and_update();
    let given = BTreeMap::from([("llm".to_owned(), vec!["GPU-a".to_owned()])]);
    let market = Market { until_ms: 5, ..Market::default() };
    for changed in [true, false] {
        desk.set_given(given.clone());
        desk.set_market(Some(&market));
        assert_eq!(setpoints.has_changed().unwrap(), changed);
        let now = setpoints.borrow_and_update();
        assert_eq!((now.given("llm"), now.given("miner")), (Some(&["GPU-a".to_owned()][..]), None));
        assert_eq!(now.market().map(|market| market.until_ms), Some(5));
        assert_eq!(now.assigned("llm"), None);
    }
    desk.save().unwrap();
    let again = bench.open().1;
    assert!(again.borrow().given("llm").is_none() && again.borrow().market().is_none());
}
