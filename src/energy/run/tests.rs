use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use super::*;
use crate::energy::{Line, QUARTER, records, verify};
use crate::reading::Power;

const SECOND: Duration = Duration::from_secs(1);

fn mw(watts: u32) -> Reading<Milliwatts> {
    Ok(Milliwatts(watts * 1_000))
}

fn power(power: Reading<Milliwatts>) -> Power {
    Power { power, ..Power::missing(Missing::NotPresent) }
}

#[test]
fn the_rig_is_its_inputs_or_else_its_rails_or_else_its_gpus() {
    let full = Board::load("simulated-8gpu").unwrap();
    let rails = Board { supplies: Vec::new(), ..full.clone() };
    let bare = Board { rails: Vec::new(), ..rails.clone() };
    let bus = Err(Missing::Bus);
    let off = Err(Missing::Off);
    for (board, supplies, parts, expected) in [
        (&full, vec![mw(700), mw(500)], vec![mw(9)], (Basis::Input, mw(1_200))),
        (&full, vec![mw(700), bus], vec![mw(9)], (Basis::Input, bus)),
        (&full, vec![mw(700), off], vec![mw(9)], (Basis::Input, off)),
        (&full, vec![], vec![mw(9)], (Basis::Input, Err(Missing::NotPresent))),
        (&rails, vec![], vec![mw(9), mw(2)], (Basis::Rails, mw(11))),
        (&rails, vec![], vec![mw(9), bus], (Basis::Rails, bus)),
        (&bare, vec![], vec![mw(9)], (Basis::Gpus, Err(Missing::NotPresent))),
    ] {
        let snapshot = Snapshot {
            supplies: supplies.iter().map(|input| [power(*input), power(bus)]).collect(),
            rails: parts.iter().map(|part| power(*part)).collect(),
            ..Snapshot::default()
        };
        assert_eq!(rig(board, &snapshot), expected, "{supplies:?} {parts:?}");
        if expected.0 == Basis::Input {
            assert_eq!(snapshot.input(), expected.1, "what is held to a cap is what is counted");
        }
    }
}

#[test]
fn a_gpu_that_the_driver_does_not_tell_of_is_a_gap_of_whoever_has_it() {
    let mut status = crate::payload::supervisor::Status::of("llm");
    status.gpus = vec!["GPU-1".to_owned()];
    let with = |status: &crate::payload::supervisor::Status| {
        let payloads = Arc::new(crate::payload::supervisor::Payloads(vec![status.clone()]));
        Snapshot { payloads, ..Snapshot::default() }
    };
    let at_rest = with(&status);
    assert_eq!((gpus(&at_rest), payloads(&at_rest)), (vec![], vec![]), "nobody works");
    status.phase = crate::payload::lifecycle::Phase::Running;
    let working = with(&status);
    let silent = Missing::NotPresent;
    let expected = Gpu { uuid: "GPU-1", power: Err(silent), energy: Err(silent), payload: Some("llm") };
    assert_eq!((gpus(&working), payloads(&working)), (vec![expected], vec![("llm", None)]));
    let rate = Some(7_000);
    status.sample = Some(crate::payload::supervisor::Sample { rate, ..Default::default() });
    assert_eq!(payloads(&with(&status)), [("llm", Some(MilliPerSecond(7_000)))]);
    status.belief = crate::payload::meter::Flag::Frozen;
    assert_eq!(payloads(&with(&status)), [("llm", None)], "a number that nobody refreshes is no work");
}

/// After a start that has found this.
fn started(found: Kept) -> Keeper {
    let mut keeper = Keeper::new(Key::of(&[3; 32]));
    keeper.adopt((found, None));
    keeper
}

/// A keeper whose disk is a directory, by hand: what the task does, without its channels.
struct Site {
    directory: PathBuf,
    board: Board,
    keeper: Keeper,
    store: Option<Store>,
    kept: watch::Sender<Arc<Kept>>,
    start: Instant,
    unix_ms: u64,
}

