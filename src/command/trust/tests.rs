use super::*;
use crate::wire::{PayloadAct, SigningKey};

const HEX: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
/// The same 32 bytes, by coreutils' base64.
const BASE64: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

fn key(seed: u8, scopes: &[Scope]) -> TrustedKey {
    let public = SigningKey::from_seed(&[seed; 32]).unwrap().public();
    TrustedKey { name: format!("key-{seed}"), public, scopes: scopes.to_vec() }
}

fn id(seed: u8) -> KeyId {
    KeyId::of(&key(seed, &[]).public)
}

fn trust() -> Trust {
    let keys = vec![key(1, &[Scope::Update]), key(2, &[Scope::Update]), key(3, &[Scope::Operate])];
    Trust::new(&FleetConfig { keys, ..FleetConfig::default() })
}

#[test]
fn a_configuration_is_read() {
    let text = format!(
        "[fleet]\ngroups = [\"a\", \"b\"]\nsite = \"hall-2\"\n[key.ops]\npublic = \"{HEX}\"\nscopes = [\"observe\", \"operate\"]\n"
    );
    let config = FleetConfig::parse("f", &text).unwrap();
    assert_eq!(
        config.keys,
        [TrustedKey {
            name: "ops".to_owned(),
            public: HEX.parse().unwrap(),
            scopes: vec![Scope::Observe, Scope::Operate],
        }]
    );
    assert_eq!((config.groups.len(), config.site.map(|site| site.to_string()).as_deref()), (2, Some("hall-2")));
    assert_eq!(public_key(BASE64), HEX.parse().ok());
    assert_eq!(public_key(BASE64.trim_end_matches('=')), HEX.parse().ok());
}

#[test]
fn every_mistake_names_file_line_and_key() {
    let with = |public: &str, scopes: &str| format!("[key.a]\npublic = \"{public}\"\nscopes = {scopes}\n");
    for (text, expected) in [
        (with("abc", "[\"observe\"]"), "f:2: key.a.public: must be the 32 bytes of an Ed25519 key"),
        // Its last letter holds bits that belong to nothing.
        (with(&BASE64.replace("Ro=", "Rp="), "[\"observe\"]"), "f:2: key.a.public: must be the 32 bytes"),
        (
            with(HEX, "[\"root\"]"),
            "f:3: key.a.scopes: `root` is none of observe, operate, tune, payload, update, safety",
        ),
        (with(HEX, "[\"tune\", \"tune\"]"), "f:3: key.a.scopes: `tune` is there twice"),
        (with(HEX, "[]"), "f:3: key.a.scopes: is missing"),
        ("[key.a]\nscopes = [\"tune\"]\n".to_owned(), "f:1: key.a.public: is missing"),
        (
            with(HEX, "[\"tune\"]") + &with(HEX, "[\"tune\"]").replace("key.a", "key.b"),
            "f:5: key.b.public: is that of `a` too",
        ),
        ("[fleet]\ngroups = [\"A b\"]\n".to_owned(), "f:2: fleet.groups: `A b` cannot be a group's name"),
        ("[fleet]\ngroups = [\"a\"]\nsite = \"a\"\n".to_owned(), "f:3: fleet.site: is one of `groups` too"),
        ("[key.a]\npublic = \"\"\nrevoked = 1\n".to_owned(), "f:"),
        ("[fleet]\nsites = 1\n".to_owned(), "f:2: fleet.sites: unknown key"),
        ("[key.a]\nsecret = 1\n".to_owned(), "f:1: key.a.public: is missing"),
    ] {
        let error = FleetConfig::parse("f", &text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text:?} gave {error:?}");
    }
}

