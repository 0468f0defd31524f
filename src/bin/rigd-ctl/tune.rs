//! `rigd-ctl tune`: finds the power limit, the core clock and, where that is wished, the memory clock at which a payload does most
//! for its energy, on the rig itself.
//!
//! ```text
//! plan::tune ── point ── rig: limits for 15 s, renewed ──> agent ── the lower of profile and trial ──> cards
//!     ^                   │ looks, up to one a second <── rates of the payload, watts, clocks, Xids, heat
//!     └── what came ── window: settles, measures, or trouble
//! found: table, JSON, picture        profile: into the configuration, as a transaction
//! ```
//!
//! Limits only ever hold a card back: nothing is tried above what its profile, its owner or the rig allow. However this ends,
//! the agent takes them back by itself within 15 s. The search, its order and its end are those of [`rigd::plan::tune`]. Watts are
//! those that the payload's cards tell; what the rest of the rig takes is not in them, so a rig with much of that is best a little
//! above what is found here.

mod found;
mod profile;
mod progress;
mod rig;
mod space;
mod window;

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use clap::ValueEnum;
use rigd::config;
use rigd::local::Gpu;
use rigd::plan::tune::{End, Goal, MOST, Next, State};
use rigd::units::{MicroPerKilowattHour, MicroPerTera};

use crate::plot::steps;
use found::{Found, Tried, Tries};
use profile::{Target, Tuned};
use progress::Progress;
use rig::{Ended, Rig};
use space::{Room, Wishes};
use window::{Measured, Normal, Rules, Trouble, event};

/// The command line.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  rigd-ctl tune miner                most work for a joule; half an hour to an hour and a half\n  rigd-ctl tune miner --write eco    and the best as [profile.eco] of the configuration\n  rigd-ctl tune miner --memory all   its memory clock too\n  rigd-ctl tune miner --for margin --value 900000 --energy 250000 --only power\n\nAll GPUs of the payload get the same limits, for they share its rate; --gpu varies one of them alone. Limits are only ever tried below what holds now, so begin with the profile that is to be made better. The memory clock is varied only where it is asked for: hashing that hardly looks at its memory saves watts by a slower one, AI mostly waits for memory and does not. An Xid, refused work or heat narrow the search and then end it, with --only power at once. However it ends, the GPUs are as they were at once, or within 15 s where this command is killed."
)]
pub(crate) struct Arguments {
    /// The payload's name; it must run and have a meter
    payload: String,
    /// Vary this GPU alone, by UUID; the rate is that of the whole payload
    #[arg(long, value_name = "UUID")]
    gpu: Option<String>,
    /// What is sought
    #[arg(long = "for", default_value = "efficiency")]
    goal: Wanted,
    /// What 10^12 units of work are worth, in millionths
    #[arg(long, value_name = "MICRO_PER_TERA", required_if_eq("goal", "margin"))]
    value: Option<u64>,
    /// What a kilowatt-hour costs, in millionths of the same currency
    #[arg(long, value_name = "MICRO_PER_KWH", required_if_eq("goal", "margin"), allow_hyphen_values = true)]
    energy: Option<i64>,
    #[command(flatten)]
    wishes: Wishes,
    /// Seconds until a point counts, longer where it does not stand still
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    settle_s: u64,
    /// Seconds for which it is measured, longer where it is noisy
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    measure_s: u64,
    /// Points at most
    #[arg(long, value_name = "N", default_value_t = most(), value_parser = clap::value_parser!(u16).range(2..=i64::from(most())))]
    most: u16,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Write a picture of what was tried and what came of it
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// The same as PNG
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,
    /// Write the best into the configuration as the profile of this name
    #[arg(long, value_name = "NAME")]
    write: Option<String>,
    /// Write over a profile of that name
    #[arg(long, requires = "write")]
    replace: bool,
    /// The agent's configuration
    #[arg(long, value_name = "FILE", default_value = config::PATH)]
    config: PathBuf,
    /// The agent's socket
    #[arg(long, value_name = "PATH", default_value = config::SOCKET)]
    socket: PathBuf,
}

fn most() -> u16 {
    u16::try_from(MOST).unwrap_or(u16::MAX)
}

