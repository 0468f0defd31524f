//! Calls that never come back, one function of each request: the GPU thread in this process, with a deadline that a test can
//! wait for. With the agent itself and its own deadline, one is among `gpu_breaks`.
//!
//! Real: the GPU thread, `rigd-nvml`, the wrapper. Simulated: the library and the cards. What hangs in the kernel no program
//! can play: in its place is one that does not go.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rigd::board::Board;
use rigd::clock::now;
use rigd::config::Config;
use rigd::gpu::helper::{Launch, Program};
use rigd::gpu::{self, Driver, GpuSnapshot, Handle, Limits, Order, Phase, Places, Presence};
use rigd::units::Duty;
use rigd_sim::{Options, Sim};

use crate::agent::{Scratch, until, until_within};
use crate::gpu_breaks::{library, setup};
use crate::gpu_matrix::rigs;

/// Far beyond what a call of the simulated driver takes on a busy machine, which is some milliseconds.
const DEADLINE: Duration = Duration::from_secs(3);
/// The same of what brings it up, which is a process and some calls.
const START: Duration = Duration::from_secs(8);
/// Some helpers that hang, each with the wait before the next one.
const PATIENCE: Duration = Duration::from_secs(150);
/// Between two orders.
const TICK: Duration = Duration::from_millis(100);
const ILL: usize = 3;

struct Rig {
    sim: Sim,
    gpus: Handle,
    _scratch: Scratch,
}

impl Rig {
    fn new(faults: &[&str]) -> Self {
        Self::with(faults, |_| Program::Run(env!("CARGO_BIN_EXE_rigd-nvml").into()))
    }

    /// The same with another helper, for which there is a place in that directory.
    fn with(faults: &[&str], helper: impl Fn(&Path) -> Program) -> Self {
        let scratch = Scratch::new("gpus");
        let dir = scratch.path.join("rig");
        let sim = Sim::start(&Board::load("simulated-8gpu").unwrap(), &dir, Options::default()).unwrap();
        for fault in faults {
            sim.control(fault).unwrap();
        }
        let text = format!("rig = \"rig-1\"\nboard = \"x\"\nstate = {:?}\n{}", scratch.path, setup().broker);
        let config = Config::parse("rigd.toml", &text, "host").unwrap();
        let launch = Launch {
            program: helper(&scratch.path),
            library: Some(library()),
            simulation: Some(dir.clone()),
            start: START,
            deadline: DEADLINE,
        };
        let places = Places { launch: Some(launch), sysfs: dir.join("sys"), kmsg: dir.join("kmsg") };
        let gpus = gpu::spawn(places, &config).unwrap();
        Self { sim, gpus, _scratch: scratch }
    }

    /// Orders as control does until this is true.
    fn until(&self, what: &str, good: impl Fn(&GpuSnapshot) -> bool) -> Arc<GpuSnapshot> {
        until_within(PATIENCE, what, || {
            let drive = Some(Duty::from_percent(60).unwrap());
            self.gpus.order(
                Order { fans: vec![drive; 8], limits: vec![Some(Limits::default()); 8], ..Order::default() },
                now(),
            );
            thread::park_timeout(TICK);
            let snapshot = self.gpus.snapshot();
            good(&snapshot).then_some(snapshot)
        })
    }

    fn by_hand(&self, gpu: usize) -> bool {
        let world = self.sim.control("get world").unwrap();
        let key = format!("gpu.{gpu}.manual=");
        world.lines().any(|line| line.starts_with(&key) && line.contains("true"))
    }

    /// After the end no fan is driven by hand, whatever hung.
    fn ends(self, what: &str) {
        let Self { sim, gpus, _scratch } = self;
        // Whether all was given back is not asked: a GPU that is left alone keeps its settings.
        let _ = gpus.leave().recv_timeout(Duration::from_secs(20)).expect("the GPU thread ends");
        let world = sim.control("get world").unwrap();
        let by_hand: Vec<&str> =
            world.lines().filter(|line| line.contains(".manual=") && line.contains("true")).collect();
        assert!(by_hand.is_empty(), "{what}: {by_hand:?}");
    }
}

fn well(snapshot: &GpuSnapshot, gpu: usize) -> bool {
    let gpu = &snapshot.gpus[gpu];
    gpu.presence == Presence::Seen
        && gpu.sample.is_ok()
        && matches!(gpu.profile.phase, Phase::Probation | Phase::Committed)
}

fn all_well(snapshot: &GpuSnapshot) -> bool {
    snapshot.gpus.len() == 8 && (0..8).all(|gpu| well(snapshot, gpu))
}

