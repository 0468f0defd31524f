//! `[broker]`: where the brokers are, who we are to them, and by what we know that it is them.
//!
//! What crosses a wire is encrypted: `mqtt://` to anything but this machine is refused unless `plain_text` allows it, so
//! that nobody leaves it open by forgetting a letter. A name other than `localhost` counts as another machine: whoever
//! answers for names could send it anywhere.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::ServerName;

use crate::source::{Problems, Table};

/// The broker where none is given: one on the rig itself.
const DEFAULT: &str = "mqtt://127.0.0.1:1883";
/// Brokers in one list at most: a round over all of them stays below two minutes even where each takes all its time.
const MOST: usize = 8;

/// Where the brokers are and who we are to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// In the order in which they are tried; never empty.
    pub addresses: Vec<Address>,
    /// User name, where the broker wants one.
    pub username: Option<String>,
    /// File that holds the password; never the password itself.
    pub password_file: Option<PathBuf>,
    /// Silence after which the broker calls us lost, and we it.
    pub keepalive: Duration,
    /// For the addresses with TLS.
    pub tls: Option<TlsFiles>,
}

/// One broker's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Name or address; an IPv6 address in brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Encrypted: `mqtts://`.
    pub tls: bool,
}

/// The files that TLS takes, in PEM; paths as they were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the authorities of which one must have signed the broker's; no other is believed.
    pub ca: PathBuf,
    /// Our own certificate, with what lies between it and its authority, and its key. Without: the broker does not learn
    /// from TLS who we are.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that the broker's certificate must have, where that is not the host.
    pub server_name: Option<String>,
}

/// What was given for TLS, before it is known to fit together.
#[derive(Clone, Debug, Default)]
pub struct TlsGiven {
    /// `ca_file`
    pub ca: Option<PathBuf>,
    /// `cert_file`
    pub cert: Option<PathBuf>,
    /// `key_file`
    pub key: Option<PathBuf>,
    /// `server_name`
    pub server_name: Option<String>,
    /// `plain_text`: what is not encrypted may leave the machine.
    pub plain_text: bool,
}