/// What can be sought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Wanted {
    /// Most work for a joule
    Efficiency,
    /// Most money an hour, energy paid
    Margin,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let goal = arguments.goal()?;
    arguments.wishes.check()?;
    for path in [&arguments.svg, &arguments.png].into_iter().flatten() {
        // It is found out now and not in an hour.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        profile::is_open(folder)?;
        ensure!(!path.is_dir(), "{} is a folder, and is to be a file", path.display());
    }
    let rules = Rules {
        settle: arguments.settle_s * 1000,
        measure: arguments.measure_s * 1000,
        patience: 4000 * (arguments.settle_s + arguments.measure_s),
    };
    let (rig, payload) = Rig::find(arguments.socket.clone(), &arguments.payload, arguments.gpu.as_deref(), rules)?;
    let target = arguments.target(&rig.varied()?)?;
    if let Some(target) = &target {
        // Any numbers will do: the same of the configuration.
        target.check(Tuned { watts: 200, core: Some(1_000), memory: Some(5_000) })?;
    }
    let each = arguments.settle_s + arguments.measure_s;
    let mut progress = Progress::new(&payload, &rig.varied, each, arguments.most.into());
    let most = arguments.most.into();
    let normal = Normal::default();
    let mut search = Search { rig, goal, most, points: Vec::new(), left: Vec::new(), watts: 0, normal };
    let outcome = search.run(&arguments.wishes, &mut progress);
    search.rig.end();
    progress.clear();
    let (end, best) = match &outcome {
        Ok((end, best)) => (end_words(*end).to_owned(), *best),
        Err((why, best)) => (why.clone(), *best),
    };
    let best = best.and_then(|tries| found::best(&search.points, tries, goal));
    let mut found = Found {
        payload: arguments.payload.clone(),
        unit: payload.info.unit,
        gpus: search.rig.varied.clone(),
        goal: if arguments.goal == Wanted::Margin { "margin" } else { "efficiency" },
        left: search.left,
        points: search.points,
        best,
        end,
        took_ms: search.rig.now(),
        profile: None,
    };
    let sound = matches!(outcome, Ok((End::Found | End::Enough, _)));
    let written = match (&target, found.better()) {
        (Some(target), Some(best)) if sound => Some(target.write(best.tuned(search.watts))),
        _ => None,
    };
    let told = match (&target, &written) {
        (None, _) | (_, Some(Err(_))) => String::new(),
        (Some(_), None) => "\nNo profile was written.\n".to_owned(),
        (Some(target), Some(Ok(old))) => {
            found.profile = Some(target.name.clone());
            written_words(target, old)
        }
    };
    // What an hour has found is shown, whatever became of files.
    show(arguments, &found, goal, &told)?;
    written.transpose().context("the profile was not written")?;
    match outcome {
        Ok((End::Trouble, _)) => bail!("ended by too much trouble: do not leave the GPU at the edge"),
        Ok(_) => Ok(()),
        Err((why, _)) => Err(anyhow!("ended early: {why}; the GPUs are as they were, or will be within 15 s")),
    }
}

impl Arguments {
    fn goal(&self) -> anyhow::Result<Goal> {
        let money = self.value.is_some() || self.energy.is_some();
        ensure!(self.goal == Wanted::Margin || !money, "--value and --energy have no effect without --for margin");
        Ok(match self.goal {
            Wanted::Efficiency => Goal::PerJoule,
            Wanted::Margin => Goal::Margin {
                value: MicroPerTera(self.value.context("--value is missing")?),
                energy: MicroPerKilowattHour(self.energy.context("--energy is missing")?),
            },
        })
    }

    /// Where the profile goes; what is in force on the GPUs is what it is made of.
    fn target(&self, varied: &[Gpu]) -> anyhow::Result<Option<Target>> {
        let Some(name) = self.write.clone() else { return Ok(None) };
        let mut bases = varied.iter().map(|gpu| gpu.more.profile.clone());
        let base = bases.next().flatten();
        ensure!(
            bases.all(|other| other == base),
            "the GPUs have different profiles, so that none can be written for all: use --gpu"
        );
        Ok(Some(Target { path: self.config.clone(), name, base, replace: self.replace }))
    }
}

/// A search under way.
struct Search {
    rig: Rig,
    goal: Goal,
    most: usize,
    points: Vec<Tried>,
    /// What is not varied though it was to be, and why.
    left: Vec<String>,
    /// The power limit as it was, W.
    watts: u32,
    normal: Normal,
}

