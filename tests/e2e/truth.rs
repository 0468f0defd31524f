//! What the simulated world itself says has been used, looked at again and again: what the agent's books are held against.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use rigd::energy::{Account, Kept};

/// What the world says at one moment: when, by the rig's clock and its own, what its supply took, what each GPU drew.
#[derive(Clone, Debug)]
struct Truth {
    at_ms: u64,
    world_ms: f64,
    input_mj: f64,
    gpus_mj: Vec<f64>,
}

/// What was used between two moments, mJ.
#[derive(Clone, Debug)]
pub(crate) struct Used {
    /// By the supply, as watts that are read over time have it: the world's clock may be let go behind where the machine is busy.
    pub(crate) input_mj: f64,
    /// By each GPU, as counters have it.
    pub(crate) gpus_mj: Vec<f64>,
}

/// All that was seen of the world, in order.
#[derive(Debug, Default)]
pub(crate) struct Seen(Vec<Truth>);

/// One number of the world's words.
pub(crate) fn number(world: &str, key: &str) -> Option<f64> {
    world.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
}

impl Seen {
    /// Takes what the world says now.
    pub(crate) fn look(&mut self, at_ms: u64, world: &str) {
        let gpus = (0..).map_while(|gpu| number(world, &format!("gpu.{gpu}.energy_mj")));
        self.0.push(Truth {
            at_ms,
            world_ms: number(world, "time_ms").unwrap(),
            input_mj: number(world, "supply.psu1.input_mj").unwrap(),
            gpus_mj: gpus.collect(),
        });
    }

    /// The last look.
    pub(crate) fn until_ms(&self) -> u64 {
        self.0.last().map_or(0, |truth| truth.at_ms)
    }

    /// What was used between two moments that were seen, ms since 1970.
    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds since 1970 are far from the end of a float's whole numbers"
    )]
    pub(crate) fn between(&self, from_ms: u64, to_ms: u64) -> Used {
        let at = |ms: u64| {
            let after = self.0.partition_point(|truth| truth.at_ms <= ms);
            let (a, b) = (&self.0[after - 1], &self.0[after.min(self.0.len() - 1)]);
            let part = if b.at_ms > a.at_ms { (ms - a.at_ms) as f64 / (b.at_ms - a.at_ms) as f64 } else { 0.0 };
            let line = |a: f64, b: f64| a + (b - a) * part;
            Truth {
                at_ms: ms,
                world_ms: line(a.world_ms, b.world_ms),
                input_mj: line(a.input_mj, b.input_mj),
                gpus_mj: a.gpus_mj.iter().zip(&b.gpus_mj).map(|(a, b)| line(*a, *b)).collect(),
            }
        };
        let (from, to) = (at(from_ms), at(to_ms));
        let slow = (to_ms - from_ms) as f64 / (to.world_ms - from.world_ms);
        Used {
            input_mj: (to.input_mj - from.input_mj) * slow,
            gpus_mj: from.gpus_mj.iter().zip(&to.gpus_mj).map(|(from, to)| to - from).collect(),
        }
    }
}

/// Counted and true, µJ and mJ, over the stretches in which an account had no gap, and over how many ms.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sum {
    counted_uj: u64,
    true_mj: f64,
    millis: u64,
    stretches: u32,
    /// The last stretch ended there.
    until_ms: u64,
}

impl Sum {
    fn take(&mut self, [before, after]: [(u64, &Account); 2], true_mj: f64) {
        let ((from, before), (to, after)) = (before, after);
        if after.gap_ms > before.gap_ms {
            return;
        }
        self.counted_uj += after.energy.0 - before.energy.0;
        self.true_mj += true_mj;
        self.millis += to - from;
        self.stretches += u32::from(self.until_ms != from);
        self.until_ms = to;
    }

    /// For so long it was counted without a gap, ms.
    pub(crate) const fn millis(&self) -> u64 {
        self.millis
    }

    /// Within so many percent of what is true; a counter is as old as the last pass where a stretch begins and ends, up to
    /// `pass_ms` of it.
    pub(crate) fn assert_near(&self, what: &str, percent: f64, pass_ms: f64) {
        #[expect(clippy::cast_precision_loss, reason = "for a comparison in parts of a thousand")]
        let (counted, millis) = (self.counted_uj as f64 / 1_000.0, self.millis as f64);
        let off = (counted - self.true_mj) / self.true_mj * 100.0;
        let ends = f64::from(self.stretches) * pass_ms / millis * 100.0;
        println!(
            "{what}: counted {counted:.0} mJ, true {:.0} mJ in {millis} ms and {} stretches, off by {off:.3} %",
            self.true_mj, self.stretches
        );
        assert!(millis > 0.0 && off.abs() <= percent + ends, "{what}: {counted} mJ of {self:?}, off by {off} %");
    }
}

/// Every state of the books that reached the disk, as it came.
#[derive(Debug, Default)]
pub(crate) struct Diary {
    pub(crate) kept: Vec<Kept>,
    written: Option<(u64, SystemTime)>,
}

impl Diary {
    /// Looks whether there is a new one.
    pub(crate) fn look(&mut self, state: &Path) {
        let Ok(data) = fs::metadata(state.join("energy")) else { return };
        let written = Some((data.len(), data.modified().unwrap()));
        if written == self.written {
            return;
        }
        self.written = written;
        let kept = Kept::read(state).unwrap();
        if kept.at.unix_ms > 0 && self.kept.last().is_none_or(|last| last.at != kept.at) {
            self.kept.push(kept);
        }
    }

    /// The rig, its first supply, and each GPU in the world's order, against the world.
    pub(crate) fn sums(&self, seen: &Seen) -> (Sum, Sum, Vec<Sum>) {
        let (mut rig, mut supply, mut gpus) = (Sum::default(), Sum::default(), Vec::new());
        for pair in self.kept.windows(2) {
            let [from, to] = [pair[0].at.unix_ms, pair[1].at.unix_ms];
            let [before, after] = [&pair[0].books, &pair[1].books];
            if to <= from {
                continue;
            }
            let used = seen.between(from, to);
            rig.take([(from, &before.rig), (to, &after.rig)], used.input_mj);
            let input = |books: &'_ rigd::energy::Books| books.supplies.first().map(|(_, input, _)| *input);
            if let (Some(before), Some(after)) = (input(before), input(after)) {
                supply.take([(from, &before), (to, &after)], used.input_mj);
            }
            let mut uuids: Vec<&String> = after.gpus.iter().map(|(uuid, _)| uuid).collect();
            uuids.sort();
            gpus.resize(gpus.len().max(uuids.len()), Sum::default());
            for (place, uuid) in uuids.into_iter().enumerate() {
                let own = |books: &'_ rigd::energy::Books| {
                    books.gpus.iter().find(|(known, _)| known == uuid).map(|(_, account)| *account)
                };
                if let (Some(before), Some(after)) = (own(before), own(after)) {
                    gpus[place].take([(from, &before), (to, &after)], used.gpus_mj[place]);
                }
            }
        }
        (rig, supply, gpus)
    }
}
