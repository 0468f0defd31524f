//! `rigd-ctl enroll`: keys and certificates for TLS, of rigs, the broker and the control plane, for a site that has no
//! authority of its own.
//!
//! ```text
//! authority:  enroll --authority DIR ──> rigs-ca, control-ca
//! broker:     enroll --broker NAME --sign-with DIR ──> broker.pem, and both authorities' certificates
//! rig:        enroll RIG ──> RIG.key (stays), RIG.csr ──carried over──> enroll RIG --request RIG.csr --sign-with DIR
//!                                          RIG.pem, control-ca.pem <──carried back──┘
//! ```

mod authority;
mod register;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rcgen::KeyPair;
use rigd::clock;
use rigd::wire::RigId;
use serde_json::{Value, json};

use crate::people::say;
use authority::{Authority, Holder, Serial, Side, Validity};

const DAY_S: u64 = 86_400;
/// How long an authority of ours lasts.
const AUTHORITY_DAYS: u64 = 3_650;
/// Clocks of rigs may be a little behind when a certificate comes.
const EARLIER_S: u64 = 3_600;
/// No file of ours is longer: a register of some ten thousand certificates.
const LONGEST: u64 = 1 << 20;

/// The command line of `enroll`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  rigd-ctl enroll --authority /root/authority                                     once: two authorities, rigs and control\n  rigd-ctl enroll --broker mqtt.example 10.0.0.1 --sign-with /root/authority --out /etc/mosquitto/rigd\n  rigd-ctl enroll --controller operator --sign-with /root/authority --out ~/.rigd\n  rigd-ctl enroll rig-7 --out /etc/rigd                                           on the rig: key and request\n  rigd-ctl enroll rig-7 --request rig-7.csr --sign-with /root/authority          where the authority is: rig-7.pem\n  rigd-ctl enroll --revoke rig-7 --sign-with /root/authority --out /etc/mosquitto/rigd   then: systemctl reload mosquitto\n\nWithout --request, --sign-with makes the key too; bring it to the rig by a way that nobody listens to."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    who: Who,
    /// Where files are put
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Sign with the authority in this directory
    #[arg(long, value_name = "DIR", conflicts_with = "authority")]
    sign_with: Option<PathBuf>,
    /// The rig's certificate request
    #[arg(long, value_name = "FILE", requires_all = ["sign_with", "rig"])]
    request: Option<PathBuf>,
    /// How long the certificate holds
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u64).range(1..=3650))]
    days: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Whom it is for.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Who {
    /// A rig
    rig: Option<RigId>,
    /// Make the authorities of a small site in this directory; keep it off the broker and the rigs
    #[arg(long, value_name = "DIR")]
    authority: Option<PathBuf>,
    /// The broker, by every name and address under which it is dialled
    #[arg(long, value_name = "NAME", num_args = 1.., requires = "sign_with")]
    broker: Vec<String>,
    /// A client of the control plane: `control` may command, `send` may give orders, `operator` may look; its common name is ctl.NAME
    #[arg(long, value_name = "NAME", requires = "sign_with", value_parser = controller)]
    controller: Option<String>,
    /// Revoke every certificate of this name, `rig-7` or `ctl.operator`: writes rigs.crl or control.crl for the broker
    #[arg(long, value_name = "NAME", requires = "sign_with")]
    revoke: Option<String>,
}

