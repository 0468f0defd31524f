//! GPUs that are granted, and work that is measured: kept over agents, learnt from, and doubted.

use std::fs;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rigd::board::Board;
use rigd::gpu::wire::{Code, Device};
use rigd::gpu::{self, GpuSnapshot, Presence};
use rigd::payload::lifecycle::{Cause, Phase};
use rigd::payload::manifest::Manifest;
use rigd::payload::meter::{Flag, Unit};
use rigd::payload::supervisor::{self, Hooks, Meter, NoGrant, Sample, Status, What};
use rigd::payload::{self, Gpu, Grant};
use rigd::reading::{Missing, Reading, Snapshot};
use rigd::setpoint::Setpoints;
use rigd::units::Milliwatts;
use tokio::sync::{mpsc, watch};

use super::rig::{Rig, block_on, cgroup, directory, script};

/// Gives two GPUs to everybody, and counts up.
struct Two;

impl Hooks for Two {
    fn grant(&self, _: &Manifest) -> Result<Grant, NoGrant> {
        let gpu = |uuid: &str, node: &str| Gpu { uuid: uuid.to_owned(), nodes: vec![node.into()] };
        Ok(Grant { gpus: vec![gpu("GPU-a", "/dev/null"), gpu("GPU-b", "/dev/zero")] })
    }

    fn power(&self, gpus: &[Gpu]) -> Reading<Milliwatts> {
        assert_eq!(gpus.len(), 2);
        Ok(Milliwatts(500_000))
    }

    fn quarantined(&self, manifest: &Manifest) {
        panic!("{} works", manifest.name);
    }

    fn meter(&self, manifest: &Manifest, counters: &[u64]) -> Option<Box<dyn Meter>> {
        assert_eq!(manifest.meter.as_ref().map(|meter| meter.name.as_str()), Some("count"));
        Some(Box::new(Count(counters.first().copied().unwrap_or(100))))
    }
}

struct Count(u64);

impl Meter for Count {
    fn unit(&self) -> Unit {
        Unit::Jobs
    }

    fn read(&mut self) -> Pin<Box<dyn Future<Output = Option<Sample>> + Send + '_>> {
        self.0 += 1;
        let sample = Sample { rate: Some(self.0 * 1_000), counters: vec![self.0], told: None };
        Box::pin(async { Some(sample) })
    }
}

#[test]
fn it_is_given_its_gpus_and_measured_across_agents() {
    block_on(async {
        let more = "[gpus]\ncount = 2\n[meter]\nname = \"count\"\ninterval_s = 1\n[expect]\nrate = 1\nwarmup_s = 0";
        let manifest = || script("gpus", "echo $CUDA_VISIBLE_DEVICES; exec sleep 1000", more);
        let two = |inputs: &mut supervisor::Inputs| inputs.hooks = Arc::new(Two);
        let rig = Rig::with(directory("gpus"), cgroup("gpus"), vec![manifest()], two);
        rig.start("gpus").await.unwrap();
        rig.until_said("gpus", "GPU-a,GPU-b\n").await;
        let counted = |least: u64| {
            move |status: &Status| status.sample.as_ref().is_some_and(|sample| sample.counters[0] >= least)
        };
        let status = rig.until("gpus", counted(102)).await;
        assert_eq!((status.phase, status.gpus.len()), (Phase::Running, 2));
        let (place, group) = rig.leave().await;
        let rig = Rig::with(place, group, vec![manifest()], two);
        // The next agent's meter goes on where this one was.
        let status = rig.until("gpus", counted(103)).await;
        assert_eq!((status.adopted, status.gpus.len()), (true, 2));
        assert!(rig.stop("gpus").await.gpus.is_empty());
        rig.end().await;
    });
}