/// The table, order by order.
#[test]
fn what_each_order_takes() {
    let text = || "x".to_owned();
    let add = |scopes: &[Scope]| Order::RotateKey { add: Some(key(9, scopes)), revoke: None };
    for (order, scopes, keys) in [
        (Order::Logs { payload: text(), lines: 1 }, &[Scope::Observe][..], 1),
        (Order::FollowLogs { payload: text(), seconds: 1 }, &[Scope::Observe], 1),
        (Order::Snapshot, &[Scope::Observe], 1),
        (Order::Identify { seconds: 1 }, &[Scope::Operate], 1),
        (Order::Probe, &[Scope::Operate], 1),
        (Order::Reload, &[Scope::Operate], 1),
        (Order::RestartAgent, &[Scope::Operate], 1),
        (Order::Reboot, &[Scope::Operate], 1),
        (Order::Maintenance { on: true, until_ms: None }, &[Scope::Operate], 1),
        (Order::SetProfile { gpu: None, profile: None }, &[Scope::Tune], 1),
        (Order::SetPowerCap(None), &[Scope::Tune], 1),
        (Order::SetFanTarget { zone: text(), target_mc: None }, &[Scope::Tune], 1),
        (Order::Payload { name: text(), act: PayloadAct::Stop }, &[Scope::Payload], 1),
        (Order::Assign { payload: text(), gpus: Vec::new() }, &[Scope::Payload], 1),
        (Order::RotateKey { add: None, revoke: Some(id(1)) }, &[Scope::Update], 2),
        (add(&[Scope::Operate]), &[Scope::Update], 2),
        (add(&[Scope::Safety]), &[Scope::Update, Scope::Safety], 2),
    ] {
        assert_eq!(needs(&order), Needs { scopes, keys }, "{order:?}");
    }
}

#[test]
fn keys_come_and_go_and_a_revoked_one_stays_away() {
    let four = key(4, &[Scope::Update]);
    let next = trust().rotated(Some(&four), Some(id(1))).unwrap();
    assert_eq!(
        (next.key(&id(4)), next.key(&id(1)), next.key(&id(9))),
        (Ok(&four), Err(Refusal::RevokedKey), Err(Refusal::UnknownKey))
    );
    assert_eq!(next.rotated(Some(&four), Some(id(1))), Ok(next.clone()));
    assert!(matches!(next.rotated(Some(&key(1, &[])), None), Err(Refusal::Policy(_))));
    // Neither two that may rotate are left, nor may there be ever more.
    assert!(matches!(next.rotated(None, Some(id(2))), Err(Refusal::Policy(_))));
    let full = (10..80).try_fold(trust(), |trust, seed| trust.rotated(Some(&key(seed, &[])), None));
    assert_eq!(full, Err(Refusal::Policy("too many keys".to_owned())));
}

#[test]
fn revocations_of_keys_that_never_were_push_out_each_other_and_nothing_else() {
    let stranger = |number: u16| {
        let [high, low] = number.to_be_bytes();
        KeyId([0xee, 0xee, 0xee, 0xee, 0, 0, high, low])
    };
    let known = trust().rotated(None, Some(id(3))).unwrap();
    let flooded = (0..300).try_fold(known, |trust, number| trust.rotated(None, Some(stranger(number)))).unwrap();
    assert_eq!(flooded.key(&id(3)), Err(Refusal::RevokedKey));
    assert_eq!(flooded.key(&stranger(300 - u16::try_from(MOST_UNKNOWN).unwrap() - 1)), Err(Refusal::UnknownKey));
    assert_eq!(flooded.key(&stranger(299)), Err(Refusal::RevokedKey));
    // There is still room for keys, and for the revocation of one that is known.
    let next = flooded.rotated(Some(&key(4, &[Scope::Update])), Some(id(1))).unwrap();
    assert_eq!((next.key(&id(1)), next.key(&id(3))), (Err(Refusal::RevokedKey), Err(Refusal::RevokedKey)));
    // One that the configuration comes to name is known from then on.
    let rotations = trust().rotated(None, Some(id(9))).unwrap().rotations;
    let named = FleetConfig { keys: vec![key(9, &[Scope::Tune])], ..FleetConfig::default() };
    let later = Trust::with(&named, rotations);
    let flooded = (0..300).try_fold(later, |trust, number| trust.rotated(None, Some(stranger(number)))).unwrap();
    assert_eq!(flooded.key(&id(9)), Err(Refusal::RevokedKey));
}