impl Search {
    /// Why it ended and the best limits; where it could not go on, why, and the best until then.
    fn run(
        &mut self,
        wishes: &Wishes,
        progress: &mut Progress,
    ) -> Result<(End, Option<Tries>), (String, Option<Tries>)> {
        let nothing = |why: String| (why, None);
        let first = match self.point(Tries::default(), progress).map_err(|ended| nothing(words(ended)))? {
            Ok(measured) => measured,
            Err(trouble) => return Err(nothing(format!("as it is, {}", trouble.words()))),
        };
        self.normal = Normal { refused: first.refused, memory: first.memory_mhz };
        // As they are now: a limit of somebody who was killed has gone meanwhile.
        let room = self.rig.varied().and_then(|gpus| wishes.room(&gpus, &first));
        let Room { space, now: as_it_was, left } = room.map_err(|error| nothing(format!("{error:#}")))?;
        left.iter().for_each(|why| progress.line(why));
        self.left = left;
        self.most = self.most.min(space.most());
        progress.at_most(self.most);
        self.watts = as_it_was.limit.0 / 1000;
        let (mut state, mut next) = State::begin(space, self.goal, as_it_was);
        let mut measured = Some(Ok(first));
        loop {
            let best = |state: &State| state.so_far().map(|best| Tries::new(best, as_it_was));
            let point = match next {
                Next::Try(point) => point,
                Next::Done { best, end, .. } => return Ok((end, Some(Tries::new(best, as_it_was)))),
                Next::Failed(end) => return Ok((end, None)),
            };
            let tries = Tries::new(point, as_it_was);
            let came = match measured.take().filter(|_| tries.is_nothing()) {
                Some(first) => first,
                None if self.points.len() >= self.most => return Ok((End::Enough, best(&state))),
                None => match self.point(tries, progress) {
                    Ok(came) => came,
                    Err(ended) => return Err((words(ended), best(&state))),
                },
            };
            if came.is_err()
                && let Err(ended) = self.rig.recover(&mut |what| progress.waiting(what))
            {
                return Err((words(ended), best(&state)));
            }
            (state, next) = state.next(event(&came));
        }
    }

    fn point(&mut self, tries: Tries, progress: &mut Progress) -> Result<Result<Measured, Trouble>, Ended> {
        let at = self.rig.now();
        progress.begin(self.points.len(), tries);
        let came = self.rig.measure(tries.into(), self.normal, &mut |what| progress.waiting(what))?;
        let tried = Tried::new(at, tries, self.goal, &came);
        progress.came(&tried, self.points.first());
        self.points.push(tried);
        Ok(came)
    }
}

fn words(ended: Ended) -> String {
    match ended {
        Ended::Interrupted => "interrupted".to_owned(),
        Ended::Over(why) => why,
    }
}

const fn end_words(end: End) -> &'static str {
    match end {
        End::Found => "found: nothing around it is better",
        End::Enough => "enough was measured",
        End::Trouble => "too much trouble",
    }
}

fn show(arguments: &Arguments, found: &Found, goal: Goal, told: &str) -> anyhow::Result<()> {
    let title = format!("tune {}, {}", arguments.payload, found.goal);
    let span = (0, found.took_ms.max(1000));
    if arguments.json {
        crate::print(&(serde_json::to_string(found)? + "\n"))?;
    } else {
        let picture =
            if found.points.len() > 1 { steps::terminal(&title, span, found.steps(goal)) } else { String::new() };
        let verdict = if found.better().is_some() { "" } else { "Nothing better than it was has been found.\n" };
        let left: String = found.left.iter().map(|why| format!("{why}\n")).collect();
        crate::print(&format!("{picture}\n{}\n{}\n{left}{verdict}{told}", found.table(goal), found.end))?;
    }
    for (path, is_svg) in [(&arguments.svg, true), (&arguments.png, false)] {
        if let Some(path) = path {
            steps::write(path, is_svg, &title, span, found.steps(goal))?;
        }
    }
    Ok(())
}

fn written_words(target: &Target, old: &Path) -> String {
    let Target { path, name, .. } = target;
    format!(
        "\n[profile.{name}] is in {}; the file as it was is {}.\n\
         It is known after `systemctl restart rigd`; payloads go on meanwhile. To have it used, name it as `profile` in [gpu] of\n\
         that file or in [gpus] of the payload's manifest.\n",
        path.display(),
        old.display()
    )
}