impl Site {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("rigd-energy-run-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        let keeper = started(Kept::default());
        let (kept, _) = watch::channel(Arc::default());
        let board = Board::load("simulated-8gpu").unwrap();
        Self { directory, board, keeper, store: None, kept, start: clock::now(), unix_ms: 1_000_000 * QUARTER }
    }

    /// A second of 500 W at each supply, and what the disk does in it.
    async fn second(&mut self) {
        self.tick();
        if let Some(job) = self.keeper.due(self.start) {
            self.done(job).await;
        }
    }

    async fn done(&mut self, job: Job) {
        let done = job.start(self.store.take(), self.directory.clone()).await.unwrap();
        self.store = self.keeper.done(done, &self.kept);
    }

    fn tick(&mut self) {
        self.start += SECOND;
        self.unix_ms += 1_000;
        let supplies = self.board.supplies.iter().map(|_| [power(mw(500)), power(mw(450))]).collect();
        let snapshot = Snapshot { supplies, ..Snapshot::default() };
        let moment = Moment { unix_ms: self.unix_ms, boot: 1, since_boot_ms: self.unix_ms };
        self.keeper.tick(&self.board, &snapshot, self.start, moment);
    }

    /// What was kept cannot be read.
    fn hide(&self) {
        let (energy, aside) = (self.directory.join("energy"), self.directory.join("aside"));
        fs::rename(&energy, aside).unwrap();
        fs::create_dir_all(energy).unwrap();
    }

    fn show(&self) {
        let (energy, aside) = (self.directory.join("energy"), self.directory.join("aside"));
        fs::remove_dir_all(&energy).unwrap();
        fs::rename(aside, energy).unwrap();
    }

    /// An agent whose start could not read what was kept.
    fn unread(&mut self) {
        (self.keeper, self.store) = (Keeper::new(Key::of(&[3; 32])), None);
    }

    fn joules(&self) -> u64 {
        self.kept.borrow().books.rig.energy.0 / 1_000_000
    }
}

#[tokio::test]
async fn a_disk_that_takes_nothing_stops_neither_counting_nor_the_chain() {
    let mut site = Site::new("full");
    let watts = u64::try_from(site.board.supplies.len()).unwrap() * 500;
    let (sender, mut receiver) = mpsc::channel(RECEIPTS);
    // What cannot be opened, for as long as it is there.
    fs::create_dir_all(site.directory.join("energy")).unwrap();
    for _ in 0..2_000 {
        site.second().await;
        site.keeper.send(&sender);
    }
    assert!(site.keeper.told && site.store.is_none());
    assert!(site.joules() >= watts * 1_980, "shown all the same: {}", site.joules());
    assert!(receiver.try_recv().is_err(), "what is not on the disk is not sent");
    fs::remove_dir_all(site.directory.join("energy")).unwrap();
    for _ in 0..30 {
        site.second().await;
        site.keeper.send(&sender);
    }
    assert!(!site.keeper.told);
    let found = Kept::read(&site.directory).unwrap();
    assert!(found.books.rig.energy.0 / 1_000_000 >= watts * 2_010, "nothing is missing");
    let all = records(&site.directory).unwrap();
    let intervals: Vec<_> = all.iter().map(|one| one.interval().unwrap()).collect();
    // The first was closed in time, the second when the disk worked again.
    let from = 1_000_000 * QUARTER;
    assert_eq!(intervals.iter().map(|one| one.to_ms - from).collect::<Vec<_>>(), [QUARTER, intervals[1].to_ms - from]);
    assert!(intervals[1].from_ms == from + QUARTER && intervals[1].to_ms > from + 2_000_000, "{intervals:?}");
    assert_eq!(verify(&all, site.keeper.key.as_ref().map(Key::public).as_ref()), Ok(()));
    assert_eq!([receiver.try_recv().unwrap(), receiver.try_recv().unwrap()], [all[0].clone(), all[1].clone()]);
    fs::remove_dir_all(&site.directory).unwrap();
}

