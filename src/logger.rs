//! Log lines on stderr, with the priority that journald reads (sd-daemon(3)) where it is journald that listens.
//!
//! A thread of its own writes them: whoever logs hands the line over and goes on. A pipe that nobody empties or a full disk
//! behind stderr must not hold the thread that drives the fans.

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use log::{Level, LevelFilter, Log, Metadata, Record};

/// Lines that wait to be written. When it is full the line is lost and counted, and the count is written when there is
/// room again.
const LINES: usize = 256;
/// How long the end of the process waits for the last lines.
const LAST_LINES: Duration = Duration::from_millis(200);
const STACK: usize = 64 * 1024;

enum Item {
    Line(String),
    /// Everything before it is written: says so.
    Flush(SyncSender<()>),
}

struct Stderr {
    journald: bool,
    lines: SyncSender<Item>,
    lost: Arc<AtomicU32>,
}

static LINES_IN: OnceLock<SyncSender<Item>> = OnceLock::new();

/// Starts logging; `RIGD_LOG` may be `error`, `warn`, `info` (the default), `debug`, `trace` or `off`.
pub fn start() {
    let level = std::env::var("RIGD_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::Info);
    let (lines, written) = sync_channel(LINES);
    let lost = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&lost);
    let writer = thread::Builder::new().name("log".to_owned()).stack_size(STACK).spawn(move || write(&written, &count));
    let logger = Stderr { journald: std::env::var_os("JOURNAL_STREAM").is_some(), lines: lines.clone(), lost };
    if writer.is_ok() && LINES_IN.set(lines).is_ok() && log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(level);
    }
}

/// Waits a moment for what was logged to be written: for the end of the process.
pub fn finish() {
    let (done, written) = sync_channel(1);
    if LINES_IN.get().is_some_and(|lines| lines.try_send(Item::Flush(done)).is_ok()) {
        // What is not written by then is lost; whoever reads our stderr does not.
        let _ = written.recv_timeout(LAST_LINES);
    }
}

fn write(lines: &Receiver<Item>, lost: &AtomicU32) {
    for item in lines {
        // A line that cannot be written is lost: there is nobody to tell.
        match item {
            Item::Line(line) => drop(std::io::stderr().lock().write_all(line.as_bytes())),
            Item::Flush(done) => drop(done.try_send(())),
        }
        let count = lost.swap(0, Ordering::Relaxed);
        if count > 0 {
            drop(writeln!(std::io::stderr().lock(), "{count} log lines were lost: nobody took them"));
        }
    }
}

/// The syslog priority of a level.
const fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// What others said is in some lines: none of it begins a line of its own or drives a terminal.
fn tame(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Our dependencies' own news is not the operator's.
        metadata.target().starts_with("rigd")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = tame(record.args().to_string());
        let line = if self.journald {
            format!("<{}>{text}\n", priority(record.level()))
        } else {
            format!("{:5} {text}\n", record.level())
        };
        if self.lines.try_send(Item::Line(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_line_is_one_line_whatever_is_said() {
        let said = "why: x\n<3>rigd: all is well\r\u{1b}[2J\u{9b}1m".to_owned();
        assert_eq!(super::tame(said), "why: x\u{fffd}<3>rigd: all is well\u{fffd}\u{fffd}[2J\u{fffd}1m");
        assert_eq!(super::tame("45 °C".to_owned()), "45 °C");
    }
}
