//! From SIGKILL to the first instruction of the next process.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rigd::clock::{self, since_boot};
use rustix::process::{Pid, Signal, kill_process};

use super::{Site, UP, Up, sleep_until};
use crate::Options;
use crate::process::Running;
use crate::statistic::Values;
use crate::table::columns;

/// Payloads of each supervisor.
const EACH: usize = 4;
/// Between two kills, of whichever: each process has run for more than a second by its turn, which is a stable run for the agent
/// (`stable_s = 1`) and for runit, and a first failure is answered at once by both.
const GAP: Duration = Duration::from_millis(100);
/// The least age of what is killed.
const AGE: Duration = Duration::from_millis(1_100);
const GOALS: [f64; 2] = [1.2, 6.0];
/// Each is killed once in a turn of 1.2 s: some 50 starts in the window.
const MORE: &str = "[restart]\nbudget = 100\nwindow_s = 60\nstable_s = 1\nmin_s = 1\n";

/// One that keeps payloads.
struct Keeper {
    title: &'static str,
    tags: Vec<String>,
    took: Values,
}

impl Keeper {
    fn new(title: &'static str, tag: &str) -> Self {
        Self { title, tags: (0..EACH).map(|index| format!("{tag}-{index}")).collect(), took: Values::default() }
    }
}

/// All of them keep theirs at once, and are killed in turn: whatever else the machine does meets all alike.
pub(super) fn run(options: &Options) -> Result<String> {
    let site = Site::new(options)?;
    let mut keepers = vec![Keeper::new("rigd", "rigd"), Keeper::new("bare tokio loop", "bare")];
    let Some(rigd) = keepers.first() else { return Ok(String::new()) };
    let manifests: Vec<_> = rigd.tags.iter().map(|tag| (tag.clone(), site.manifest(&[tag], MORE))).collect();
    let mut running = vec![site.agent(options, "measure-restart", &manifests)?];
    let tags = keepers.last().map(|keeper| keeper.tags.clone()).unwrap_or_default();
    let mut bare = Command::new(&site.payload);
    running.push(Running::start("bare", bare.arg("keep").arg(&site.told.path).args(&tags), site.scratch.path())?);
    if options.runsv.is_some() {
        keepers.push(Keeper::new("runit's runsv", "runsv"));
    }
    if let (Some(runsv), Some(keeper)) = (&options.runsv, keepers.last()) {
        for tag in &keeper.tags {
            running.push(service(&site, runsv, tag)?);
        }
    }
    let mut up = BTreeMap::new();
    while up.len() < keepers.len() * EACH {
        let said = heard(&site, &mut running, &mut up, |_| true)?;
        ensure!(said.is_some(), "not every payload runs: {:?}", up.keys());
    }
    let mut next = since_boot();
    for turn in 0..options.kills.div_ceil(EACH) {
        for index in 0..EACH {
            for keeper in &mut keepers {
                let tag = keeper.tags.get(index).cloned().unwrap_or_default();
                let victim: Up = up.get(&tag).cloned().with_context(|| format!("{tag} never ran"))?;
                next = (next + GAP).max(victim.at + AGE);
                sleep_until(next);
                let killed = since_boot();
                let pid = Pid::from_raw(victim.pid).context("a process id")?;
                kill_process(pid, Signal::KILL).with_context(|| format!("{tag} is gone before its turn"))?;
                let back = heard(&site, &mut running, &mut up, |said| said.tag == tag && said.pid != victim.pid)?;
                let back = back.with_context(|| format!("{tag} is not back, turn {turn}"))?;
                keeper.took.push(back.at.saturating_sub(killed).as_secs_f64() * 1e3);
            }
        }
    }
    drop(running);
    Ok(table(&keepers))
}

/// A folder as runit wants it. `run` is the program itself, with no shell before it.
fn service(site: &Site, runsv: &Path, tag: &str) -> Result<Running> {
    let folder = site.scratch.path().join(tag);
    fs::create_dir(&folder)?;
    symlink(&site.payload, folder.join("run"))?;
    let mut command = Command::new(runsv);
    command.arg(&folder).env("BARE_PAYLOAD", format!("run {} {tag}", site.told.path.display()));
    Running::start(tag, &mut command, site.scratch.path())
}

/// The next word that is wanted; what others say meanwhile is remembered too.
fn heard(
    site: &Site,
    running: &mut [Running],
    up: &mut BTreeMap<String, Up>,
    wanted: impl Fn(&Up) -> bool,
) -> Result<Option<Up>> {
    let deadline = clock::now() + UP;
    while clock::now() < deadline {
        site.interrupt.check()?;
        match site.told.next()? {
            Some(said) => {
                up.insert(said.tag.clone(), said.clone());
                if wanted(&said) {
                    return Ok(Some(said));
                }
            }
            None => running.iter_mut().try_for_each(Running::still_running)?,
        }
    }
    Ok(None)
}

fn table(keepers: &[Keeper]) -> String {
    let parts = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("most", 1.0)];
    let floor = keepers.iter().find(|keeper| keeper.title.starts_with("bare"));
    let mut rows = vec![["from SIGKILL to running again, ms"].map(str::to_owned).to_vec()];
    if let Some(head) = rows.first_mut() {
        head.extend(parts.map(|(name, _)| name.to_owned()));
        head.push("kills".to_owned());
    }
    for keeper in keepers {
        let mut row = vec![keeper.title.to_owned()];
        for (place, (_, part)) in parts.iter().enumerate() {
            let value = keeper.took.part(*part).unwrap_or(f64::NAN);
            let below = floor.filter(|floor| floor.title != keeper.title).and_then(|floor| floor.took.part(*part));
            let ratio = below.map_or_else(String::new, |below| format!(" ({:.1}x)", value / below));
            let goal = match (keeper.title, place) {
                ("rigd", 0) => GOALS.first(),
                ("rigd", 2) => GOALS.last(),
                _ => None,
            };
            let mark = if goal.is_some_and(|goal| value > *goal) { " !" } else { "" };
            row.push(format!("{value:.2}{mark}{ratio}"));
        }
        row.push(keeper.took.len().to_string());
        rows.push(row);
    }
    let [p50, p99] = GOALS;
    format!(
        "{}goals for rigd: p50 <= {p50} ms, p99 <= {p99} ms; !: above. (n x): beside the bare loop. {EACH} payloads each, killed in turn, \
         {GAP:?} apart, after a run of more than {AGE:?}\n",
        columns(&rows)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_how_it_stands_to_goal_and_floor() {
        let keeper = |title, took: &[f64]| {
            let mut keeper = Keeper::new(title, title);
            took.iter().for_each(|value| keeper.took.push(*value));
            keeper
        };
        let text = table(&[keeper("rigd", &[2.0, 2.0]), keeper("bare tokio loop", &[1.0, 1.0])]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split("  ").collect()).collect();
        assert!(lines[1].iter().any(|cell| cell.trim() == "2.00 ! (2.0x)"), "{text}");
        assert!(lines[2].iter().any(|cell| cell.trim() == "1.00"), "{text}");
    }
}