#[test]
fn a_key_that_the_configuration_names_may_what_it_and_the_order_let_it() {
    let config = |scopes: &[Scope]| FleetConfig {
        keys: vec![key(1, &[Scope::Update]), key(2, &[Scope::Update]), key(3, scopes)],
        ..FleetConfig::default()
    };
    let both = &[Scope::Operate, Scope::Tune][..];
    for (configured, ordered, expected) in [
        (both, both, both),
        (&[Scope::Operate], both, &[Scope::Operate]),
        (both, &[Scope::Tune], &[Scope::Tune]),
        (&[Scope::Observe], &[Scope::Tune], &[]),
    ] {
        let rotations = Trust::new(&config(ordered)).rotated(Some(&key(3, ordered)), None).unwrap().rotations;
        let trust = Trust::with(&config(configured), rotations);
        assert_eq!(trust.key(&id(3)).unwrap().scopes, expected, "{configured:?} and {ordered:?}");
    }
    let wider = Trust::new(&config(&[Scope::Tune])).rotated(Some(&key(3, both)), None);
    assert!(matches!(wider, Err(Refusal::Policy(text)) if text.contains("fewer scopes")));
}

#[test]
fn the_configuration_revokes_too() {
    let public = key(3, &[]).public;
    let text = format!("[key.lost]\npublic = \"{public}\"\nrevoked = true\n");
    let config = FleetConfig::parse("f", &text).unwrap();
    assert_eq!((config.keys.len(), config.revoked.as_slice()), (0, &[id(3)][..]));
    let added = Trust::new(&FleetConfig::default()).rotated(Some(&key(3, &[Scope::Tune])), None).unwrap();
    let trust = Trust::with(&config, added.rotations);
    assert_eq!(trust.key(&id(3)), Err(Refusal::RevokedKey));
    assert!(matches!(trust.rotated(Some(&key(3, &[])), None), Err(Refusal::Policy(_))));
    let twice = format!("{text}[key.second]\npublic = \"{public}\"\nscopes = [\"tune\"]\n");
    assert!(FleetConfig::parse("f", &twice).unwrap_err().to_string().contains("is that of `lost` too"));
}

#[test]
fn rotations_survive_and_a_damaged_file_trusts_nobody() {
    let directory = std::env::temp_dir().join(format!("rigd-trust-{}", std::process::id()));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    let config = FleetConfig { keys: trust().keys.into_values().collect(), ..FleetConfig::default() };
    let _ = fs::remove_file(path(&directory));
    assert_eq!(Trust::load(&config, &directory).unwrap(), trust());
    let next = trust().rotated(Some(&key(4, &[Scope::Update])), Some(id(1))).unwrap();
    next.save(&directory).unwrap();
    assert_eq!(Trust::load(&config, &directory).unwrap(), next);
    // As an earlier agent wrote it, without a mark.
    fs::remove_file(directory.join("trust.mark")).unwrap();
    assert_eq!(Trust::load(&config, &directory).unwrap(), next);
    fs::write(path(&directory), "{\"added\": [], ").unwrap();
    assert!(Trust::load(&config, &directory).is_err());
    // Gone: whoever was revoked is not trusted again, before somebody on the rig says so.
    fs::remove_file(path(&directory)).unwrap();
    let gone = Trust::load(&config, &directory).unwrap_err().to_string();
    assert!(gone.contains("remove trust.mark"), "{gone}");
    fs::remove_file(directory.join("trust.mark")).unwrap();
    assert_eq!(Trust::load(&config, &directory).unwrap(), trust());
    fs::remove_dir_all(&directory).unwrap();
}
