//! Whether signatures fit: by the keys of a rig's configuration, for people who want to know before the rig does.

use std::path::Path;

use anyhow::Context;
use rigd::command::trust::FleetConfig;
use rigd::wire::{KeyId, Signed, TrustedKey};
use serde::Serialize;

/// Keys that are trusted.
pub(crate) struct Keys(Vec<TrustedKey>);

/// What is known of one signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Checked {
    /// Whose it says it is.
    pub(crate) key: KeyId,
    /// That key's name, where it is trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// Whether it fits; none where nobody was asked to check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fits: Option<bool>,
}

impl Keys {
    /// The `[key.NAME]` tables of this file, which may be a rig's whole configuration.
    ///
    /// # Errors
    /// A file that cannot be read, or mistakes in those tables.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(|| format!("{shown}: could not be read"))?;
        Ok(Self(FleetConfig::parse_within(&shown, &text)?.keys))
    }
}

/// Every signature of a frame, by these keys, on this topic.
pub(crate) fn check(signed: &Signed<'_>, keys: Option<&Keys>, topic: &str) -> Vec<Checked> {
    let one = |signature: &rigd::wire::Signature| {
        let Some(Keys(keys)) = keys else { return Checked { key: signature.key, name: None, fits: None } };
        let known = keys.iter().find(|key| KeyId::of(&key.public) == signature.key);
        let fits = known.is_some_and(|key| signature.fits(&key.public, topic, signed.message));
        Checked { key: signature.key, name: known.map(|key| key.name.clone()), fits: Some(fits) }
    };
    signed.signatures().map(one).collect()
}

/// In words.
pub(crate) fn told(checked: &Checked) -> String {
    match (&checked.name, checked.fits) {
        (_, None) => format!("{}, not checked", checked.key),
        (Some(name), Some(true)) => format!("{name}, which fits"),
        (Some(name), Some(false)) => format!("{name}, WHICH DOES NOT FIT"),
        (None, Some(_)) => format!("{}, A KEY THAT IS NOT TRUSTED", checked.key),
    }
}

#[cfg(test)]
mod tests {
    use rigd::wire::SigningKey;

    use super::*;

    #[test]
    fn a_signature_fits_its_key_its_topic_and_its_message_or_not() {
        let (key, other) = (SigningKey::from_seed(&[1; 32]).unwrap(), SigningKey::from_seed(&[2; 32]).unwrap());
        let trusted = TrustedKey { name: "ops".to_owned(), public: key.public(), scopes: Vec::new() };
        let keys = Keys(vec![trusted]);
        let frame = key.frame(Some(&other), "r1/a/dn/cmd", b"{}");
        let signed = Signed::parse(&frame).unwrap();
        let fits = |topic: &str| {
            let mut found: Vec<_> =
                check(&signed, Some(&keys), topic).into_iter().map(|one| (one.name, one.fits)).collect();
            found.sort();
            found
        };
        assert_eq!(fits("r1/a/dn/cmd"), [(None, Some(false)), (Some("ops".to_owned()), Some(true))]);
        assert_eq!(fits("r1/b/dn/cmd"), [(None, Some(false)), (Some("ops".to_owned()), Some(false))]);
        assert!(check(&signed, None, "").iter().all(|one| one.fits.is_none()));
    }
}
