//! What was found, for programs.

use serde_json::{Value, json};

use super::file::{Bus, Draft, Mux, Seen};
use super::prose::outcome;
use super::scan::What;

/// Every bus with what is on it, the board file that was made of that, and what could not be looked at.
pub(super) fn facts(draft: &Draft, text: &str, missed: &[String]) -> Value {
    let buses: Vec<Value> = draft.buses.iter().map(bus).collect();
    json!({ "notes": draft.notes, "buses": buses, "file": text, "missed": missed })
}

fn bus(bus: &Bus) -> Value {
    let Bus { name, entry: (key, value), title, notes, muxes, seen } = bus;
    let muxes: Vec<Value> = muxes.iter().map(mux).collect();
    let seen: Vec<Value> = seen.iter().map(found).collect();
    json!({ "bus": name, "title": title, "key": key, "value": value, "notes": notes, "muxes": muxes, "found": seen })
}

fn mux(Mux { part, addr, kernel }: &Mux) -> Value {
    json!({ "addr": addr, "part": part, "kernel": kernel })
}

fn found(Seen { addr, behind, what, owner }: &Seen) -> Value {
    let (sure, parts) = match what {
        What::Sure(part) => ("sure", vec![part.name]),
        What::Likely(parts) => ("likely", parts.iter().map(|part| part.name).collect()),
        What::Unknown => ("unknown", Vec::new()),
        What::Unasked(_) => ("unasked", Vec::new()),
        What::Owned => ("kernel", Vec::new()),
        What::Fails(_) => ("fails", Vec::new()),
    };
    let behind = behind.map(|(mux, channel)| json!({ "mux": mux, "channel": channel }));
    let owner = owner.as_ref().map(|owner| json!({ "chip": owner.chip, "driver": owner.driver }));
    json!({ "addr": addr, "behind": behind, "sure": sure, "parts": parts, "told": outcome(what), "kernel": owner })
}

#[cfg(test)]
mod tests {
    use rigd::chip::Part;

    use super::super::scan::Why;
    use super::*;
    use crate::kernel::Owner;

    #[test]
    fn everything_that_was_found_is_in_it_with_how_sure_that_is() {
        let part = |name: &str| Part::find(name).unwrap();
        let owner = Owner { chip: "ina226".to_owned(), driver: Some("ina2xx".to_owned()), ..Owner::default() };
        let seen = [
            (What::Sure(part("max31790")), None, json!({ "sure": "sure", "parts": ["max31790"], "told": "max31790" })),
            (
                What::Likely(vec![part("tmp75"), part("tmp102")]),
                None,
                json!({ "sure": "likely", "parts": ["tmp75", "tmp102"], "told": "likely tmp75 or tmp102" }),
            ),
            (What::Unknown, None, json!({ "sure": "unknown", "parts": [] })),
            (What::Unasked(Why::Memory), None, json!({ "sure": "unasked", "told": "answers; a memory, left alone" })),
            (
                What::Owned,
                Some(owner),
                json!({ "sure": "kernel", "kernel": { "chip": "ina226", "driver": "ina2xx" }, "behind": { "mux": 112, "channel": 3 } }),
            ),
            (
                What::Fails(rigd::bus::Error::TimedOut),
                None,
                json!({ "sure": "fails", "told": "fails when it is asked: timed out" }),
            ),
        ];
        for (what, owner, expected) in seen {
            let behind = owner.as_ref().map(|_| (0x70, 3));
            let told = found(&Seen { addr: 0x40, behind, what, owner });
            assert_eq!(told["addr"], 64);
            for (key, value) in expected.as_object().unwrap() {
                assert_eq!(told[key], *value, "{key} of {told}");
            }
        }
        let draft = Draft {
            notes: vec!["a note".to_owned()],
            buses: vec![Bus {
                name: "main".to_owned(),
                entry: ("socket", "main".to_owned()),
                title: "simulated bus main".to_owned(),
                notes: Vec::new(),
                muxes: vec![Mux { part: "pca9548", addr: 0x70, kernel: true }],
                seen: Vec::new(),
            }],
        };
        let told = facts(&draft, "name = \"a\"\n", &["main: it is late".to_owned()]);
        assert_eq!(told["buses"][0]["muxes"], json!([{ "addr": 112, "part": "pca9548", "kernel": true }]));
        assert_eq!((&told["file"], &told["missed"][0]), (&json!("name = \"a\"\n"), &json!("main: it is late")));
    }
}
