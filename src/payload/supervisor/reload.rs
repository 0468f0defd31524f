//! Manifests read again: what is new, what is another, what is gone. Pure.
//!
//! A payload keeps its place in every list for as long as the agent runs, also when its manifest is gone: alarms and
//! telemetry name payloads by their place.

use serde::{Deserialize, Serialize};

use super::super::manifest::Manifest;
use crate::source::Problems;

/// What came of reading the manifests again: names, and mistakes with file, line and key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Seen for the first time, or again.
    pub added: Vec<String>,
    /// Started anew where they ran.
    pub changed: Vec<String>,
    /// Told to end.
    pub removed: Vec<String>,
    /// What was not taken in, and why. Where it was known before, it goes on as it was.
    pub problems: Vec<String>,
}

/// What is to be done, by the place of the known one or of the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The new one of this place has no place yet.
    Add(usize),
    /// The known one is as the new one from now on.
    Become(usize, usize),
    /// The known one has no manifest any more.
    Remove(usize),
}

/// Compares what is known, and whether its manifest is still there, with what was found.
pub(super) fn changes<'a>(
    known: impl Iterator<Item = (&'a Manifest, bool)> + Clone,
    found: &[Manifest],
    problems: &[Problems],
) -> Vec<Change> {
    let wrong = || problems.iter().flat_map(|problems| &problems.0).map(|problem| problem.file.as_str());
    // A directory that cannot be read says nothing of what is in it.
    let blind = wrong().any(|file| !file.ends_with(".toml"));
    let gone = known.clone().enumerate().filter(|(_, (manifest, there))| {
        let found = found.iter().any(|found| found.name == manifest.name);
        *there && !found && !blind && wrong().all(|file| file != manifest.file)
    });
    let mut changes: Vec<Change> = gone.map(|(place, _)| Change::Remove(place)).collect();
    for (new, manifest) in found.iter().enumerate() {
        // Of two with one name the first counts, as at the start.
        if found.iter().take(new).any(|earlier| earlier.name == manifest.name) {
            continue;
        }
        match known.clone().position(|(known, _)| known.name == manifest.name) {
            None => changes.push(Change::Add(new)),
            Some(place) => {
                let same = known.clone().nth(place).is_some_and(|(known, there)| there && known.says(manifest));
                if !same {
                    changes.push(Change::Become(place, new));
                }
            }
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(name: &str, argument: &str) -> Manifest {
        let text = format!("kind = \"ai\"\nargv = [\"/bin/true\", \"{argument}\"]");
        Manifest::parse(&format!("/p/{name}.toml"), name, &text).unwrap()
    }

    #[test]
    fn what_is_new_another_or_gone_is_found_and_the_rest_is_left_alone() {
        let known = [(manifest("a", "1"), true), (manifest("b", "1"), true), (manifest("c", "1"), false)];
        let mut moved = manifest("b", "1");
        moved.file = "/p/other.toml".to_owned();
        let bad = |file: &str| vec![Problems::one(file, "wrong".to_owned())];
        let (a, b) = (manifest("a", "1"), manifest("b", "1"));
        for (name, found, problems, expected) in [
            ("nothing", vec![a.clone(), b.clone()], vec![], vec![]),
            ("another file, the same words", vec![a.clone(), moved], vec![], vec![]),
            ("another", vec![manifest("a", "2"), b.clone()], vec![], vec![Change::Become(0, 0)]),
            ("gone", vec![b.clone()], vec![], vec![Change::Remove(0)]),
            ("wrong", vec![b.clone()], bad("/p/a.toml"), vec![]),
            ("another is wrong", vec![b.clone()], bad("/p/x.toml"), vec![Change::Remove(0)]),
            ("no directory", vec![], bad("/p"), vec![]),
            ("new", vec![a.clone(), b.clone(), manifest("d", "1")], vec![], vec![Change::Add(2)]),
            ("back", vec![a.clone(), b.clone(), manifest("c", "1")], vec![], vec![Change::Become(2, 2)]),
            ("twice", vec![a.clone(), b, manifest("a", "2")], vec![], vec![]),
            ("all gone", vec![], vec![], vec![Change::Remove(0), Change::Remove(1)]),
        ] {
            let of = known.iter().map(|(manifest, there)| (manifest, *there));
            assert_eq!(changes(of, &found, &problems), expected, "{name}");
        }
    }
}
