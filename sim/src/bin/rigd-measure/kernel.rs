//! What the kernel has counted for a process, from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::statistic::number;

/// A process at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// By thread id.
    pub(crate) threads: BTreeMap<u32, Thread>,
    /// Resident, KiB.
    pub(crate) rss: u64,
    /// Proportional set size, KiB: shared pages counted in shares.
    pub(crate) pss: u64,
}

/// A thread's counters since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Thread {
    pub(crate) name: String,
    /// On a CPU, in user and kernel mode.
    pub(crate) cpu: Duration,
    /// Voluntary context switches: it waited and was woken up.
    pub(crate) wakeups: u64,
}

impl Sample {
    pub(crate) fn take(pid: u32) -> Result<Self> {
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let id: u32 = entry?.file_name().to_string_lossy().parse()?;
            // A thread may end in between; what it did until then is lost.
            if let Ok(thread) = Thread::read(&format!("/proc/{pid}/task/{id}")) {
                threads.insert(id, thread);
            }
        }
        ensure!(!threads.is_empty(), "process {pid}: the kernel gives no schedstat for it");
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let smaps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        Ok(Self { threads, rss: field(&status, "VmRSS")?, pss: field(&smaps, "Pss")? })
    }

    /// What was counted between `before` and now, thread by thread, by name; threads of one name are summed.
    pub(crate) fn since(&self, before: &Self) -> BTreeMap<String, (Duration, u64)> {
        let mut by_name: BTreeMap<String, (Duration, u64)> = BTreeMap::new();
        for (id, now) in &self.threads {
            let (cpu, wakeups) = before.threads.get(id).map_or((Duration::ZERO, 0), |then| (then.cpu, then.wakeups));
            let sum = by_name.entry(now.name.clone()).or_default();
            sum.0 += now.cpu.saturating_sub(cpu);
            sum.1 += now.wakeups.saturating_sub(wakeups);
        }
        by_name
    }
}

impl Thread {
    fn read(directory: &str) -> Result<Self> {
        let read = |file: &str| fs::read_to_string(format!("{directory}/{file}"));
        Self::parse(&read("comm")?, &read("schedstat")?, &read("status")?)
    }

    /// `schedstat` is time on a CPU in ns, time waiting for one in ns, and the number of turns
    /// (Documentation/scheduler/sched-stats.rst).
    fn parse(comm: &str, schedstat: &str, status: &str) -> Result<Self> {
        let cpu = schedstat.split_whitespace().next().context("an empty schedstat")?.parse()?;
        let wakeups = field(status, "voluntary_ctxt_switches")?;
        Ok(Self { name: comm.trim_end().to_owned(), cpu: Duration::from_nanos(cpu), wakeups })
    }
}

/// What all CPUs have done since the machine started, in ticks of the kernel's clock.
pub(crate) struct CpuTime {
    idle: u64,
    all: u64,
}

impl CpuTime {
    pub(crate) fn now() -> Result<Self> {
        Self::parse(&fs::read_to_string("/proc/stat")?)
    }

    /// `cpu  user nice system idle iowait irq softirq steal …`; what follows is in user already (proc_stat(5)).
    fn parse(stat: &str) -> Result<Self> {
        let ticks = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("no cpu in /proc/stat")?;
        let ticks: Vec<u64> = ticks.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self { idle: ticks.iter().skip(3).take(2).sum(), all: ticks.iter().sum() })
    }

    /// Percent of the time since then in which a CPU had nothing to do.
    pub(crate) fn idle_since(&self, then: &Self) -> f64 {
        let all = number(self.all.saturating_sub(then.all)).max(1.0);
        100.0 * number(self.idle.saturating_sub(then.idle)) / all
    }
}

/// The number behind `key:`, whatever its unit.
fn field(text: &str, key: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let number = line.and_then(|rest| rest.split_whitespace().next()).with_context(|| format!("no {key} in /proc"))?;
    Ok(number.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_read_from_three_files() {
        let status = "Name:\trigd\nvoluntary_ctxt_switches:\t61\nnonvoluntary_ctxt_switches:\t7\n";
        let thread = Thread::parse("bus main\n", "14250000 903 64\n", status).unwrap();
        let expected = Thread { name: "bus main".to_owned(), cpu: Duration::from_micros(14_250), wakeups: 61 };
        assert_eq!(thread, expected);
        assert!(Thread::parse("rigd\n", "", status).is_err());
        assert_eq!(field("VmRSS:\t     612 kB\n", "VmRSS").unwrap(), 612);
        assert!(field("VmRSS:\t     612 kB\n", "Vm").is_err());
    }

    #[test]
    fn only_what_came_since_counts_and_names_are_summed() {
        let thread =
            |name: &str, ms, wakeups| Thread { name: name.to_owned(), cpu: Duration::from_millis(ms), wakeups };
        let sample =
            |threads: Vec<(u32, Thread)>| Sample { threads: threads.into_iter().collect(), ..Sample::default() };
        let before = sample(vec![(7, thread("rigd", 10, 100)), (8, thread("bus", 5, 50))]);
        let after = sample(vec![(7, thread("rigd", 12, 103)), (8, thread("bus", 9, 60)), (9, thread("bus", 1, 2))]);
        let since: Vec<_> = after.since(&before).into_iter().collect();
        let expected = [("bus", 5, 12), ("rigd", 2, 3)];
        assert_eq!(since, expected.map(|(name, ms, count)| (name.to_owned(), (Duration::from_millis(ms), count))));
    }

    #[test]
    fn idle_time_is_the_fourth_and_fifth_of_eight() {
        let then = CpuTime::parse("cpu  100 1 50 800 9 0 0 0 7 7\ncpu0 1 2 3 4\n").unwrap();
        assert_eq!((then.idle, then.all), (809, 960));
        let now = CpuTime::parse("cpu  110 1 55 980 11 0 2 1 7 7\n").unwrap();
        assert_eq!(now.idle_since(&then), 91.0);
        assert!(CpuTime::parse("intr 1 2\n").is_err());
    }

    #[test]
    fn this_process_can_be_read() {
        let sample = Sample::take(std::process::id()).unwrap();
        // Which is the larger cannot be said: pages come and go between the two files.
        assert!(sample.rss > 0 && sample.pss > 0, "{sample:?}");
    }
}
