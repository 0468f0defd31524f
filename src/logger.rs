//! Log lines on stderr, with the priority that journald reads (sd-daemon(3)) where it is journald that listens.

use std::io::Write;

use log::{Level, LevelFilter, Log, Metadata, Record};

struct Stderr {
    journald: bool,
}

/// Starts logging; `RIGD_LOG` may be `error`, `warn`, `info` (the default), `debug`, `trace` or `off`.
pub fn start() {
    let level = std::env::var("RIGD_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::Info);
    let logger = Stderr { journald: std::env::var_os("JOURNAL_STREAM").is_some() };
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(level);
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

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Our dependencies' own news is not the operator's.
        metadata.target().starts_with("rigd")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = if self.journald {
            format!("<{}>{}\n", priority(record.level()), record.args())
        } else {
            format!("{:5} {}\n", record.level(), record.args())
        };
        // A full disk or a closed pipe behind stderr is no reason for a rig to lose its fans: the line is lost instead.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}