/// What comes behind `ctl.`: as a rig's name.
fn controller(text: &str) -> Result<String, String> {
    text.parse::<RigId>().map_err(|_| format!("`{text}` must be 1 to 64 characters of a-z, 0-9 and -"))?;
    Ok(format!("ctl.{text}"))
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let now_s = clock::unix_ms() / 1_000;
    let Who { rig, authority, broker, controller, revoke } = &arguments.who;
    if let Some(directory) = authority {
        let (text, files) = found(directory, now_s)?;
        return say(arguments.json, &text, &json!({ "authorities": files }));
    }
    if let (Some(name), Some(from)) = (revoke, &arguments.sign_with) {
        directory(&arguments.out, 0o755)?;
        let text = register::revoke(from, name, &arguments.out, now_s)?;
        return say(arguments.json, &text, &json!({ "revoked": name, "told": text.trim() }));
    }
    let (holder, stem) = match (rig, controller) {
        (Some(rig), _) => (Holder::Rig(rig.as_str().to_owned()), rig.as_str().to_owned()),
        (None, Some(name)) => (Holder::Controller(name.clone()), name.clone()),
        (None, None) => (Holder::Broker(broker.clone()), "broker".to_owned()),
    };
    holder.check()?;
    directory(&arguments.out, 0o755)?;
    let stem = arguments.out.join(stem);
    let Some(from) = &arguments.sign_with else {
        let (text, facts) = ask(&holder, &stem)?;
        return say(arguments.json, &text, &facts);
    };
    let authority = open(from, holder.side())?;
    let validity = Validity { from_s: now_s.saturating_sub(EARLIER_S), to_s: now_s + arguments.days * DAY_S };
    let serial = Serial::new(crate::random()?);
    // Before it is signed: what is not in the register cannot be revoked.
    register::issued(from, holder.side(), &holder.name(), serial)?;
    let (signed, fingerprint, made) = match (&arguments.request, &holder) {
        (Some(request), Holder::Rig(name)) => {
            let key = authority::read_request(&text(request)?, name).with_context(|| request.display().to_string())?;
            (authority.sign(&holder, &key, validity, serial)?, authority::fingerprint(&key), None)
        }
        _ => {
            let (key, file) = key(&stem)?;
            (authority.sign(&holder, &key, validity, serial)?, authority::fingerprint(&key), Some(file))
        }
    };
    let certificate = extended(&stem, ".pem");
    put(&certificate, &signed)?;
    // By this one everybody knows the broker; the broker knows rigs by the other one.
    let needed = if matches!(holder, Holder::Broker(_)) { &Side::BOTH[..] } else { &[Side::Control] };
    let mut said = String::new();
    if let Some(key) = &made {
        said += &format!("key          {} (secret)\n", key.display());
    }
    said += &format!("certificate  {}, for {} days\n", certificate.display(), arguments.days);
    let mut authorities = Vec::new();
    for side in needed {
        let name = format!("{}-ca.pem", side.name());
        let to = arguments.out.join(&name);
        put(&to, &text(&from.join(&name))?)?;
        said += &format!("authority    {}\n", to.display());
        authorities.push(to);
    }
    let facts = json!({
        "name": holder.name(), "key": made, "certificate": certificate, "days": arguments.days,
        "authorities": authorities, "fingerprint": fingerprint,
    });
    said += &format!("fingerprint  {fingerprint}\n");
    say(arguments.json, &(said + &advice(&holder, &arguments.out)), &facts)
}

/// What to do with it.
fn advice(holder: &Holder, out: &Path) -> String {
    let out = out.display();
    match holder {
        Holder::Rig(name) => format!(
            "\nThe same fingerprint must have been shown on the rig. There, in /etc/rigd, readable by the group rigd:\n[broker]\nca_file = \"/etc/rigd/control-ca.pem\"\ncert_file = \"/etc/rigd/{name}.pem\"\nkey_file = \"/etc/rigd/{name}.key\"\n"
        ),
        Holder::Broker(_) => format!(
            "\nThe broker runs as its own user: chgrp mosquitto {out}/broker.key && chmod 640 {out}/broker.key\n"
        ),
        Holder::Controller(name) if matches!(name.as_str(), "ctl.control" | "ctl.operator" | "ctl.send") => format!(
            "\nrigd-ctl watch --broker mqtts://BROKER:8884 --ca {out}/control-ca.pem --cert {out}/{name}.pem --key {out}/{name}.key\n"
        ),
        Holder::Controller(name) => {
            format!(
                "\nThe broker's access list must say what {name} may do: it knows ctl.control, ctl.send and ctl.operator only.\n"
            )
        }
    }
}

/// Key and request, on the rig itself.
fn ask(holder: &Holder, stem: &Path) -> anyhow::Result<(String, Value)> {
    let (key, file) = key(stem)?;
    let request = extended(stem, ".csr");
    put(&request, &authority::request(holder, &key)?)?;
    let fingerprint = authority::fingerprint(&key);
    let text = format!(
        "key          {} (secret, stays here)\nrequest      {}\nfingerprint  {fingerprint}\n",
        file.display(),
        request.display(),
    );
    let facts = json!({ "name": holder.name(), "key": file, "request": request, "fingerprint": fingerprint });
    Ok((text, facts))
}

/// `rig-7` and not `rig-7` without what is behind its last dot: names of controllers have one.
fn extended(stem: &Path, extension: &str) -> PathBuf {
    let mut path = stem.as_os_str().to_owned();
    path.push(extension);
    path.into()
}

