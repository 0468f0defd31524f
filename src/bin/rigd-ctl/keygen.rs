//! `rigd-ctl keygen`: makes a key that may give orders to rigs, and the file that holds its secret half.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rigd::wire::{KeyId, LONGEST_NAME, PublicKey, Scope, SigningKey};

use crate::people::say;

/// First word of a secret key's file: says what it is to whoever finds it, and which form it has.
const HEAD: &str = "rigd-secret-key-v1";
/// A file of ours is one line.
const LONGEST: u64 = 4_096;

/// The command line of `keygen`.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  rigd-ctl keygen ops --scope operate --scope payload > ops.toml\n  append ops.toml to /etc/rigd/rigd.toml on each rig and restart its agent; keep ops.key where it cannot be read by others"
)]
pub(crate) struct Arguments {
    /// Its name for people
    name: String,
    /// What it may order: observe, operate, tune, payload, update, safety; observe where none is given
    #[arg(long = "scope", value_name = "SCOPE", value_parser = scope)]
    scopes: Vec<Scope>,
    /// Where its secret half goes; NAME.key where none is given. A file that is there is never overwritten
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Make none: show the public half of this file again
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    show: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn scope(text: &str) -> Result<Scope, String> {
    Scope::ALL
        .into_iter()
        .find(|scope| scope.name() == text)
        .ok_or_else(|| format!("must be one of {}", Scope::ALL.map(Scope::name).join(", ")))
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let name = &arguments.name;
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(good) {
        bail!("`{name}` cannot be a key's name: 1 to {LONGEST_NAME} letters, digits, - and _");
    }
    let own = || arguments.out.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.key")));
    let file = arguments.show.clone().unwrap_or_else(own);
    let key = if arguments.show.is_some() { load(&file)? } else { make(&file)? };
    let scopes = if arguments.scopes.is_empty() { &[Scope::Observe][..] } else { &arguments.scopes };
    say(arguments.json, &entry(name, &key.public(), scopes), &facts(name, &key.public(), scopes, &file))
}

fn facts(name: &str, public: &PublicKey, scopes: &[Scope], file: &Path) -> serde_json::Value {
    serde_json::json!({
        "name": name, "id": KeyId::of(public), "public": public, "scopes": scopes, "file": file,
        "table": entry(name, public, scopes),
    })
}

/// The table of a rig's configuration that trusts the key.
fn entry(name: &str, public: &PublicKey, scopes: &[Scope]) -> String {
    let scopes: Vec<String> = scopes.iter().map(|scope| format!("\"{}\"", scope.name())).collect();
    let id = KeyId::of(public);
    format!(
        "# Key {id}: what `rotate-key --revoke` and the audit log call it.\n[key.{name}]\npublic = \"{public}\"\nscopes = [{}]\n",
        scopes.join(", ")
    )
}

fn make(path: &Path) -> anyhow::Result<SigningKey> {
    let seed = crate::random()?;
    let key = SigningKey::from_seed(&seed).context("no key could be made")?;
    let shown = path.display();
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            bail!("{shown}: is there already, and is not overwritten")
        }
        made => made.with_context(|| format!("{shown}: could not be made"))?,
    };
    writeln!(file, "{HEAD} {}", PublicKey(seed)).with_context(|| format!("{shown}: could not be written"))?;
    file.sync_all().with_context(|| format!("{shown}: could not be written"))?;
    Ok(key)
}

/// Reads a secret key.
///
/// # Errors
/// A file that cannot be read, that others can read, or that is no key.
pub(crate) fn load(path: &Path) -> anyhow::Result<SigningKey> {
    let shown = path.display();
    let metadata = fs::metadata(path).with_context(|| format!("{shown}: could not be read"))?;
    if metadata.mode() & 0o077 != 0 {
        bail!("{shown}: others can read this secret key: chmod 600 {shown}");
    }
    if metadata.len() > LONGEST {
        bail!("{shown}: this is no secret key");
    }
    let text = fs::read_to_string(path).with_context(|| format!("{shown}: could not be read"))?;
    // The seed has the form of a public key: 32 bytes in hexadecimal.
    let seed = text.trim().strip_prefix(HEAD).and_then(|rest| rest.trim().parse::<PublicKey>().ok());
    let seed = seed.with_context(|| format!("{shown}: this is no secret key: it does not read `{HEAD} …`"))?;
    SigningKey::from_seed(&seed.0).with_context(|| format!("{shown}: this is no secret key"))
}

#[cfg(test)]
mod tests {
    use rigd::command::trust::FleetConfig;
    use rigd::wire::TrustedKey;

    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_key_comes_back_and_is_never_overwritten_nor_read_where_others_could() {
        let directory = Scratch::new("keygen");
        let path = directory.join("ops.key");
        let made = make(&path).unwrap().public();
        assert_eq!(load(&path).unwrap().public(), made);
        assert!(make(&path).unwrap_err().to_string().contains("is not overwritten"));
        let mode = |mode| fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        mode(0o640);
        assert!(load(&path).unwrap_err().to_string().contains("chmod 600"));
        mode(0o600);
        fs::write(&path, "ssh-ed25519 AAAA").unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("this is no secret key"));
    }

    #[test]
    fn what_is_printed_is_a_table_of_the_configuration() {
        let key = PublicKey([0xab; 32]);
        let text = entry("day-1", &key, &[Scope::Operate, Scope::Tune]);
        let facts = facts("day-1", &key, &[Scope::Operate, Scope::Tune], Path::new("day-1.key"));
        assert_eq!((&facts["public"], &facts["scopes"][1]), (&"ab".repeat(32).into(), &"tune".into()));
        assert_eq!(
            (facts["id"].as_str(), facts["table"].as_str()),
            (Some(KeyId::of(&key).to_string().as_str()), Some(&*text))
        );
        let [read] = FleetConfig::parse("x", &text).map_err(|p| p.to_string()).unwrap().keys.try_into().unwrap();
        assert_eq!(
            read,
            TrustedKey { name: "day-1".to_owned(), public: key, scopes: vec![Scope::Operate, Scope::Tune] }
        );
    }
}
