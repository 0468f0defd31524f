//! What `rigd.toml` says of payloads: where their manifests are, and below which cgroup they live.
//!
//! ```toml
//! [payload]
//! manifests = "/etc/rigd/payloads.d"
//! cgroup = "/sys/fs/cgroup/rigd"      # that of rigd-payloads.service where it is left out, or the agent's own
//! reboot = true                       # restart the rig where nothing else helps; false where it is left out
//! reboots_per_day = 2                 # at most
//! ```

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::manifest::Manifest;
use super::meter::Meter;
use super::user;
use crate::config::Config;
use crate::source::{Problems, Table};

/// Where manifests are looked for where nothing else is said.
const MANIFESTS: &str = "/etc/rigd/payloads.d";

/// Where payloads come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadConfig {
    /// A manifest each, `NAME.toml`.
    pub manifests: PathBuf,
    /// The cgroup below which each gets its own; the agent's own where none is given.
    pub cgroup: Option<PathBuf>,
    /// Restarts of the rig in a day; 0 where they are off.
    pub reboots_per_day: u8,
}

impl PayloadConfig {
    /// Reads the table. What is wrong with it is complained of there.
    pub(crate) fn read(root: &Table<'_>) -> Self {
        let table = root.table("payload");
        table.only(&["manifests", "cgroup", "reboot", "reboots_per_day"]);
        let path = |key: &str| {
            let path = table.text(key).map(PathBuf::from);
            if path.as_ref().is_some_and(|path| !path.is_absolute()) {
                table.complain(key, "must be a path from the root: /…");
            }
            path
        };
        let most = table.number("reboots_per_day").unwrap_or(2);
        if !(1..=10).contains(&most) {
            table.complain("reboots_per_day", format!("must be 1 to 10, not {most}; reboot = false switches them off"));
        }
        let reboots_per_day = if table.flag("reboot").unwrap_or(false) { most } else { 0 };
        let manifests = path("manifests").unwrap_or_else(|| MANIFESTS.into());
        Self { manifests, cgroup: path("cgroup"), reboots_per_day }
    }
}

/// What may run here, and what is wrong with the rest: a manifest that is wrong keeps neither the others nor the rig from
/// running.
#[must_use]
pub fn manifests(config: &Config) -> (Vec<Manifest>, Vec<Problems>) {
    let (mut manifests, mut problems) = Manifest::load_all(&config.payloads.manifests);
    for manifest in &mut manifests {
        match config.plan.enabled {
            // The plan says how many, each time anew.
            true if manifest.plan.is_some() => manifest.gpus.count = 0,
            true => {}
            false => manifest.plan = None,
        }
    }
    // Whoever has the agent's state is the agent, also where it is a person who asks.
    let agent = std::fs::metadata(&config.state).ok().map(|state| state.uid());
    manifests.retain(|manifest| {
        let file = manifest.file.clone();
        let user = user::wrong(manifest, agent);
        problems.extend(user.map(|why| Problems::one(&file, format!("user: {why}"))));
        let profile = manifest.gpus.profile.as_ref().filter(|name| config.gpus.named_profile(name).is_none());
        if let Some(name) = profile {
            let text = format!("gpus.profile: there is no [profile.{name}] in the agent's configuration");
            problems.push(Problems::one(&file, text));
        }
        let unmeasured = manifest.meter.as_ref().and_then(|used| match Meter::load(&used.name) {
            Err(meter) => Some(format!("meter.name: {meter}")),
            Ok(meter) if used.port.or(meter.port).is_none() => {
                Some(format!("meter.port: is missing: `{}` has no port that everybody uses", used.name))
            }
            Ok(_) => None,
        });
        let measured = unmeasured.is_none();
        problems.extend(unmeasured.map(|text| Problems::one(&file, text)));
        profile.is_none() && measured && user.is_none()
    });
    (manifests, problems)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn restarts_of_the_rig_are_off_unless_somebody_switches_them_on() {
        for (text, expected) in [
            ("", Ok(0)),
            ("reboots_per_day = 3", Ok(0)),
            ("reboot = true", Ok(2)),
            ("reboot = true\nreboots_per_day = 3", Ok(3)),
            ("reboot = true\nreboots_per_day = 0", Err("x.toml:4: payload.reboots_per_day: must be 1 to 10, not 0")),
        ] {
            let config = Config::parse("x.toml", &format!("board = \"a\"\n[payload]\n{text}\n"), "host");
            match (config, expected) {
                (Ok(config), Ok(expected)) => assert_eq!(config.payloads.reboots_per_day, expected, "{text}"),
                (Err(problems), Err(expected)) => assert!(problems.to_string().starts_with(expected), "{problems}"),
                (config, _) => panic!("{text}: {config:?}"),
            }
        }
    }

    #[test]
    fn a_manifest_that_names_what_is_not_there_is_refused_alone() {
        let folder = Scratch::new("manifests");
        let start = "kind = \"mining\"\nargv = [\"/bin/true\"]\nuser = \"nobody\"\n";
        for (name, more) in [
            ("good", "[meter]\nname = \"xmrig\"\nport = 16000\n"),
            ("portless", "[meter]\nname = \"xmrig\"\n"),
            ("meterless", "[meter]\nname = \"abacus\"\n"),
            ("profileless", "[gpus]\ncount = 1\nprofile = \"fast\"\n"),
        ] {
            std::fs::write(folder.join(format!("{name}.toml")), format!("{start}{more}")).unwrap();
        }
        // An agent that can become others keeps its state there: root, whoever runs this.
        std::fs::write(folder.join("userless.toml"), "kind = \"ai\"\nargv = [\"/bin/true\"]\n").unwrap();
        let text = format!("board = \"a\"\nstate = \"/\"\n[payload]\nmanifests = {:?}\n", &*folder);
        let (manifests, problems) = manifests(&Config::parse("rigd.toml", &text, "host").unwrap());
        assert_eq!(manifests.iter().map(|manifest| manifest.name.as_str()).collect::<Vec<_>>(), ["good"]);
        let told = problems.iter().map(ToString::to_string).collect::<String>();
        for (name, why) in [
            ("meterless", "meter.name: "),
            ("portless", "meter.port: is missing: `xmrig`"),
            ("profileless", "gpus.profile: there is no [profile.fast]"),
            ("userless", "user: would run as root; its manifest must name a user"),
        ] {
            assert!(told.contains(&format!("{name}.toml: {why}")), "{name}: {told}");
        }
    }
}
