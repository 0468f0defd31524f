//! Which GPU gets which profile: `[gpu]` and `[profile.NAME]` of `rigd.toml`.
//!
//! ```toml
//! [gpu]
//! profile = "eco"                    # of every GPU; none is touched where it is left out
//! probation_s = 60
//! start_s = 90                       # for the driver to come up
//! helper = "/usr/libexec/rigd-nvml"  # or unix:/run/rigd-nvml.sock. Left out: that socket where it is, else the program
//!                                    # beside the agent's own file
//! [gpu.card."0000:01:00.0"]          # or by UUID, which goes first where both are given
//! profile = "none"                   # this one is left alone
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Places;
use super::helper::{DEADLINE, Launch, Program, START};
use super::profile::Profile;
use super::wire::PciAddress;
use crate::bus::Host;
use crate::source::Table;

/// Where `rigd-nvml.socket` listens.
const SOCKET: &str = "/run/rigd-nvml.sock";

/// Stands for no profile at all.
pub const NONE: &str = "none";

/// What the configuration says of GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuConfig {
    /// Every profile, by name.
    pub profiles: Vec<Profile>,
    /// How long a new profile is watched before it is good, 10 s to 1 h.
    pub probation: Duration,
    /// How long the driver may take to come up before that is given up and tried anew, 10 s to 10 min.
    pub start: Duration,
    /// How `rigd-nvml` is had; where none is given, by `rigd-nvml.socket` or beside the agent's own file.
    pub helper: Option<Program>,
    /// The library that it loads in place of the driver's own.
    pub library: Option<PathBuf>,
    /// Index into the profiles, of every GPU.
    all: Option<usize>,
    /// The same of single ones; none leaves it alone.
    cards: Vec<(Card, Option<usize>)>,
}

/// A GPU as people name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Card {
    /// `GPU-…`.
    Uuid(String),
    /// Where it sits.
    Pci(PciAddress),
}

impl Card {
    /// What is written like a UUID or a PCI address.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name.parse() {
            Ok(pci) => Some(Self::Pci(pci)),
            Err(_) if name.starts_with("GPU-") => Some(Self::Uuid(name.to_owned())),
            Err(_) => None,
        }
    }

    /// Whether it is this one.
    pub(crate) fn is(&self, uuid: Option<&str>, pci: PciAddress) -> bool {
        match self {
            Self::Uuid(own) => uuid == Some(own),
            Self::Pci(own) => *own == pci,
        }
    }
}

impl Default for GpuConfig {
    fn default() -> Self {
        Self {
            profiles: Vec::new(),
            probation: Duration::from_secs(60),
            start: START,
            helper: None,
            library: None,
            all: None,
            cards: Vec::new(),
        }
    }
}

impl GpuConfig {
    /// The profile that this GPU is to have; none where it is to be left alone.
    #[must_use]
    pub fn wanted(&self, uuid: &str, pci: PciAddress) -> Option<&Profile> {
        let of = |wanted: &Card| self.cards.iter().find(|(card, _)| card == wanted).map(|(_, profile)| *profile);
        let by_uuid = self.cards.iter().find(|(card, _)| matches!(card, Card::Uuid(known) if known == uuid));
        let index = by_uuid.map(|(_, profile)| *profile).or_else(|| of(&Card::Pci(pci))).unwrap_or(self.all);
        self.profiles.get(index?)
    }

    /// The profile of this name.
    #[must_use]
    pub fn named_profile(&self, name: &str) -> Option<&Profile> {
        self.profiles.iter().find(|profile| profile.name == name)
    }

    /// Where this machine has its GPUs, or the simulated rig its own: there, without a library to load, there are none.
    #[must_use]
    pub fn places(&self, host: &Host) -> Places {
        let beside = || std::env::current_exe().ok().map(|agent| Program::Run(agent.with_file_name("rigd-nvml")));
        let real = host.simulation.is_none() || self.library.is_some();
        let listening = || {
            Some(Program::Connect(SOCKET.into()))
                .filter(|_| self.library.is_none() && host.simulation.is_none() && Path::new(SOCKET).exists())
        };
        let program = self.helper.clone().or_else(listening).or_else(beside).filter(|_| real);
        let launch = program.map(|program| Launch {
            program,
            library: self.library.clone(),
            simulation: host.simulation.clone(),
            start: self.start,
            deadline: DEADLINE,
        });
        let (sysfs, kmsg) = match &host.simulation {
            Some(directory) => (directory.join("sys"), directory.join("kmsg")),
            None => (host.sysfs.clone(), host.dev.join("kmsg")),
        };
        Places { launch, sysfs, kmsg }
    }

