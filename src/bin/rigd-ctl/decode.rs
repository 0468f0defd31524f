//! `rigd-ctl decode`: bytes in, JSON out.

use std::fs::File;
use std::io::Read;

use anyhow::{Context, bail};
use rigd::wire::{Encoding, MAX_MESSAGE, decode};

/// The command line.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  mosquitto_sub -t 'r1/rig-7/up/tele' -C 1 -N | rigd-ctl decode\n  echo 'a1 01 01 00 …' | rigd-ctl decode --hex"
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
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let bytes = read(&arguments.file).with_context(|| format!("could not read {}", arguments.file))?;
    let bytes = if arguments.hex { unhex(&bytes)? } else { bytes };
    crate::print(&(to_json(&bytes, !arguments.compact)? + "\n"))
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
    let json = message.encode(Encoding::Json, header);
    if !pretty {
        return Ok(String::from_utf8(json)?);
    }
    let value: serde_json::Value = serde_json::from_slice(&json)?;
    Ok(serde_json::to_string_pretty(&value)?)
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
}
