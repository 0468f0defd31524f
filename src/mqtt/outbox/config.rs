//! What `rigd.toml` says of messages that wait.
//!
//! ```toml
//! [outbox]
//! max_kib = 1024        # in memory
//! disk_mib = 64         # on the disk
//! max_age_h = 72        # what waited longer is dropped
//! delivery = "auto"     # or "watermark", "puback"; auto: the watermark once a control plane was heard at this broker
//! backlog_per_s = 20    # messages of the backlog a second, beside what is new
//! ```

use std::time::Duration;

use crate::source::Table;

/// When a message counts as delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// By the watermark where a control plane announced itself at this broker, in this start or an earlier one; else by the
    /// broker's acknowledgement: events and answers on a first start only 30 s after the connection. A control plane of which
    /// there was no sign for `max_age` is forgotten.
    #[default]
    Auto,
    /// When the control plane's watermark has passed it.
    Watermark,
    /// When the broker has acknowledged it.
    Puback,
}

/// How messages wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxConfig {
    /// Most that they take in memory, bytes.
    pub ram_bytes: usize,
    /// Most that they take on the disk, bytes.
    pub disk_bytes: u64,
    /// What is on the disk for longer is dropped, once this start of the agent has lasted as long.
    pub max_age: Duration,
    /// When they are delivered.
    pub delivery: Delivery,
    /// Time between two messages of the backlog.
    pub pace: Duration,
}

impl OutboxConfig {
    /// A file that is this long is not appended to any more: the budget is made of 64 of them, of 1 MiB at most.
    pub(super) fn segment(&self) -> u64 {
        (self.disk_bytes / 64).clamp(64 * 1024, 1024 * 1024)
    }

    /// Reads the table. What is wrong with it is complained of there.
    pub(crate) fn read(root: &Table<'_>) -> Self {
        let table = root.table("outbox");
        table.only(&["max_kib", "disk_mib", "max_age_h", "delivery", "backlog_per_s"]);
        let ranged = |key: &str, default: u32, low, high| table.ranged(key, low, high).unwrap_or(default);
        let max_kib = ranged("max_kib", 1_024, 64, 1_048_576);
        let delivery = match table.text("delivery").as_deref() {
            None | Some("auto") => Delivery::Auto,
            Some("watermark") => Delivery::Watermark,
            Some("puback") => Delivery::Puback,
            Some(other) => {
                table.complain("delivery", format!("must be `auto`, `watermark` or `puback`, not `{other}`"));
                Delivery::Auto
            }
        };
        Self {
            ram_bytes: usize::try_from(max_kib).unwrap_or(usize::MAX).saturating_mul(1024),
            disk_bytes: u64::from(ranged("disk_mib", 64, 4, 65_536)) * 1024 * 1024,
            max_age: Duration::from_secs(u64::from(ranged("max_age_h", 72, 1, 8_760)) * 3_600),
            delivery,
            pace: Duration::from_secs(1) / ranged("backlog_per_s", 20, 1, 1_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn parse(lines: &str) -> Result<OutboxConfig, String> {
        let text = format!("board = \"simulated-8gpu\"\n[outbox]\n{lines}");
        Config::parse("rigd.toml", &text, "rig-1").map(|config| config.outbox).map_err(|problems| problems.to_string())
    }

    #[test]
    fn what_is_left_out_stands_at_its_default_and_what_is_said_is_taken() {
        let standard = OutboxConfig {
            ram_bytes: 1 << 20,
            disk_bytes: 64 << 20,
            max_age: Duration::from_secs(72 * 3_600),
            delivery: Delivery::Auto,
            pace: Duration::from_millis(50),
        };
        assert_eq!(parse(""), Ok(standard));
        let said =
            parse("max_kib = 64\ndisk_mib = 4\nmax_age_h = 1\ndelivery = \"puback\"\nbacklog_per_s = 100").unwrap();
        assert_eq!((said.ram_bytes, said.disk_bytes, said.max_age), (1 << 16, 4 << 20, Duration::from_secs(3_600)));
        assert_eq!((said.delivery, said.pace), (Delivery::Puback, Duration::from_millis(10)));
    }

    #[test]
    fn nonsense_is_refused_with_its_key() {
        for (line, key) in [
            ("disk_mib = 3", "disk_mib"),
            ("max_age_h = 0", "max_age_h"),
            ("delivery = \"perhaps\"", "delivery"),
            ("backlog_per_s = 0", "backlog_per_s"),
            ("max_kib = 1", "max_kib"),
        ] {
            let problems = parse(line).unwrap_err();
            assert!(problems.contains(key), "{line}: {problems}");
        }
    }
}