    /// Reads both tables. What is wrong with them is complained of there.
    pub(crate) fn read(root: &Table<'_>) -> Self {
        let mut config = Self::default();
        for (name, table) in root.tables("profile") {
            if name == NONE || name.is_empty() || name.len() > 64 || name.contains(char::is_control) {
                root.complain(&format!("profile.{name}"), "cannot be a profile's name");
            }
            config.profiles.push(Profile::read(name, &table));
        }
        let gpu = root.table("gpu");
        gpu.only(&["profile", "probation_s", "start_s", "helper", "library", "card"]);
        config.probation = seconds(&gpu, "probation_s", 3_600).unwrap_or(config.probation);
        config.start = seconds(&gpu, "start_s", 600).unwrap_or(config.start);
        config.helper = gpu.text("helper").map(|helper| match helper.strip_prefix("unix:") {
            Some(path) => Program::Connect(path.into()),
            None => Program::Run(helper.into()),
        });
        config.library = gpu.text("library").map(PathBuf::from);
        if config.library.is_some() && matches!(config.helper, Some(Program::Connect(_))) {
            gpu.complain("library", "is for a helper that rigd starts itself; whoever listens there chooses its own");
        }
        config.all = gpu.text("profile").and_then(|name| config.named(&gpu, &name));
        for (name, table) in gpu.tables("card") {
            table.only(&["profile"]);
            let Some(card) = Card::named(&name) else {
                gpu.complain(&format!("card.{name}"), "must be like GPU-… (its UUID) or 0000:01:00.0");
                continue;
            };
            let profile = config.named(&table, &table.needed_text("profile"));
            if config.cards.iter().any(|(known, _)| *known == card) {
                table.complain("profile", "this GPU is there twice");
            }
            config.cards.push((card, profile));
        }
        config
    }

    fn named(&self, table: &Table<'_>, name: &str) -> Option<usize> {
        let index = self.profiles.iter().position(|profile| profile.name == name);
        // An empty name was complained of already, as missing.
        if index.is_none() && name != NONE && !name.is_empty() {
            table.complain("profile", format!("there is no [profile.{name}]"));
        }
        index
    }
}