#[tokio::test]
async fn what_is_shown_never_shrinks_however_often_it_is_killed_and_little_is_lost() {
    let mut site = Site::new("killed");
    let watts = u64::try_from(site.board.supplies.len()).unwrap() * 500;
    let (mut shown, mut lost) = (0, 0);
    for kill in 1..=20_u64 {
        for _ in 0..kill * 7 % 33 {
            site.second().await;
            assert!(site.joules() >= shown, "{} after {shown}", site.joules());
            shown = site.joules();
        }
        let counted = site.keeper.counting.books.rig.energy.0 / 1_000_000;
        // Killed: nothing is kept but what is on the disk. The next one is there three seconds later.
        let found = Kept::read(&site.directory).unwrap();
        let known = found.books.rig.energy.0 / 1_000_000;
        assert!(known >= shown && counted - known <= watts * SAVE_EVERY.as_secs(), "{known} of {counted}");
        lost += counted - known;
        site.store = None;
        site.keeper = started(found);
        site.start += SECOND * 3;
        site.unix_ms += 3_000;
    }
    site.second().await;
    let books = &site.keeper.counting.books;
    let all = site.unix_ms - 1_000_000 * QUARTER;
    // From its first second on everything is counted, or said to be missing.
    assert_eq!(books.rig.counted_ms + books.rig.gap_ms, all - 1_000);
    assert_eq!(books.rig.energy.0, books.rig.counted_ms * watts * 1_000);
    assert!(lost > 0 && lost <= 20 * watts * SAVE_EVERY.as_secs());
    fs::remove_dir_all(&site.directory).unwrap();
}

#[tokio::test]
async fn receipts_wait_where_the_publisher_has_no_room_and_the_newest_goes_out_again_after_a_start() {
    let mut site = Site::new("waits");
    let (sender, mut receiver) = mpsc::channel(1);
    for _ in 0..3_000 {
        site.second().await;
        site.keeper.send(&sender);
    }
    let all = records(&site.directory).unwrap();
    assert_eq!((all.len(), site.keeper.unsent.as_ref()), (2, all.last()), "no third interval is closed");
    assert_eq!(receiver.try_recv().ok().as_ref(), all.first());
    site.keeper.send(&sender);
    assert_eq!((receiver.try_recv().ok().as_ref(), &site.keeper.unsent), (all.last(), &None));
    site.second().await;
    let all = records(&site.directory).unwrap();
    assert_eq!(all.len(), 3, "the open one had grown");
    assert_eq!(Kept::newest(&site.directory).unwrap().as_ref(), all.last(), "what a start sends once more");
    let intervals: Vec<_> = all.iter().map(|one| one.interval().unwrap()).collect();
    assert!(intervals.windows(2).all(|pair| pair[0].to_ms == pair[1].from_ms), "{intervals:?}");
    let names = |lines: &[Line]| lines.iter().map(|line| line.name.clone()).collect::<Vec<_>>();
    let supplies: Vec<String> = site.board.supplies.iter().map(|supply| supply.name.clone()).collect();
    assert_eq!(names(&intervals[1].supplies), supplies);
    fs::remove_dir_all(&site.directory).unwrap();
}

#[tokio::test]
async fn books_that_can_be_read_late_are_the_ones_that_hold() {
    let mut site = Site::new("late");
    for _ in 0..61 {
        site.second().await;
    }
    let before = Kept::read(&site.directory).unwrap();
    assert!(before.books.rig.energy.0 > 0);
    // The next agent could not read them.
    site.unread();
    for _ in 0..15 {
        site.second().await;
        let now = Kept::read(&site.directory).unwrap();
        assert!(now.books.rig.energy >= before.books.rig.energy && now.records >= before.records);
    }
    let after = Kept::read(&site.directory).unwrap();
    assert!(after.books.rig.energy > before.books.rig.energy && after.books.rig.gap_ms > 0, "{after:?}");
    fs::remove_dir_all(&site.directory).unwrap();
}