/// The key of this stem: the one that is there, which a renewal keeps, or a new one.
fn key(stem: &Path) -> anyhow::Result<(KeyPair, PathBuf)> {
    let path = extended(stem, ".key");
    if path.exists() {
        let key = KeyPair::from_pem(&text(&path)?).with_context(|| format!("{}: is no key", path.display()))?;
        return Ok((key, path));
    }
    let key = KeyPair::generate().context("no key could be made")?;
    secret(&path, &key.serialize_pem())?;
    Ok((key, path))
}

fn found(at: &Path, now_s: u64) -> anyhow::Result<(String, Vec<PathBuf>)> {
    directory(at, 0o700)?;
    let file = |side: Side, kind: &str| at.join(format!("{}-ca.{kind}", side.name()));
    for path in Side::BOTH.iter().flat_map(|side| [file(*side, "key"), file(*side, "pem")]) {
        if path.exists() {
            bail!("{}: is there already, and is not overwritten", path.display());
        }
    }
    let validity = Validity { from_s: now_s.saturating_sub(EARLIER_S), to_s: now_s + AUTHORITY_DAYS * DAY_S };
    let mut said = String::new();
    for side in Side::BOTH {
        let (certificate, key) = authority::found(side, validity, Serial::new(crate::random()?))?;
        secret(&file(side, "key"), &key)?;
        put(&file(side, "pem"), &certificate)?;
        let signs = match side {
            Side::Rigs => "signs rigs",
            Side::Control => "signs the broker, the control plane and operators",
        };
        said += &format!("{}  {signs}\n", file(side, "pem").display());
    }
    said += "\nWhoever has the .key files can be any rig and any operator: keep them off the network.\n";
    Ok((said, Side::BOTH.map(|side| file(side, "pem")).to_vec()))
}

fn open(at: &Path, side: Side) -> anyhow::Result<Authority> {
    let file = |kind: &str| at.join(format!("{}-ca.{kind}", side.name()));
    let key = file("key");
    let mode =
        fs::metadata(&key).with_context(|| format!("{}: could not be read", key.display()))?.permissions().mode();
    if mode & 0o077 != 0 {
        bail!("{}: others can read this secret key: chmod 600 {}", key.display(), key.display());
    }
    Authority::load(&text(&file("pem"))?, &text(&key)?).with_context(|| at.display().to_string())
}

fn directory(path: &Path, mode: u32) -> anyhow::Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    made.with_context(|| format!("{}: could not be made", path.display()))
}

fn text(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_string(&mut text));
    let length = read.with_context(|| format!("{shown}: could not be read"))?;
    anyhow::ensure!(u64::try_from(length).is_ok_and(|length| length <= LONGEST), "{shown}: is too long");
    Ok(text)
}

/// A file for its owner alone; one that is there is never overwritten.
fn secret(path: &Path, text: &str) -> anyhow::Result<()> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = made.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.with_context(|| format!("{}: could not be written", path.display()))
}

/// A file for everybody, whole or not at all: an agent may read it at this moment.
fn put(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = extended(path, ".new");
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().with_context(|| format!("{}: could not be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn secrets_are_the_owners_alone_and_nothing_is_overwritten() {
        let scratch = Scratch::new("enroll");
        let at = scratch.join("site");
        let now_s = 1_700_000_000;
        found(&at, now_s).unwrap();
        for name in ["rigs-ca.key", "control-ca.key"] {
            assert_eq!(fs::metadata(at.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
        assert!(found(&at, now_s).unwrap_err().to_string().contains("is not overwritten"));
        fs::set_permissions(at.join("rigs-ca.key"), PermissionsExt::from_mode(0o640)).unwrap();
        let error = open(&at, Side::Rigs).err().unwrap();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        assert!(open(&at, Side::Control).is_ok());
        // A renewal keeps the key.
        let (first, path) = key(&at.join("ctl.operator")).unwrap();
        let (again, _) = key(&at.join("ctl.operator")).unwrap();
        assert_eq!(authority::fingerprint(&first), authority::fingerprint(&again));
        assert!(path.ends_with("ctl.operator.key"));
    }

    #[test]
    fn a_controllers_name_cannot_be_a_rigs() {
        assert_eq!(controller("control"), Ok("ctl.control".to_owned()));
        assert!("ctl.control".parse::<RigId>().is_err());
        assert!(controller("a.b").is_err());
    }
}