/// A mistake: the key of `[broker]`, and what is wrong with it.
pub type Mistake = (&'static str, String);

impl Broker {
    /// A broker by its URL, without TLS, with every default.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn from_url(url: &str) -> Result<Self, String> {
        Ok(Self {
            addresses: vec![Address::parse(url)?],
            username: None,
            password_file: None,
            keepalive: Duration::from_secs(15),
            tls: None,
        })
    }

    /// Adds TLS to addresses that are there already.
    ///
    /// # Errors
    /// Everything that does not fit together.
    pub fn secure(&mut self, given: TlsGiven) -> Result<(), Vec<Mistake>> {
        let mut mistakes = Vec::new();
        let mut complain = |key, text: String| mistakes.push((key, text));
        for address in &self.addresses {
            if !address.tls && !given.plain_text && !address.is_here() {
                complain(
                    "url",
                    format!("{address} is not encrypted and leaves this machine: use mqtts://, or plain_text"),
                );
            }
            if address.tls && ServerName::try_from(address.dial()).is_err() {
                complain("url", format!("`{}` cannot be in a certificate", address.host));
            }
        }
        let TlsGiven { ca, cert, key, server_name, plain_text: _ } = given;
        if !self.addresses.iter().any(|address| address.tls) {
            let useless = [
                ("ca_file", ca.is_some()),
                ("cert_file", cert.is_some()),
                ("key_file", key.is_some()),
                ("server_name", server_name.is_some()),
            ];
            for (key, _) in useless.into_iter().filter(|(_, given)| *given) {
                complain(key, "is of no use without mqtts://".to_owned());
            }
            return if mistakes.is_empty() { Ok(()) } else { Err(mistakes) };
        }
        if let Some(name) = server_name.as_deref().filter(|name| ServerName::try_from(*name).is_err()) {
            complain("server_name", format!("`{name}` cannot be in a certificate"));
        }
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => {
                complain("cert_file", "needs a key_file too".to_owned());
                None
            }
            (None, Some(_)) => {
                complain("key_file", "needs a cert_file too".to_owned());
                None
            }
        };
        let Some(ca) = ca else {
            complain("ca_file", "is missing: mqtts:// needs the certificate of whoever signed the broker's".to_owned());
            return Err(mistakes);
        };
        self.tls = Some(TlsFiles { ca, identity, server_name });
        if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
    }

    /// The password, where there is a file for it; a newline at its end is not part of it.
    ///
    /// # Errors
    /// Names the file that could not be read.
    pub fn password(&self) -> Result<Option<String>, Problems> {
        let Some(path) = &self.password_file else { return Ok(None) };
        let name = path.display().to_string();
        let text = fs::read_to_string(path)
            .map_err(|error| Problems::one(&name, format!("could not read the broker's password: {error}")))?;
        Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
    }

    /// Reads the table; what is wrong with it has complained.
    pub(super) fn read(table: &Table<'_>) -> Self {
        table.only(&[
            "url",
            "username",
            "password_file",
            "keepalive_s",
            "ca_file",
            "cert_file",
            "key_file",
            "server_name",
            "plain_text",
        ]);
        let path = |key| table.text(key).map(PathBuf::from);
        let urls = if table.has("url") { table.text_or_texts("url") } else { vec![DEFAULT.to_owned()] };
        if table.has("url") && !(1..=MOST).contains(&urls.len()) {
            table.complain("url", format!("must be one URL or a list of up to {MOST}"));
        }
        let parsed = urls.iter().filter_map(|url| Address::parse(url).map_err(|text| table.complain("url", text)).ok());
        let (username, password_file) = (table.text("username"), path("password_file"));
        if password_file.is_some() && username.is_none() {
            table.complain("password_file", "needs a username too");
        }
        let keepalive_s: u32 = table.ranged("keepalive_s", 5, 3_600).unwrap_or(15);
        let keepalive = Duration::from_secs(keepalive_s.into());
        let mut broker = Self { addresses: parsed.collect(), username, password_file, keepalive, tls: None };
        let given = TlsGiven {
            ca: path("ca_file"),
            cert: path("cert_file"),
            key: path("key_file"),
            server_name: table.text("server_name"),
            plain_text: table.flag("plain_text").unwrap_or(false),
        };
        // Where an address is wrong, what the others need is not known.
        if broker.addresses.len() == urls.len() && !urls.is_empty() {
            for (key, text) in broker.secure(given).err().into_iter().flatten() {
                table.complain(key, text);
            }
        }
        broker
    }
}

impl Address {
    /// Reads `mqtts://HOST[:PORT]` or `mqtt://HOST[:PORT]`; 8883 or 1883 where no port is given. An IPv6 address keeps its
    /// brackets.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(url: &str) -> Result<Self, String> {
        const FORM: &str = "must be mqtts://HOST[:PORT] or mqtt://HOST[:PORT]";
        let (tls, rest) = match url.split_once("://") {
            Some(("mqtts", rest)) => (true, rest),
            Some(("mqtt", rest)) => (false, rest),
            Some((scheme, _)) => return Err(format!("{FORM}; `{scheme}` is not a transport of this version")),
            None => return Err(FORM.to_owned()),
        };
        let bracketed = rest.starts_with('[').then(|| rest.find(']')).flatten().map(|end| rest.split_at(end + 1));
        let (host, port) = match bracketed {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or(FORM)?)),
            None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Ok(if tls { 8883 } else { 1883 }), str::parse);
        let port = port.ok().filter(|port| *port != 0).ok_or("the port must be 1 to 65535")?;
        let good = !host.is_empty() && (bracketed.is_some() || !host.contains(['/', '@', '[', ']', ':']));
        if good { Ok(Self { host: host.to_owned(), port, tls }) } else { Err(FORM.to_owned()) }
    }

    /// The host without brackets: what a certificate names, and what a look-up takes.
    #[must_use]
    pub fn dial(&self) -> &str {
        self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&self.host)
    }

    /// Nothing that goes there leaves this machine.
    fn is_here(&self) -> bool {
        self.host == "localhost" || self.dial().parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", if self.tls { "mqtts" } else { "mqtt" }, self.host, self.port)
    }
}

#[cfg(test)]
mod tests;
