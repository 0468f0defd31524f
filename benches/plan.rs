//! What a plan costs, at the size of a rig that is as large as they come. Beside it a floor, the scores alone; the look for changes
//! of hands that comes after it; and what a search of all plans would take, at the size at which it ends.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark fails by panicking")]

use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use rigd::arbiter::differ::differences;
use rigd::arbiter::look::Draft;
use rigd::plan::{Inputs, Lease, Payload, Switch, Yield, plan};
use rigd::units::{MicroPerKilowattHour, MicroPerTera, MilliPerSecond, Milliwatts, Percent};

const SIZE: usize = 16;

/// The best sum of scores that four payloads can have on four GPUs, by trying each.
fn search(inputs: &Inputs<'_>, gpu: usize, used: [u8; 4], sum: i64) -> i64 {
    if gpu == 4 {
        return sum;
    }
    let idle = search(inputs, gpu + 1, used, sum + inputs.score_of_idle(gpu));
    let with = (0..4).filter(|payload| used[*payload] < inputs.payloads[*payload].most).filter_map(|payload| {
        let mut more = used;
        more[payload] += 1;
        Some(search(inputs, gpu + 1, more, sum + inputs.score(gpu, payload)?))
    });
    with.max().map_or(idle, |best| best.max(idle))
}

fn main() {
    let mut criterion = Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .sample_size(50)
        .configure_from_args();
    let mut seed = 7_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let payloads: Vec<Payload> = (0..SIZE)
        .map(|index| Payload {
            name: format!("payload-{index}"),
            lease: (index < 3).then_some(Lease { from_ms: 0, to_ms: 1 << 40, priority: 1 }),
            most: u8::try_from(random(4) + 1).unwrap(),
            fits: u64::MAX,
            hours: None,
            value: MicroPerTera(1_000_000 + random(1_000_000)),
            switch: Switch { joules: 10_000, load: Duration::from_secs(30), ..Switch::default() },
        })
        .collect();
    let current: Vec<Option<usize>> = (0..SIZE).map(|_| Some(usize::try_from(random(16)).unwrap())).collect();
    let mut one = |_| {
        Some(Yield {
            rate: MilliPerSecond(100_000_000_000 + random(50_000_000_000)),
            power: Milliwatts(200_000 + u32::try_from(random(150_000)).unwrap()),
        })
    };
    let yields: Vec<Vec<Option<Yield>>> = (0..SIZE).map(|_| (0..SIZE).map(&mut one).collect()).collect();
    let inputs = Inputs {
        now_ms: 1,
        minute: 0,
        payloads: &payloads,
        current: &current,
        yields: &yields,
        idle: Milliwatts(20_000),
        energy: MicroPerKilowattHour(250_000),
        horizon: Duration::from_secs(3600),
        stickiness: Percent(5),
        lead: Duration::ZERO,
    };
    assert!(plan(&inputs).gpus.iter().flatten().count() > SIZE / 2);
    let mut group = criterion.benchmark_group("plan");
    group.bench_function("16 GPUs, 16 payloads", |b| b.iter(|| plan(black_box(&inputs))));
    group.bench_function("floor: the scores", |b| {
        b.iter(|| (0..SIZE * SIZE).filter_map(|at| black_box(&inputs).score(at / SIZE, at % SIZE)).sum::<i64>());
    });
    let draft = Draft {
        payloads: payloads.clone(),
        uuids: (0..SIZE).map(|gpu| format!("GPU-{gpu}")).collect(),
        current: current.clone(),
        yields: yields.clone(),
        settled: Vec::new(),
        known: vec![vec![None; SIZE]; SIZE],
        energy: inputs.energy,
    };
    let made = plan(&inputs);
    group.bench_function("its changes of hands", |b| {
        b.iter(|| differences(black_box(&draft), &inputs, &made, &[], Duration::ZERO));
    });
    group.bench_function("all plans of 4 GPUs, 4 payloads", |b| b.iter(|| search(black_box(&inputs), 0, [0; 4], 0)));
    group.finish();
    criterion.final_summary();
}