/// A rig with two GPUs that answer.
fn two_gpus() -> Snapshot {
    const NO: Code = Code::NOT_SUPPORTED;
    let gpu = |number: u8| {
        let device = Device {
            pci: format!("0000:0{number}:00.0").parse().unwrap(),
            uuid: format!("GPU-{number}"),
            name: "simulated".to_owned(),
            serial: Err(NO),
            vbios: Err(NO),
            minor: Err(NO),
            architecture: Err(NO),
            memory: Err(NO),
            limits: Err(NO),
            default_limit: Err(NO),
            max_sm_clock: Err(NO),
            max_memory_clock: Err(NO),
            memory_clocks: Err(NO),
            core_offsets: Err(NO),
            memory_offsets: Err(NO),
            fans: 0,
            fan_drive: Err(NO),
            slowdown: Err(NO),
            shutdown: Err(NO),
            pcie_max_generation: Err(NO),
            pcie_max_width: Err(NO),
        };
        let unseen = gpu::Gpu::unseen(device.pci);
        gpu::Gpu { device: Some(Arc::new(device)), presence: Presence::Seen, ..unseen }
    };
    Snapshot { gpus: Arc::new(GpuSnapshot { gpus: vec![gpu(1), gpu(2)], ..Default::default() }), ..Default::default() }
}

#[test]
fn two_that_start_at_the_same_moment_never_get_the_same_gpu() {
    block_on(async {
        let names = ["first", "second"];
        let one = |name| script(name, "exec sleep 1000", "autostart = true\n[gpus]\ncount = 1");
        let (_snapshots, snapshot) = watch::channel(Arc::new(two_gpus()));
        let setpoints = Setpoints::none(Arc::new(Board::load("simulated-8gpu").unwrap()));
        let (_asked, setpoints) = watch::channel(Arc::new(setpoints));
        let rig = Rig::with(directory("both"), cgroup("both"), names.map(one).into(), |inputs| {
            let payloads = inputs.payloads.subscribe();
            inputs.hooks = Arc::new(payload::rig::Rig::new(snapshot, payloads, setpoints, mpsc::channel(1).0));
        });
        let mut gpus = Vec::new();
        for name in names {
            gpus.extend(rig.until(name, |status| status.phase == Phase::Running).await.gpus);
        }
        assert_eq!(gpus, ["GPU-1", "GPU-2"]);
        for name in names {
            rig.stop(name).await;
        }
        rig.end().await;
    });
}

/// FNV-1a, as the agent's: what was learnt by one version holds in the next.
fn mark(parts: &[&str]) -> u32 {
    let hash = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    parts.join("\0").bytes().fold(0x811c_9dc5, hash)
}

#[test]
fn what_was_learnt_is_expected_until_a_person_clears_it() {
    block_on(async {
        let body = "exec sleep 1000";
        let more = "[gpus]\ncount = 2\n[meter]\nname = \"count\"\ninterval_s = 1\n[expect]\nwarmup_s = 0";
        let manifest = || {
            let text = format!("kind = \"mining\"\nargv = [\"/bin/sh\", \"-c\", \"{body}\"]\n{}{more}", user());
            Manifest::parse("learnt", "learnt", &text).unwrap()
        };
        let two = |inputs: &mut supervisor::Inputs| inputs.hooks = Arc::new(Two);
        let place = directory("learnt");
        let home = place.join("payloads/learnt");
        fs::create_dir_all(&home).unwrap();
        for path in [&home, &place.join("payloads")] {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        }
        let of = mark(&["/bin/sh", "-c", body, "count", "GPU-a", "GPU-b"]);
        fs::write(home.join("learnt.json"), format!("{{\"of\":{of},\"figures\":[2000000,1,2000000]}}")).unwrap();
        let rig = Rig::with(place, cgroup("learnt"), vec![manifest()], two);
        rig.start("learnt").await.unwrap();
        let status = rig.until("learnt", |status| status.phase == Phase::Degraded).await;
        assert_eq!(status.expected, Some(2_000_000));
        rig.order("learnt", What::Clear).await.unwrap();
        let status = rig.until("learnt", |status| status.phase == Phase::Running).await;
        assert_eq!(status.expected, None);
        let kept = fs::read_to_string(rig.directory.join("payloads/learnt/learnt.json")).unwrap();
        assert!(kept.contains(&format!("\"of\": {of}")) && !kept.contains("2000000"), "{kept}");
        rig.stop("learnt").await;
        rig.end().await;
    });
}

/// Its first meter hangs after two answers. Those after it do not.
#[derive(Default)]
struct Hangs(AtomicU32);

impl Hooks for Hangs {
    fn grant(&self, _: &Manifest) -> Result<Grant, NoGrant> {
        Ok(Grant::default())
    }

    fn power(&self, _: &[Gpu]) -> Reading<Milliwatts> {
        Err(Missing::NotPresent)
    }

    fn quarantined(&self, _: &Manifest) {}