/// A time of 10 s or more.
fn seconds(table: &Table<'_>, key: &str, most: u64) -> Option<Duration> {
    let seconds: u64 = table.number(key)?;
    if !(10..=most).contains(&seconds) {
        table.complain(key, format!("must be 10 to {most}, not {seconds}"));
    }
    Some(Duration::from_secs(seconds.clamp(10, most)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::gpu::profile::{FanRule, Limit};
    use crate::units::{Duty, Megahertz, MegahertzOffset, Millicelsius, Milliwatts, Percent};

    fn parse(text: &str) -> Result<GpuConfig, String> {
        let text = format!("board = \"a\"\n{text}");
        Config::parse("rigd.toml", &text, "host").map(|config| config.gpus).map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_profile_with_everything() {
        let config = parse(
            "[gpu]\nprofile = \"eco\"\n[profile.eco]\npower_limit_w = 220\ncore_lock_mhz = [900, 1500]\n\
             memory_lock_mhz = 5001\ncore_offset_mhz = -50\nmemory_offset_mhz = 1000\n\
             fan_curve = [[40, 30], [80, 100]]\npersistence = false\n[profile.b]\npower_limit_pct = 70\nfan_pct = 60",
        )
        .unwrap();
        let points = [(40, 30), (80, 100)].map(|(t, d)| (Millicelsius(t * 1000), Duty::from_percent(d).unwrap()));
        let eco = Profile {
            name: "eco".to_owned(),
            power_limit: Some(Limit::Power(Milliwatts(220_000))),
            core_lock: Some((Megahertz(900), Megahertz(1_500))),
            memory_lock: Some((Megahertz(5_001), Megahertz(5_001))),
            core_offset: Some(MegahertzOffset(-50)),
            memory_offset: Some(MegahertzOffset(1_000)),
            fans: Some(FanRule::Curve(points.to_vec())),
            persistence: Some(false),
        };
        let pci = "0000:01:00.0".parse().unwrap();
        assert_eq!(config.wanted("GPU-1", pci), Some(&eco));
        assert_eq!(config.probation, Duration::from_secs(60));
        let other = config.profiles.first().unwrap();
        assert_eq!(other.power_limit, Some(Limit::OfDefault(Percent(70))));
        assert_eq!(other.fans, Some(FanRule::Fixed(Duty::from_percent(60).unwrap())));
    }

    #[test]
    fn a_gpu_by_itself_goes_before_all_and_its_uuid_before_its_place() {
        let text = "[gpu]\nprofile = \"a\"\n[gpu.card.\"0000:01:00.0\"]\nprofile = \"none\"\n\
                    [gpu.card.GPU-1]\nprofile = \"b\"\n[profile.a]\n[profile.b]\npersistence = true";
        let config = parse(text).unwrap();
        for (uuid, pci, expected) in [
            ("GPU-9", "0000:02:00.0", Some("a")),
            ("GPU-9", "0000:01:00.0", None),
            ("GPU-1", "0000:01:00.0", Some("b")),
            ("GPU-1", "0000:07:00.0", Some("b")),
        ] {
            let name = config.wanted(uuid, pci.parse().unwrap()).map(|profile| profile.name.as_str());
            assert_eq!(name, expected, "{uuid} {pci}");
        }
        assert_eq!(parse("").unwrap(), GpuConfig::default());
        let patient = parse("[gpu]\nstart_s = 240\nhelper = \"/x\"").unwrap().places(&Host::default());
        assert_eq!(patient.launch.map(|launch| launch.start), Some(Duration::from_secs(240)));
        assert_eq!(GpuConfig::default().wanted("GPU-1", "0000:01:00.0".parse().unwrap()), None);
    }

    #[test]
    fn every_mistake_names_file_line_and_key() {
        for (text, expected) in [
            ("[gpu]\nprofile = \"x\"", "rigd.toml:3: gpu.profile: there is no [profile.x]"),
            ("[gpu]\nprobation_s = 5", "rigd.toml:3: gpu.probation_s: must be 10 to 3600, not 5"),
            ("[gpu]\nstart_s = 601", "rigd.toml:3: gpu.start_s: must be 10 to 600, not 601"),
            (
                "[gpu]\nhelper = \"unix:/x\"\nlibrary = \"/y\"",
                "rigd.toml:4: gpu.library: is for a helper that rigd starts itself",
            ),
            ("[gpu]\nproflie = \"x\"", "rigd.toml:3: gpu.proflie: unknown key"),
            ("[gpu.card.x]\nprofile = \"none\"", "rigd.toml:2: gpu.card.x: must be like GPU-"),
            ("[gpu.card.GPU-1]", "rigd.toml:2: gpu.card.GPU-1.profile: is missing"),
            (
                "[gpu.card.\"0000:01:00.0\"]\nprofile = \"none\"\n[gpu.card.\"0000:02:00.0\"]\nprofile = \"y\"",
                "rigd.toml:5: gpu.card.0000:02:00.0.profile: there is no [profile.y]",
            ),
            (
                "[gpu.card.\"0000:01:00.0\"]\nprofile = \"none\"\n[gpu.card.\"0000:01:00\"]\nprofile = \"none\"",
                "rigd.toml:3: gpu.card.0000:01:00.0.profile: this GPU is there twice",
            ),
            ("[profile.none]", "rigd.toml:2: profile.none: cannot be a profile's name"),
            ("[profile.a]\npower_w = 3", "rigd.toml:3: profile.a.power_w: unknown key"),
            ("[profile.a]\npower_limit_w = 9", "rigd.toml:3: profile.a.power_limit_w: must be 10 to 2000, not 9"),
            (
                "[profile.a]\npower_limit_w = 90\npower_limit_pct = 50",
                "rigd.toml:4: profile.a.power_limit_pct: is one too many",
            ),
            ("[profile.a]\ncore_lock_mhz = [1500, 900]", "rigd.toml:3: profile.a.core_lock_mhz: must rise and"),
            ("[profile.a]\ncore_lock_mhz = [1500]", "rigd.toml:3: profile.a.core_lock_mhz: must be a whole number or"),
            ("[profile.a]\ncore_offset_mhz = 2001", "rigd.toml:3: profile.a.core_offset_mhz: must be -2000 to 2000"),
            ("[profile.a]\nfan_pct = 10", "rigd.toml:3: profile.a.fan_pct: must be 20 to 100"),
            ("[profile.a]\nfan = \"60\"", "rigd.toml:3: profile.a.fan: must be `auto`, not `60`"),
            ("[profile.a]\nfan = \"auto\"\nfan_pct = 50", "rigd.toml:3: profile.a.fan: only one of fan"),
            ("[profile.a]\nfan_curve = [[60, 30], [40, 60]]", "rigd.toml:3: profile.a.fan_curve: temperatures must"),
            ("[profile.a]\nfan_curve = [[60, 70], [70, 60]]", "rigd.toml:3: profile.a.fan_curve: temperatures must"),
            ("[profile.a]\npersistence = 1", "rigd.toml:3: profile.a.persistence: must be `true` or `false`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{text:?} gave {error:?}");
        }
    }
}
