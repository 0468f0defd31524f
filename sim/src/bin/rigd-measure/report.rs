//! All figures, and the text that is printed.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Result;

use crate::kernel::CpuTime;
use crate::lab::{First, Lab, Window};
use crate::statistic::{Values, number};
use crate::subject::Subject;
use crate::table::columns;
use crate::{Options, hwmon};

/// What is measured takes a hundredth of two CPUs; a machine that was idle for less of the run, in percent, was not quiet.
pub(crate) const QUIET: f64 = 90.0;

const SOCKETS: &str = "\
sockets: the built-in board simulated-8gpu: 8 power monitors, 6 fans, 3 temperatures, a supply; all simulated. Each I2C transfer
  is a write to a Unix socket and a blocking read from it, with a wake-up; real I2C costs other things. All of that is in this
  column's CPU, wake-ups and start time, and nothing is subtracted.
";
const FILES: &str = "\
files: the same quantities as {files} plain files a tick in the place of /sys/class/hwmon; all simulated. The agent's own work: no bus
  and no driver behind the files, and no zone, for hwmon's fans are not driven.
";
const BARE: &str = "\
bare: rumqttc v5 on a current_thread runtime; as many bytes as the agent, once a second; no sensors, no control, no outbox.
All: musl, static, no TLS; telemetry and tick once a second, QoS 1; one mosquitto on the loopback with set_tcp_nodelay. First
  publish: from before the start of the process to the first telemetry at a subscriber, with all files cached.
";

/// One line of the table.
struct Figure {
    name: &'static str,
    decimals: usize,
    /// At most.
    goal: Option<f64>,
    of: fn(&Figures) -> Option<f64>,
}

/// Set beside the bare publisher's. Goals for the agent without TLS, on a quiet machine.
const COSTS: [Figure; 10] = [
    Figure { name: "binary, MB", decimals: 3, goal: Some(1.2), of: |f| f.megabytes.median() },
    Figure { name: "RSS, KiB", decimals: 0, goal: Some(1_536.0), of: |f| f.rss.median() },
    Figure { name: "PSS, KiB", decimals: 0, goal: None, of: |f| f.pss.median() },
    Figure { name: "CPU, ms/min", decimals: 1, goal: Some(25.0), of: |f| f.cpu.median() },
    Figure { name: "  least", decimals: 1, goal: None, of: |f| f.cpu.least() },
    Figure { name: "  most", decimals: 1, goal: None, of: |f| f.cpu.most() },
    Figure { name: "wake-ups, 1/min", decimals: 0, goal: Some(200.0), of: |f| f.wakeups.median() },
    Figure { name: "first publish, ms, p50", decimals: 2, goal: Some(4.0), of: |f| f.first.median() },
    Figure { name: "  least", decimals: 2, goal: None, of: |f| f.first.least() },
    Figure { name: "  most", decimals: 2, goal: None, of: |f| f.first.most() },
];

/// The bare publisher's are as long as the agent's because it was told so.
const MESSAGES: [Figure; 4] = [
    Figure { name: "payload, postcard, B", decimals: 0, goal: None, of: |f| f.payload.median() },
    Figure { name: "  its MQTT packet, B", decimals: 0, goal: Some(310.0), of: |f| f.packet.median() },
    Figure { name: "payload, JSON, B", decimals: 0, goal: None, of: |f| f.json.median() },
    Figure { name: "  its MQTT packet, B", decimals: 0, goal: None, of: |f| f.json_packet.median() },
];

/// What was measured of one subject.
#[derive(Default)]
struct Figures {
    megabytes: Values,
    rss: Values,
    pss: Values,
    cpu: Values,
    wakeups: Values,
    first: Values,
    payload: Values,
    packet: Values,
    json: Values,
    json_packet: Values,
    /// Per minute, by name of thread.
    threads: BTreeMap<String, (Values, Values)>,
    /// First messages in which no reading was missing.
    complete: u32,
}

pub(crate) struct Report {
    /// By column.
    figures: BTreeMap<Subject, Figures>,
    head: String,
    no_files: Option<String>,
    starts: u32,
    began: CpuTime,
}

impl Report {
    pub(crate) fn new(options: &Options, lab: &Lab) -> Result<Self> {
        let (starts, rounds, window, settle) = (options.starts, options.rounds, options.window, options.settle);
        let mut head = machine()?;
        head += &format!("{starts} starts, and {rounds} window(s) of {window:?} after {settle:?}, of each in turn\n");
        let mut figures = BTreeMap::new();
        for subject in lab.subjects() {
            let file = if subject == Subject::Bare { &options.bare } else { &options.rigd };
            let mut of: Figures = Figures::default();
            of.megabytes.push(number(fs::metadata(file)?.len()) / 1e6);
            figures.insert(subject, of);
        }
        Ok(Self { figures, head, no_files: lab.no_files.clone(), starts, began: CpuTime::now()? })
    }

    pub(crate) fn started(&mut self, subject: Subject, first: &First) {
        let figures = self.figures.entry(subject).or_default();
        figures.first.push(first.took.as_secs_f64() * 1e3);
        figures.complete += u32::from(first.complete);
    }