#[tokio::test]
async fn a_young_chain_that_is_found_late_is_gone_on_with_and_never_begun_again() {
    let mut site = Site::new("young");
    let watts = u64::try_from(site.board.supplies.len()).unwrap() * 500;
    for _ in 0..1_000 {
        site.second().await;
        // The publisher takes everything.
        site.keeper.unsent = None;
    }
    let before = Kept::read(&site.directory).unwrap();
    assert_eq!(before.records, 1);
    // The next agent cannot read them for longer than the last one has run, over the end of an interval.
    site.hide();
    site.unread();
    for _ in 0..1_500 {
        site.second().await;
    }
    assert!(site.keeper.told);
    assert_eq!(site.joules(), before.books.rig.energy.0 / 1_000_000, "what is shown never shrinks");
    site.show();
    for _ in 0..1_000 {
        site.second().await;
        site.keeper.unsent = None;
    }
    assert!(!site.keeper.told);
    let after = Kept::read(&site.directory).unwrap();
    let all = records(&site.directory).unwrap();
    let numbers: Vec<u64> = all.iter().map(|one| one.interval().unwrap().index).collect();
    assert!(after.records >= 3 && numbers == (0..after.records).collect::<Vec<_>>(), "each number once: {numbers:?}");
    assert_eq!((verify(&all, None), all.first().map(|one| one.hash)), (Ok(()), Some(before.chain)));
    // All of the time but the seconds of the killed one that it had not written, and their energy.
    let gap = after.books.rig.gap_ms;
    assert!(after.books.rig.energy.0 / 1_000_000 >= watts * 3_470, "{after:?}");
    assert!(gap <= 12_000 && after.books.rig.counted_ms + gap >= 3_485_000, "{after:?}");
    assert_eq!(after.books.rig.energy.0, after.books.rig.counted_ms * watts * 1_000);
    let supply = &after.books.supplies[0];
    assert_eq!((supply.1.counted_ms, supply.2.counted_ms), (after.books.rig.counted_ms, after.books.rig.counted_ms));
    fs::remove_dir_all(&site.directory).unwrap();
}

#[tokio::test]
async fn a_disk_that_hangs_is_told_of_and_what_is_counted_is_shown() {
    let mut site = Site::new("hangs");
    let watts = u64::try_from(site.board.supplies.len()).unwrap() * 500;
    for _ in 0..20 {
        site.second().await;
    }
    site.tick();
    let hangs = site.keeper.due(site.start).unwrap();
    let before = site.joules();
    let mut shown = before;
    for second in 1..=1_000_u64 {
        site.tick();
        site.keeper.waits(site.start, &site.kept);
        assert!(site.joules() >= shown);
        shown = site.joules();
        match second {
            0..60 => assert!(!site.keeper.told && shown == before, "patience, second {second}"),
            _ => assert!(site.keeper.told && shown + 10 * watts >= (19 + second) * watts, "second {second}: {shown}"),
        }
    }
    assert!(site.keeper.waiting.is_some(), "an interval has ended meanwhile, and waits");
    site.done(hangs).await;
    assert!(!site.keeper.told && site.joules() >= shown, "what is shown never shrinks");
    let job = site.keeper.due(site.start).unwrap();
    site.done(job).await;
    let found = Kept::read(&site.directory).unwrap();
    assert_eq!((found.books.rig.energy.0 / 1_000_000, found.records), (1_020 * watts, 1));
    assert_eq!(found.books.rig.gap_ms, 0);
    fs::remove_dir_all(&site.directory).unwrap();
}

