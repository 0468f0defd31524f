//! What 64 payloads that do nothing, each with its log and a meter that is asked, take of the agent.

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rigd::clock;
use rigd::wire::{Message, Telemetry, decode};

use super::{Site, UP};
use crate::Options;
use crate::kernel::{CpuTime, Sample};
use crate::process::Running;
use crate::report::QUIET;
use crate::statistic::number;
use crate::table::columns;

/// As many as a rig may have manifests.
const CROWD: usize = rigd::payload::manifest::MOST;
/// Until the last of them has been asked by its meter for the first time; they are asked every 10 s.
const ASKED: Duration = Duration::from_secs(30);

/// A window of the agent's life, per minute.
struct Window {
    cpu: f64,
    wakeups: f64,
    rss: f64,
    pss: f64,
    /// Of those who write logs down, together, KiB.
    keepers: f64,
}

pub(super) fn run(options: &Options) -> Result<String> {
    let began = CpuTime::now()?;
    let site = Site::new(options)?;
    let none = watch(options, &site, "measure-none", &[])?;
    // All at once, so that no number is given out twice. Somebody else may take one in between; then the run says so.
    let ports: Vec<TcpListener> =
        (0..CROWD).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<Result<_, _>>().context("ports")?;
    let numbers: Vec<u16> = ports.iter().map(|port| Ok(port.local_addr()?.port())).collect::<Result<_>>()?;
    drop(ports);
    let manifests: Vec<_> = numbers
        .iter()
        .enumerate()
        .map(|(index, port)| {
            let name = format!("crowd-{index}");
            let text = site
                .manifest(&[&name, &port.to_string()], &format!("[meter]\nname = \"generic-json\"\nport = {port}\n"));
            (name, text)
        })
        .collect();
    let many = watch(options, &site, "measure-crowd", &manifests)?;
    let idle = CpuTime::now()?.idle_since(&began);
    Ok(table(&none, &many, idle))
}

fn watch(options: &Options, site: &Site, rig: &str, manifests: &[(String, String)]) -> Result<Window> {
    let mut agent = site.agent(options, rig, manifests)?;
    all_measured(site, &mut agent, rig, manifests.len())?;
    thread::sleep(options.settle);
    let (from, before) = (clock::now(), Sample::take(agent.pid())?);
    let keepers = site.house.keepers();
    let cost = |pids: &[u32]| -> Result<Vec<Sample>> { pids.iter().map(|pid| Sample::take(*pid)).collect() };
    while clock::now().saturating_duration_since(from) < options.window {
        agent.still_running()?;
        site.interrupt.check()?;
        site.listener.next(clock::now() + UP.min(options.window))?;
    }
    let after = Sample::take(agent.pid())?;
    let minutes = clock::now().saturating_duration_since(from).as_secs_f64() / 60.0;
    let (mut cpu, mut wakeups) = (0.0, 0.0);
    for (_, (time, woken)) in after.since(&before) {
        cpu += time.as_secs_f64() * 1e3 / minutes;
        wakeups += number(woken) / minutes;
    }
    let keepers = cost(&keepers)?.iter().fold(0.0, |sum, keeper| sum + number(keeper.pss));
    drop(agent);
    site.house.empty();
    Ok(Window { cpu, wakeups, rss: number(after.rss), pss: number(after.pss), keepers })
}

/// Waits until the agent publishes that so many payloads run and have a rate.
fn all_measured(site: &Site, agent: &mut Running, rig: &str, count: usize) -> Result<()> {
    let deadline = clock::now() + ASKED;
    let mut last = 0;
    while clock::now() < deadline {
        agent.still_running()?;
        site.interrupt.check()?;
        // A payload whose word nobody takes waits with it.
        while site.told.next()?.is_some() {}
        let Some(arrival) = site.listener.next(clock::now() + Duration::from_secs(1))? else { continue };
        if !arrival.topic.contains(rig) {
            continue;
        }
        let (_, Message::Telemetry(Telemetry { payloads, .. })) = decode(&arrival.payload)? else { continue };
        last = payloads.iter().filter(|payload| payload.rate.0.is_ok()).count();
        if last == count {
            return Ok(());
        }
    }
    ensure!(last == count, "{last} of {count} payloads have a rate after {ASKED:?}");
    Ok(())
}

fn table(none: &Window, many: &Window, idle: f64) -> String {
    let each = |without: f64, with: f64| format!("{:.1}", (with - without) / number(CROWD));
    let row = |name: &str, of: fn(&Window) -> f64| {
        vec![name.to_owned(), format!("{:.0}", of(none)), format!("{:.0}", of(many)), each(of(none), of(many))]
    };
    let rows = [
        vec!["the agent".to_owned(), "no payload".to_owned(), format!("{CROWD} payloads"), "each".to_owned()],
        row("CPU, ms/min", |window| window.cpu),
        row("wake-ups, 1/min", |window| window.wakeups),
        row("RSS, KiB", |window| window.rss),
        row("PSS, KiB", |window| window.pss),
        row("log keepers, PSS, KiB", |window| window.keepers),
    ];
    let quiet = if idle < QUIET { "; NOT A QUIET MACHINE: CPU is an upper bound" } else { "" };
    format!(
        "\n{}payloads that sleep, each with a log and a meter over HTTP that is asked every 10 s; no chips; tick and telemetry once a second. The machine\n\
         was idle for {idle:.1} % of the time{quiet}\n",
        columns(&rows)
    )
}
