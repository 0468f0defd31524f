//! `rigd-ctl watch`: many rigs live. On a terminal a table that redraws itself, elsewhere a line per message.

pub(crate) mod fleet;
pub(crate) mod session;
pub(crate) mod table;

use std::io::IsTerminal;
use std::time::Duration;

use rigd::clock;
use rigd::wire::{RigId, Topic};
use rustix::termios::tcgetwinsize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::broker::Flags;
use crate::people::decode;
use fleet::Fleet;
use session::{Heard, subscribe};

/// How often the table is drawn.
const REDRAW: Duration = Duration::from_millis(500);

/// The command line.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  rigd-ctl watch --broker mqtts://broker --ca ca.pem --cert me.pem --key me.key   all rigs\n  rigd-ctl watch --rig rig-0007                    one rig in full\n  rigd-ctl watch --json | jq 'select(.kind == \"event\")'\n  rigd-ctl watch --once                            one look, then end"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    broker: Flags,
    /// Only this rig; may be given several times
    #[arg(long)]
    rig: Vec<RigId>,
    /// End after the first telemetry of each rig that is online, or after 10 s
    #[arg(long)]
    once: bool,
    /// Each message as a line of JSON
    #[arg(long)]
    json: bool,
    /// End after so many seconds
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
}

/// What is printed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Table,
    Lines,
    Json,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(watch(&arguments));
    runtime.shutdown_background();
    outcome
}

async fn watch(arguments: &Arguments) -> anyhow::Result<()> {
    let form = match (arguments.json, std::io::stdout().is_terminal() && !arguments.once) {
        (true, _) => Form::Json,
        (false, true) => Form::Table,
        (false, false) => Form::Lines,
    };
    let mut fleet = Fleet::default();
    let mut inbox = subscribe(arguments.broker.clone(), &arguments.rig)?;
    let mut state = "connecting".to_owned();
    let limit = match (arguments.seconds, arguments.once) {
        (Some(seconds), _) => Some(Duration::from_secs(seconds)),
        (None, true) => Some(Duration::from_secs(10)),
        (None, false) => None,
    };
    let end = async {
        match limit {
            Some(limit) => sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    // Also on SIGTERM the terminal is given back.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut redraw = interval(REDRAW);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let screen = Screen::new(form)?;
    loop {
        tokio::select! {
            () = &mut end => break,
            _ = tokio::signal::ctrl_c() => break,
            _ = terminate.recv() => break,
            heard = inbox.recv() => match heard {
                Some(Heard::Message { topic, payload }) => {
                    if let Some(line) = take(&mut fleet, &topic, &payload, form) {
                        crate::print(&line)?;
                    }
                    if arguments.once && fleet.complete() {
                        break;
                    }
                }
                Some(Heard::State(now)) => state = now,
                Some(Heard::Failed(error)) => {
                    drop(screen);
                    return Err(error);
                }
                None => break,
            },
            _ = redraw.tick(), if form == Form::Table => screen.draw(&fleet, &state)?,
        }
    }
    drop(screen);
    if arguments.once && form == Form::Lines {
        crate::print(&table::draw(&fleet, arguments.broker.host(), 200, usize::MAX, clock::now()))?;
    }
    Ok(())
}

/// Takes a message in; the line to print for it, where lines are printed.
fn take(fleet: &mut Fleet, topic: &str, payload: &[u8], form: Form) -> Option<String> {
    let topic = Topic::parse(topic)?;
    let decoded = match decode(payload) {
        Ok(decoded) => decoded,
        Err(error) => return (form != Form::Table).then(|| format!("{} {error}\n", topic.rig)),
    };
    let line = match form {
        Form::Table => None,
        Form::Lines => Some(table::line(fleet, &topic.rig, &decoded.1)),
        Form::Json => crate::decode::to_json(payload, false).ok().map(|json| {
            let rest = json.strip_prefix('{').unwrap_or(&json);
            format!("{{\"topic\":\"{topic}\",{rest}\n")
        }),
    };
    fleet.take(topic.rig, decoded, clock::now());
    line.filter(|line| !line.is_empty())
}

/// The terminal while a table is on it: the other screen, no cursor; both come back on every way out.
struct Screen {
    form: Form,
}

impl Screen {
    fn new(form: Form) -> anyhow::Result<Self> {
        if form == Form::Table {
            crate::print("\x1b[?1049h\x1b[?25l")?;
        }
        Ok(Self { form })
    }

    fn draw(&self, fleet: &Fleet, state: &str) -> anyhow::Result<()> {
        let (width, height) = tcgetwinsize(std::io::stdout()).map_or((80, 24), |size| (size.ws_col, size.ws_row));
        let text = table::draw(fleet, state, width.into(), height.into(), clock::now());
        let lines = text.lines().map(|line| format!("{line}\x1b[K")).collect::<Vec<_>>().join("\r\n");
        crate::print(&format!("\x1b[H{lines}\x1b[J"))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.form == Form::Table {
            // Nothing can be done about a terminal that is gone.
            let _ = crate::print("\x1b[?25h\x1b[?1049l");
        }
    }
}