/// The task itself, where reading what was kept hangs: a pipe that nobody writes to.
#[tokio::test]
async fn counting_begins_where_the_disk_hangs_at_the_start() {
    let mut site = Site::new("start");
    for _ in 0..31 {
        site.second().await;
    }
    let before = Kept::read(&site.directory).unwrap();
    let (books, aside) = (site.directory.join("energy"), site.directory.join("aside"));
    fs::rename(&books, &aside).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &books,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let supplies: Vec<_> = site.board.supplies.iter().map(|_| [power(mw(500)), power(mw(450))]).collect();
    let snapshot = Arc::new(Snapshot { supplies, ..Snapshot::default() });
    let (ticks, of_control) = watch::channel(Arc::clone(&snapshot));
    let (kept, shown) = watch::channel(Arc::default());
    let (receipts, mut made) = mpsc::channel(RECEIPTS);
    let inputs = Inputs {
        state: site.directory.clone(),
        board: Arc::new(site.board.clone()),
        snapshot: of_control,
        kept,
        receipts,
        key: Key::of(&[3; 32]),
    };
    let task = tokio::spawn(run(inputs));
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for _ in 0..60 {
        tick.tick().await;
        ticks.send_replace(Arc::clone(&snapshot));
        // Each is counted before the next one, and before the disk answers.
        tokio::task::yield_now().await;
    }
    assert_eq!(super::shown(&shown.borrow()), None, "nobody knows yet how much it is");
    // The disk answers: with what was kept, through the pipe. That can be opened once somebody waits at its other end.
    let end = clock::now() + Duration::from_secs(30);
    let mut pipe = loop {
        assert!(clock::now() < end, "nobody reads");
        let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
        match fs::OpenOptions::new().write(true).custom_flags(flags).open(&books) {
            Ok(pipe) => break pipe,
            Err(_) => drop(tick.tick().await),
        }
        ticks.send_replace(Arc::clone(&snapshot));
    };
    fs::rename(&aside, &books).unwrap();
    pipe.write_all(&fs::read(&books).unwrap()).unwrap();
    drop(pipe);
    while super::shown(&shown.borrow()).is_none() {
        assert!(clock::now() < end, "never read");
        tick.tick().await;
        ticks.send_replace(Arc::clone(&snapshot));
    }
    let first = shown.borrow().books.rig;
    let watts = u64::try_from(site.board.supplies.len()).unwrap() * 500;
    let more = first.energy.0 - before.books.rig.energy.0;
    assert!(more > 0, "what was counted while it hung is on top");
    assert_eq!(more, (first.counted_ms - before.books.rig.counted_ms) * watts * 1_000);
    drop(ticks);
    task.await.unwrap();
    let after = Kept::read(&site.directory).unwrap();
    assert!(after.books.rig.energy >= first.energy && after.records >= before.records, "{after:?}");
    while made.try_recv().is_ok() {}
    fs::remove_dir_all(&site.directory).unwrap();
}

/// Where a file system may be mounted; elsewhere the directory in the way stands in for it.
#[tokio::test]
async fn a_full_disk_takes_what_waited_as_soon_as_there_is_room() {
    let mut site = Site::new("enospc");
    let flags = rustix::mount::MountFlags::empty();
    if let Err(error) = rustix::mount::mount("none", &site.directory, "tmpfs", flags, Some(c"size=64k")) {
        log::warn!("skipped, no file system can be mounted: {error}");
        return;
    }
    for _ in 0..30 {
        site.second().await;
    }
    let filler = site.directory.join("filler");
    let filled = fs::write(&filler, vec![0; 1 << 20]).unwrap_err().kind();
    assert_eq!(filled, std::io::ErrorKind::StorageFull);
    // What is left of the last page still takes some.
    for _ in 0..1_500 {
        site.second().await;
    }
    assert!(site.keeper.told);
    let (shown, disk) = (site.joules(), Kept::read(&site.directory).unwrap().books.rig.energy.0 / 1_000_000);
    assert!(shown > disk && disk > 0, "{shown} {disk}");
    fs::remove_file(&filler).unwrap();
    for _ in 0..12 {
        site.second().await;
    }
    assert!(!site.keeper.told);
    let found = Kept::read(&site.directory).unwrap();
    assert!(found.books.rig.energy.0 / 1_000_000 > shown && found.books.rig.gap_ms == 0);
    assert_eq!(verify(&records(&site.directory).unwrap(), None), Ok(()));
    site.store = None;
    rustix::mount::unmount(&site.directory, rustix::mount::UnmountFlags::DETACH).unwrap();
    fs::remove_dir_all(&site.directory).unwrap();
}