#[test]
fn a_function_that_hangs_costs_one_gpu_whichever_it_is() {
    let rows = [
        ("GetHandleByPciBusId_v2", false),
        ("GetName", false),
        ("GetUtilizationRates", false),
        ("GetComputeRunningProcesses_v3", false),
        ("GetPersistenceMode", false),
        ("SetPowerManagementLimit", false),
        ("SetFanSpeed_v2", false),
        ("GetFieldValues", true),
        ("GetFanControlPolicy_v2", true),
    ];
    rigs(&rows, |(function, later)| {
        let fault = format!("fault gpu {ILL} {function} hang");
        let rig = if *later { Rig::new(&[]) } else { Rig::new(&[&fault]) };
        if *later {
            rig.until("the profile is set", all_well);
            until("fans are driven", || rig.by_hand(ILL).then_some(()));
            rig.sim.control(&fault).unwrap();
        }
        rig.until(&format!("{function}: one is left alone, the others go on"), |snapshot| {
            snapshot.gpus.len() == 8
                && snapshot.gpus[ILL].presence == Presence::Hung
                && (0..8).all(|gpu| gpu == ILL || well(snapshot, gpu))
        });
        rig.until("its fans are the driver's, the others' are driven", |_| {
            (0..8).all(|gpu| rig.by_hand(gpu) == (gpu != ILL))
        });
        rig.ends(function);
    });
}

/// While nothing that drives fans can be kept up, they are the driver's.
#[test]
fn no_helper_that_stays_is_no_fan_by_hand() {
    let rig = Rig::new(&[]);
    rig.until("the profile is set", all_well);
    until("fans are driven", || (0..8).all(|gpu| rig.by_hand(gpu)).then_some(()));
    rig.sim.control("fault gpu all GetName segv").unwrap();
    rig.sim.control("fault gpu 7 GetUtilizationRates segv").unwrap();
    rig.until("the next helper's first word gives them back", |_| (0..8).all(|gpu| !rig.by_hand(gpu)));
    rig.sim.control("clear gpu").unwrap();
    rig.ends("GetName");
}

/// Nobody is asked anything yet when it hangs, so nobody is left alone for it.
#[test]
fn a_driver_that_hangs_as_it_is_brought_up_is_given_up_and_tried_again() {
    let rig = Rig::new(&["fault nvml init hang"]);
    let found = rig.until("it is waited for", |snapshot| snapshot.driver == Driver::Starting);
    let unseen = |snapshot: &GpuSnapshot| {
        snapshot.gpus.len() == 8 && snapshot.gpus.iter().all(|gpu| gpu.presence == Presence::Unseen)
    };
    assert!(unseen(&found), "the PCI bus is not the driver's: {found:?}");
    let found = rig.until("it is given up", |snapshot| snapshot.driver == Driver::Down(0));
    assert!(unseen(&found), "{found:?}");
    rig.sim.control("clear nvml").unwrap();
    rig.until("it comes up", all_well);
    until("fans are driven", || (0..8).all(|gpu| rig.by_hand(gpu)).then_some(()));
    // In the middle of everything, with fans driven: those are given back by the next one that comes up.
    rig.sim.control("fault nvml init hang").unwrap();
    rig.sim.control("fault gpu 7 GetUtilizationRates segv").unwrap();
    rig.until("it is given up again", |snapshot| snapshot.driver == Driver::Down(0) && all_lost(snapshot));
    rig.sim.control("clear nvml").unwrap();
    rig.sim.control("clear gpu").unwrap();
    rig.until("it comes up again", all_well);
    rig.ends("init");
}

fn all_lost(snapshot: &GpuSnapshot) -> bool {
    snapshot.gpus.len() == 8 && snapshot.gpus.iter().all(|gpu| gpu.sample.is_err())
}

/// As one that hangs in the kernel, where nothing ends it: behind its socket is somebody who says nothing and does not go.
#[test]
fn a_helper_that_hangs_as_it_starts_and_cannot_be_ended_has_no_second_one_beside_it() {
    let helpers = Arc::new(AtomicU32::new(0));
    let rig = Rig::with(&[], |directory| {
        let path = directory.join("helper.sock");
        let (listener, helpers) = (UnixListener::bind(&path).unwrap(), Arc::clone(&helpers));
        thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                held.push(stream.unwrap());
                helpers.fetch_add(1, Ordering::SeqCst);
            }
        });
        Program::Connect(path)
    });
    let hung = rig.until("it is given up", |snapshot| snapshot.driver == Driver::Hung);
    assert!(hung.gpus.len() == 8 && hung.gpus.iter().all(|gpu| gpu.presence == Presence::Unseen), "{hung:?}");
    let mut last = hung.taken;
    for _ in 0..5 {
        last = rig.until("passes go on", |snapshot| snapshot.taken > last && snapshot.driver == Driver::Hung).taken;
    }
    assert_eq!(helpers.load(Ordering::SeqCst), 1);
    rig.ends("a helper that does not go");
}
