//! `rigd-ctl tune`: finds the power limit and the core clock at which a payload does most for its energy, on the rig itself.
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

use std::path::PathBuf;

use anyhow::{Context, anyhow, bail, ensure};
use clap::ValueEnum;
use rigd::config;
use rigd::gpu::Limits;
use rigd::local::Gpu;
use rigd::plan::tune::{End, Goal, MOST, Next, State};
use rigd::units::{Megahertz, MicroPerKilowattHour, MicroPerTera, Milliwatts};

use crate::plot::steps;
use found::{Found, Tried, Tries};
use profile::{Target, Tuned};
use progress::Progress;
use rig::{Ended, Rig};
use space::Wishes;
use window::{Measured, Rules, Trouble, event};

/// The command line.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  rigd-ctl tune miner                                     most work for a joule; half an hour to an hour and a half\n  rigd-ctl tune miner --write eco --png tune.png          and the best as [profile.eco] of the configuration\n  rigd-ctl tune miner --for margin --value 900000 --energy 250000 --only power\n\nAll GPUs of the payload get the same limits, for they share its rate; --gpu varies one of them alone. Limits are only ever tried below what holds now, so begin with the profile that is to be made better. An Xid, refused work or heat narrow the search and then end it, with --only power at once. However it ends, the GPUs are as they were at once, or within 15 s where this command is killed."
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
    let rules = Rules {
        settle: arguments.settle_s * 1000,
        measure: arguments.measure_s * 1000,
        patience: 4000 * (arguments.settle_s + arguments.measure_s),
    };
    let (rig, payload) = Rig::find(arguments.socket.clone(), &arguments.payload, arguments.gpu.as_deref(), rules)?;
    let target = arguments.target(&rig.varied()?)?;
    if let Some(target) = &target {
        // Any numbers will do: it is found out now and not in an hour that the file cannot be written.
        target.check(Tuned { watts: 200, core: Some(1_000) })?;
    }
    let each = arguments.settle_s + arguments.measure_s;
    let mut progress = Progress::new(&payload, &rig.varied, each, arguments.most.into());
    let mut search = Search { rig, goal, most: arguments.most.into(), points: Vec::new(), watts: 0, refused: 0 };
    let outcome = search.run(&arguments.wishes, &mut progress);
    search.rig.end();
    progress.clear();
    let (end, best) = match &outcome {
        Ok((end, best)) => (end_words(*end).to_owned(), *best),
        Err((why, best)) => (why.clone(), *best),
    };
    let best = best.and_then(|limits| found::best(&search.points, limits, goal));
    let mut found = Found {
        payload: arguments.payload.clone(),
        unit: payload.info.unit,
        gpus: search.rig.varied.clone(),
        goal: if arguments.goal == Wanted::Margin { "margin" } else { "efficiency" },
        points: std::mem::take(&mut search.points),
        best,
        end,
        took_ms: search.rig.now(),
        profile: None,
    };
    let better = best.filter(|best| best.limit_mw.is_some() || best.core_mhz.is_some());
    let sound = matches!(outcome, Ok((End::Found | End::Enough, _)));
    let mut told = String::new();
    if let (Some(target), Some(best), true) = (&target, better, sound) {
        let watts = best.limit_mw.map_or(search.watts, |limit| limit / 1000);
        let old = target.write(Tuned { watts, core: best.core_mhz });
        // What an hour has found is shown, whatever became of the file.
        if let Err(error) = &old {
            told = format!("\nThe profile was not written: {error:#}\n");
        }
        if let Ok(old) = old {
            found.profile = Some(target.name.clone());
            told = written(target, &old);
        }
    } else if target.is_some() {
        told = "\nNo profile was written.\n".to_owned();
    }
    show(arguments, &found, goal, &told)?;
    match outcome {
        Ok((End::Trouble, _)) => bail!("ended by too much trouble: do not leave the GPU at the edge"),
        Ok(_) if target.is_some() && better.is_some() && found.profile.is_none() => {
            bail!("the profile was not written")
        }
        Ok(_) => Ok(()),
        Err((why, _)) => Err(anyhow!("ended early: {why}; the GPUs are as they were, or will be within 15 s")),
    }
}

impl Arguments {
    fn goal(&self) -> anyhow::Result<Goal> {
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
    /// The power limit as it was, W.
    watts: u32,
    /// Share of its work that is refused anyway, in thousandths.
    refused: u64,
}

impl Search {
    /// Why it ended and the best limits; where it could not go on, why, and the best until then.
    fn run(
        &mut self,
        wishes: &Wishes,
        progress: &mut Progress,
    ) -> Result<(End, Option<Tries>), (String, Option<Tries>)> {
        let nothing = |why: String| (why, None);
        let first = match self.point((None, None), progress).map_err(|ended| nothing(words(ended)))? {
            Ok(measured) => measured,
            Err(trouble) => return Err(nothing(format!("as it is, {}", trouble.words()))),
        };
        self.refused = first.refused;
        // As they are now: a limit of somebody who was killed has gone meanwhile.
        let space = self.rig.varied().and_then(|gpus| wishes.space(&gpus, first.clock_mhz));
        let (space, as_it_was) = space.map_err(|error| nothing(error.to_string()))?;
        self.watts = as_it_was.limit.0 / 1000;
        let (mut state, mut next) = State::begin(space, self.goal, as_it_was);
        let mut measured = Some(Ok(first));
        loop {
            let best = |state: &State| state.so_far().map(|best| found::limits(best, as_it_was));
            let point = match next {
                Next::Try(point) => point,
                Next::Done { best, end, .. } => return Ok((end, Some(found::limits(best, as_it_was)))),
                Next::Failed(end) => return Ok((end, None)),
            };
            let limits = found::limits(point, as_it_was);
            let came = match measured.take().filter(|_| limits == (None, None)) {
                Some(first) => first,
                None if self.points.len() >= self.most => return Ok((End::Enough, best(&state))),
                None => match self.point(limits, progress) {
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

    fn point(&mut self, limits: Tries, progress: &mut Progress) -> Result<Result<Measured, Trouble>, Ended> {
        let (power, clock) = limits;
        let at = self.rig.now();
        progress.begin(self.points.len(), limits);
        let asked = Limits { power: power.map(Milliwatts), clock: clock.map(Megahertz) };
        let came = self.rig.measure(asked, self.refused, &mut |what| progress.waiting(what))?;
        let tried = Tried::new(at, limits, self.goal, &came);
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
    for (path, is_svg) in [(&arguments.svg, true), (&arguments.png, false)] {
        if let Some(path) = path {
            steps::write(path, is_svg, &title, span, found.steps(goal))?;
        }
    }
    if arguments.json {
        return crate::print(&(serde_json::to_string(found)? + "\n"));
    }
    let picture = if found.points.len() > 1 { steps::terminal(&title, span, found.steps(goal)) } else { String::new() };
    let better = found.best.is_some_and(|best| best.limit_mw.is_some() || best.core_mhz.is_some());
    let verdict = if better { "" } else { "Nothing better than it was has been found.\n" };
    crate::print(&format!("{picture}\n{}\n{}\n{verdict}{told}", found.table(goal), found.end))
}

fn written(target: &Target, old: &std::path::Path) -> String {
    let Target { path, name, .. } = target;
    format!(
        "\n[profile.{name}] is in {}; the file as it was is {}.\n\
         It is known after `systemctl restart rigd`; payloads go on meanwhile. To have it used, name it as `profile` in [gpu] of\n\
         that file or in [gpus] of the payload's manifest.\n",
        path.display(),
        old.display()
    )
}