    pub(crate) fn watched(&mut self, subject: Subject, window: Window) {
        let figures = self.figures.entry(subject).or_default();
        let minutes = window.took.as_secs_f64() / 60.0;
        let (mut all_cpu, mut all_wakeups) = (0.0, 0.0);
        for (name, (cpu, wakeups)) in window.threads {
            let (cpu, wakeups) = (cpu.as_secs_f64() * 1e3 / minutes, number(wakeups) / minutes);
            let (cpus, wakeup_counts) = figures.threads.entry(name).or_default();
            cpus.push(cpu);
            wakeup_counts.push(wakeups);
            all_cpu += cpu;
            all_wakeups += wakeups;
        }
        figures.cpu.push(all_cpu);
        figures.wakeups.push(all_wakeups);
        figures.rss.push(number(window.rss));
        figures.pss.push(number(window.pss));
        for (payload, packet) in window.messages {
            figures.payload.push(number(payload));
            figures.packet.push(number(packet));
        }
    }

    pub(crate) fn json(&mut self, subject: Subject, (payload, packet): (usize, usize)) {
        let figures = self.figures.entry(subject).or_default();
        figures.json.push(number(payload));
        figures.json_packet.push(number(packet));
    }

    pub(crate) fn finish(self) -> Result<String> {
        let idle = CpuTime::now()?.idle_since(&self.began);
        let mut text = self.head.clone();
        text += &format!("the machine was idle for {idle:.1} % of the time\n");
        if idle < QUIET {
            text += "NOT A QUIET MACHINE: CPU and start times are upper bounds\n";
        }
        text.push('\n');
        text += &columns(&self.rows());
        text += "\n!: above the goal. (n x): beside the bare publisher.\n";
        text += &self.threads();
        text += &self.notes();
        Ok(text)
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let titles = self.figures.keys().map(|subject| subject.title().to_owned());
        let mut rows = vec![std::iter::once(String::new()).chain(titles).chain(["goal".to_owned()]).collect()];
        for (figure, beside) in COSTS.iter().map(|cost| (cost, true)).chain(MESSAGES.iter().map(|size| (size, false))) {
            let floor = self.figures.get(&Subject::Bare).filter(|_| beside).and_then(figure.of);
            let cells =
                self.figures.iter().map(|(subject, figures)| figure.cell(*subject, (figure.of)(figures), floor));
            let goal = figure.goal.map_or(String::new(), |goal| format!("<= {goal}"));
            rows.push(std::iter::once(figure.name.to_owned()).chain(cells).chain([goal]).collect());
        }
        rows
    }

    /// Where CPU time and wake-ups go.
    fn threads(&self) -> String {
        let header = ["by thread", "CPU, ms/min", "wake-ups, 1/min"].map(str::to_owned).to_vec();
        let mut rows = vec![Vec::new(), header];
        for (subject, figures) in &self.figures {
            for (name, (cpu, wakeups)) in &figures.threads {
                let cell =
                    |values: &Values, decimals| values.median().map_or(String::new(), |v| format!("{v:.decimals$}"));
                rows.push(vec![format!("{}: {name}", subject.title()), cell(cpu, 1), cell(wakeups, 0)]);
            }
        }
        columns(&rows)
    }

    fn notes(&self) -> String {
        let mut notes = String::from("\n");
        notes += SOCKETS;
        match &self.no_files {
            None => notes += &FILES.replace("{files}", &hwmon::files().to_string()),
            Some(why) => notes += &format!("files: left out, for there is no mount namespace to be had: {why}\n"),
        }
        notes += BARE;
        for (subject, Figures { complete, .. }) in &self.figures {
            if *subject != Subject::Bare {
                notes +=
                    &format!("{}: {complete} of {} first messages had every reading.\n", subject.title(), self.starts);
            }
        }
        notes
    }
}

impl Figure {
    fn cell(&self, subject: Subject, value: Option<f64>, floor: Option<f64>) -> String {
        let Some(value) = value else { return String::new() };
        let text = format!("{value:.*}", self.decimals);
        if subject == Subject::Bare {
            return text;
        }
        let mark = if self.goal.is_some_and(|goal| value > goal) { " !" } else { "" };
        let ratio = floor.map_or(String::new(), |floor| format!(" ({:.1}x)", value / floor));
        format!("{text}{mark}{ratio}")
    }
}

pub(crate) fn machine() -> Result<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cpus = std::thread::available_parallelism()?.get();
    let rights = if rustix::process::geteuid().is_root() { "root" } else { "an ordinary user" };
    Ok(format!("Linux {} {}, {cpus} CPUs; run by {rights}\n", kernel.trim_end(), std::env::consts::ARCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_says_how_it_stands_to_goal_and_floor() {
        let figure = Figure { name: "x", decimals: 1, goal: Some(4.0), of: |_| None };
        assert_eq!(figure.cell(Subject::Sockets, Some(3.0), Some(2.0)), "3.0 (1.5x)");
        assert_eq!(figure.cell(Subject::Files, Some(5.0), Some(2.0)), "5.0 ! (2.5x)");
        assert_eq!(figure.cell(Subject::Bare, Some(5.0), Some(5.0)), "5.0");
        assert_eq!(figure.cell(Subject::Files, None, Some(2.0)), "");
        assert_eq!(figure.cell(Subject::Files, Some(1.0), None), "1.0");
    }
}
