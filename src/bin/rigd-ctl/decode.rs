//! `rigd-ctl decode`: bytes in, JSON out.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use rigd::wire::{Encoding, MAX_MESSAGE, Signed, decode};

use crate::trust::{self, Keys};

/// First byte of a signed frame.
const SIGNED: u8 = 0xa2;

/// The command line.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  mosquitto_sub -t 'r1/rig-7/up/tele' -C 1 -N | rigd-ctl decode\n  echo 'a1 01 01 00 …' | rigd-ctl decode --hex\n  mosquitto_sub -t r1/rig-7/dn/des -C 1 -N | rigd-ctl decode --trust rigd.toml --topic r1/rig-7/dn/des\n\nExit: 0 decoded, 1 not decoded, or with --trust: a signature that does not fit"
)]
pub(crate) struct Arguments {
    /// File with one message, or - for standard input
    #[arg(default_value = "-")]
    file: String,
    /// The bytes are written in hexadecimal; white space does not count
    #[arg(long)]
    hex: bool,
    /// One line instead of an indented object
    #[arg(long)]
    compact: bool,
    /// Say whether signatures fit, by the keys in this file: a rig's configuration, or what keygen printed
    #[arg(long, value_name = "FILE", requires = "topic")]
    trust: Option<PathBuf>,
    /// The topic by which it came: it is signed too
    #[arg(long, requires = "trust")]
    topic: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let bytes = read(&arguments.file).with_context(|| format!("could not read {}", arguments.file))?;
    let bytes = if arguments.hex { unhex(&bytes)? } else { bytes };
    let keys = arguments.trust.as_deref().map(Keys::load).transpose()?;
    let (json, fits) = if bytes.first() == Some(&SIGNED) {
        frame(&bytes, keys.as_ref(), arguments.topic.as_deref().unwrap_or_default())?
    } else if keys.is_some() {
        bail!("there is no signature on it");
    } else {
        (to_json(&bytes, false)?, true)
    };
    let json = if arguments.compact { json } else { indented(&json)? };
    crate::print(&(json + "\n"))?;
    Ok(if fits { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A signed frame as JSON, and whether every signature that was checked fits.
fn frame(bytes: &[u8], keys: Option<&Keys>, topic: &str) -> anyhow::Result<(String, bool)> {
    let signed = Signed::parse(bytes).context("not a signed frame")?;
    let signatures = trust::check(&signed, keys, topic);
    let fits = signatures.iter().all(|checked| checked.fits != Some(false));
    let (signatures, message) = (serde_json::to_string(&signatures)?, to_json(signed.message, false)?);
    Ok((format!("{{\"signatures\":{signatures},\"message\":{message}}}"), fits))
}

fn indented(json: &str) -> anyhow::Result<String> {
    let value: serde_json::Value = serde_json::from_str(json)?;
    Ok(serde_json::to_string_pretty(&value)?)
}

/// At most one message and a byte: more is told to be too much by the decoder.
fn read(file: &str) -> std::io::Result<Vec<u8>> {
    let limit = u64::try_from(4 * MAX_MESSAGE).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    if file == "-" {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)?;
    } else {
        File::open(file)?.take(limit).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

fn unhex(text: &[u8]) -> anyhow::Result<Vec<u8>> {
    let digits: Vec<u8> = text.iter().copied().filter(|c| !c.is_ascii_whitespace()).collect();
    if !digits.len().is_multiple_of(2) {
        bail!("an odd number of hexadecimal digits");
    }
    let pair = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    digits.chunks(2).map(pair).collect::<Option<_>>().context("not hexadecimal")
}

/// The message in the JSON form of the wire.
pub(crate) fn to_json(bytes: &[u8], pretty: bool) -> anyhow::Result<String> {
    let (header, message) = decode(bytes)?;
    let json = String::from_utf8(message.encode(Encoding::Json, header))?;
    if pretty { indented(&json) } else { Ok(json) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_may_have_spaces_and_must_be_whole() {
        assert_eq!(unhex(b"a1 02\n0F").unwrap(), [0xa1, 0x02, 0x0f]);
        assert!(unhex(b"a1 0").is_err());
        assert!(unhex(b"zz").is_err());
    }

    #[test]
    fn both_forms_come_out_as_json() {
        // An online message: boot 1, no lane, online, connection 2, connected.
        let bytes = [0xa1, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0];
        let json = to_json(&bytes, false).unwrap();
        let body = r#"{"online":true,"connection":2,"reason":"connected"}"#;
        assert_eq!(json, format!(r#"{{"kind":"online","major":1,"flags":0,"boot":1,"seq":0,"body":{body}}}"#));
        assert_eq!(to_json(json.as_bytes(), false).unwrap(), json);
    }

    #[test]
    fn a_signed_frame_is_shown_with_its_keys() {
        let key = rigd::wire::SigningKey::from_seed(&[1; 32]).unwrap();
        let message =
            br#"{"kind":"controller","major":1,"flags":0,"boot":0,"seq":0,"body":{"online":true,"instance":5}}"#;
        let bytes = key.frame(None, "r1/ctl/state", message);
        let (json, fits) = frame(&bytes, None, "").unwrap();
        let inner = std::str::from_utf8(message).unwrap();
        assert_eq!(json, format!(r#"{{"signatures":[{{"key":"{}"}}],"message":{inner}}}"#, key.id()));
        assert!(fits);
        assert!(frame(&bytes[..80], None, "").is_err());
    }
}