    fn meter(&self, _: &Manifest, _: &[u64]) -> Option<Box<dyn Meter>> {
        Some(Box::new(Answers { hangs: self.0.fetch_add(1, Ordering::Relaxed) == 0, asked: 0 }))
    }
}

/// One that hangs says by turns nothing at all and no rate.
struct Answers {
    hangs: bool,
    asked: u32,
}

impl Meter for Answers {
    fn unit(&self) -> Unit {
        Unit::Hashes
    }

    fn read(&mut self) -> Pin<Box<dyn Future<Output = Option<Sample>> + Send + '_>> {
        self.asked += 1;
        let works = !self.hangs || self.asked <= 2;
        let sample = Sample { rate: works.then_some(9_000), counters: vec![], told: None };
        let says = works || self.asked.is_multiple_of(2);
        Box::pin(async move { says.then_some(sample) })
    }
}

#[test]
fn one_whose_meter_falls_silent_is_started_again() {
    block_on(async {
        let more = "[meter]\nname = \"answers\"\ninterval_s = 1\n[expect]\nrate = 9\nwarmup_s = 0\nlow_s = 10";
        let hangs = |inputs: &mut supervisor::Inputs| inputs.hooks = Arc::new(Hangs::default());
        let manifest = script("silent", "exec sleep 1000", more);
        let rig = Rig::with(directory("silent"), cgroup("silent"), vec![manifest], hangs);
        rig.start("silent").await.unwrap();
        let pid = rig.until("silent", |status| status.sample.is_some()).await.pid;
        // What it said before is not what it says.
        rig.until("silent", |status| status.phase == Phase::Degraded && status.sample.is_none()).await;
        let works = |status: &Status| status.phase == Phase::Running && status.sample.is_some();
        let status = rig.until("silent", |status| works(status) && status.pid != pid).await;
        assert_eq!((status.restarts, status.cause), (1, Some(Cause::LowRate)));
        rig.stop("silent").await;
        rig.end().await;
    });
}

fn user() -> &'static str {
    if super::rig::root() { "user = \"nobody\"\n" } else { "" }
}

/// Tells the same rate for ever, while power falls.
struct Frozen(AtomicU32);

impl Hooks for Frozen {
    fn grant(&self, _: &Manifest) -> Result<Grant, NoGrant> {
        Ok(Grant { gpus: vec![Gpu { uuid: "GPU-a".to_owned(), nodes: vec!["/dev/null".into()] }] })
    }

    fn power(&self, _: &[Gpu]) -> Reading<Milliwatts> {
        Ok(Milliwatts(self.0.fetch_sub(2_000, Ordering::Relaxed)))
    }

    fn quarantined(&self, _: &Manifest) {}

    fn meter(&self, _: &Manifest, _: &[u64]) -> Option<Box<dyn Meter>> {
        Some(Box::new(Same))
    }
}

struct Same;

impl Meter for Same {
    fn unit(&self) -> Unit {
        Unit::Jobs
    }

    fn read(&mut self) -> Pin<Box<dyn Future<Output = Option<Sample>> + Send + '_>> {
        Box::pin(async { Some(Sample { rate: Some(9_000), counters: vec![], told: None }) })
    }
}

#[test]
#[ignore = "takes more than a minute, which is what a doubt takes"]
fn a_rate_that_stands_while_power_moves_is_doubted_and_is_no_work() {
    block_on(async {
        let more = "[gpus]\ncount = 1\n[meter]\nname = \"same\"\ninterval_s = 1\n[expect]\nrate = 9\nwarmup_s = 0";
        let frozen = |inputs: &mut supervisor::Inputs| inputs.hooks = Arc::new(Frozen(AtomicU32::new(400_000)));
        let rig =
            Rig::with(directory("frozen"), cgroup("frozen"), vec![script("frozen", "exec sleep 1000", more)], frozen);
        rig.start("frozen").await.unwrap();
        for _ in 0..2 {
            // Longer than any one wait may take.
            tokio::time::sleep(std::time::Duration::from_secs(19)).await;
            assert_eq!(rig.until("frozen", |_| true).await.phase, Phase::Running);
        }
        let status = rig.until("frozen", |status| status.belief == Flag::Frozen).await;
        assert_eq!(status.phase, Phase::Degraded);
        rig.stop("frozen").await;
        rig.end().await;
    });
}
