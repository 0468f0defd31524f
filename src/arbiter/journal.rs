//! What the next agent has to know: `arbiter.json`, on the disk before anything of it is done.
//!
//! Another version may have written it, or may read it: a field keeps its type for ever, a new one is not there in an older file, and
//! one that is not known here is passed over. A change of hands that cannot be understood is forgotten by itself, and planned anew;
//! what must not be forgotten with it stands beside it.

use std::collections::BTreeMap;
use std::time::Duration;

use log::{info, warn};
use serde::{Deserialize, Deserializer, Serialize};
use tokio::task::spawn_blocking;

use super::Arbiter;
use super::switch::Switch;
use super::tenants::Left;
use crate::statefile::StateFile;

/// What the next agent has to know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Kept {
    /// The boot of the rig that its times are of.
    pub(super) boot: u32,
    /// What is under way.
    #[serde(deserialize_with = "understood")]
    pub(super) switches: Vec<Switch>,
    /// GPUs given, by payload.
    pub(super) given: BTreeMap<String, Vec<String>>,
    /// How often in a row a payload did not work, and until when it is left out.
    pub(super) bars: BTreeMap<String, (u32, Duration)>,
    /// What tenants leave, or may have left, by payload.
    pub(super) left: BTreeMap<String, Left>,
}

/// Those that this version knows how to go on with.
fn understood<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Switch>, D::Error> {
    let all = Vec::<serde_json::Value>::deserialize(from)?;
    let one = |value| match serde_json::from_value(value) {
        Ok(switch) => Some(switch),
        Err(error) => {
            warn!("arbiter: forgets a change of hands of another version: {error}");
            None
        }
    };
    Ok(all.into_iter().filter_map(one).collect())
}

impl Kept {
    /// What the last agent left.
    pub(super) fn load(file: &StateFile, boot: u32, now: Duration) -> Self {
        let mut kept: Self = file.load("a change of hands that was under way is forgotten, and what tenants left");
        if kept.boot != boot {
            kept.bars.clear();
        }
        kept.boot = boot;
        // Its times are those of an agent that is gone.
        kept.switches.iter_mut().for_each(|switch| switch.since = now);
        if !kept.switches.is_empty() {
            info!("arbiter: takes up {} changes of hands that were under way", kept.switches.len());
        }
        kept
    }
}

impl Arbiter {
    pub(super) async fn save(&self) {
        let (file, kept) = (self.journal.clone(), self.kept.clone());
        if let Ok(Err(error)) = spawn_blocking(move || file.save(&kept)).await {
            warn!("arbiter: how far it is could not be written down: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::switch::{Share, Step};
    use super::*;

    /// As versions have written it. If this test fails, do not change the text.
    const OLD: &str = r#"{
      "boot": 7,
      "switches": [SWITCHES{
        "from": [{ "payload": "mine", "gpus": ["GPU-a", "GPU-b"] }],
        "to": [{ "payload": "llm", "gpus": ["GPU-a"] }],
        "back": true, "step": "wipe", "since": { "secs": 3, "nanos": 5 }, "took": [1, 2, 3, 4, 5]
      }],
      "given": { "mine": ["GPU-a"] },
      "bars": { "llm": [2, { "secs": 9, "nanos": 0 }] },
      "left": { "tenant": { "folders": ["/t/private"], "gpus": ["GPU-c"] }MORE }
    }"#;

    fn loaded(name: &str, text: &str) -> Kept {
        let place = std::env::temp_dir().join(format!("rigd-journal-{name}-{}", std::process::id()));
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("arbiter.json"), text).unwrap();
        let kept = Kept::load(&StateFile::new(&place, "arbiter.json", 10_000), 7, Duration::from_secs(70));
        assert!(!place.join("arbiter.json.bad").exists(), "{name}");
        fs::remove_dir_all(&place).unwrap();
        kept
    }

    #[test]
    fn what_another_version_wrote_loses_no_more_than_what_is_not_understood() {
        let share = |payload: &str, gpus: &[&str]| Share {
            payload: payload.to_owned(),
            gpus: gpus.iter().map(|gpu| (*gpu).to_owned()).collect(),
        };
        let switch = Switch {
            back: true,
            step: Step::Wipe,
            took: [1, 2, 3, 4, 5],
            ..Switch::new(
                vec![share("mine", &["GPU-a", "GPU-b"])],
                vec![share("llm", &["GPU-a"])],
                Duration::from_secs(70),
            )
        };
        let left = |gpu: &str, folders: &[&str]| Left {
            folders: folders.iter().map(Into::into).collect(),
            gpus: vec![gpu.to_owned()],
        };
        let expected = Kept {
            boot: 7,
            switches: vec![switch],
            given: [("mine".to_owned(), vec!["GPU-a".to_owned()])].into(),
            bars: [("llm".to_owned(), (2, Duration::from_secs(9)))].into(),
            left: [("tenant".to_owned(), left("GPU-c", &["/t/private"]))].into(),
        };
        let newer = r#"{ "from": [], "to": [], "back": false, "step": "measure", "since": { "secs": 3, "nanos": 5 },
            "took": [1, 2, 3, 4, 5] }, { "took": [1, 2, 3, 4, 5, 6] }, 5, "#;
        let more = r#", "other": { "folders": ["/x/private"], "gpus": ["GPU-d"], "why": 5 } }, "else": { "why": 5"#;
        assert_eq!(loaded("old", &OLD.replace("SWITCHES", "").replace("MORE", "")), expected);
        let mut with_more = expected.clone();
        with_more.left.insert("other".to_owned(), left("GPU-d", &["/x/private"]));
        assert_eq!(loaded("new", &OLD.replace("SWITCHES", newer).replace("MORE", more)), with_more);
        // What this version writes it reads.
        assert_eq!(loaded("own", &serde_json::to_string(&with_more).unwrap()), with_more);
    }
}
