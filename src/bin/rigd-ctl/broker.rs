//! How the operator's tool reaches a broker: the same flags for every command, and the same options as the agent's.

use std::path::PathBuf;

use anyhow::{Context, anyhow, bail};
use rigd::config::Broker;
use rigd::config::broker::{Address, TlsGiven};
use rigd::mqtt::{connect_options, tls};
use rumqttc::v5::{ConnectionError, MqttOptions};

/// Flags of every command that talks to a broker.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Broker")]
pub(crate) struct Flags {
    /// The broker: `mqtts://HOST[:PORT]`, or `mqtt://`, which is not encrypted
    #[arg(long, value_name = "URL", default_value = "mqtt://127.0.0.1:1883", value_parser = Address::parse)]
    broker: Address,
    /// Certificate of the authority that signed the broker's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Your certificate, where the broker wants one
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The name in the broker's certificate, where that is not HOST
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Allow mqtt:// to another machine: everything can be read on the way, the password too
    #[arg(long)]
    plain_text: bool,
    /// User name, where the broker wants one; each client that runs at the same time needs its own
    #[arg(long)]
    username: Option<String>,
    /// File that holds the password
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
}

impl Flags {
    /// Options to connect with under this client id: address, TLS, password, TCP_NODELAY, keep-alive of 15 s, 10 s for the whole of
    /// connecting. Session, windows and packet sizes are the caller's. Files are read here: for each connection anew, where a
    /// long run should see renewed certificates.
    ///
    /// # Errors
    /// Flags that do not fit together; files that cannot be used, by name.
    pub(crate) fn options(&self, client_id: &str) -> anyhow::Result<MqttOptions> {
        let mut broker = Broker::from_url(&self.url()).map_err(|text| anyhow!("--broker: {text}"))?;
        let given = TlsGiven {
            ca: self.ca.clone(),
            cert: self.cert.clone(),
            key: self.key.clone(),
            server_name: self.server_name.clone(),
            plain_text: self.plain_text,
        };
        if let Err(mistakes) = broker.secure(given) {
            let lines = mistakes.into_iter().map(|(key, text)| format!("{}: {}", flag(key), in_flags(&text)));
            bail!("{}", lines.collect::<Vec<_>>().join("\n"));
        }
        broker.username.clone_from(&self.username);
        broker.password_file.clone_from(&self.password_file);
        let config = broker.tls.as_ref().map(tls::load).transpose()?.map(|loaded| loaded.config);
        let address = broker.addresses.first().context("a URL is an address")?;
        Ok(connect_options(&broker, address, client_id, broker.password()?.as_deref(), config))
    }

    /// The broker, for messages: `mqtts://HOST:PORT`.
    pub(crate) fn url(&self) -> String {
        self.broker.to_string()
    }

    /// The broker's host, for headings.
    pub(crate) fn host(&self) -> &str {
        &self.broker.host
    }
}

/// A failure to connect, in words; the reason is in them already.
pub(crate) fn explain(error: &ConnectionError) -> String {
    tls::explain(error, i64::try_from(rigd::clock::unix_ms() / 1000).unwrap_or(i64::MAX))
}

/// The flag for a key of the configuration.
fn flag(key: &str) -> &str {
    match key {
        "url" => "--broker",
        "ca_file" => "--ca",
        "cert_file" => "--cert",
        "key_file" => "--key",
        "server_name" => "--server-name",
        other => other,
    }
}

/// Words for the configuration, in the words of the command line.
fn in_flags(text: &str) -> String {
    text.replace("a key_file", "--key").replace("a cert_file", "--cert").replace("or plain_text", "or --plain-text")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn options(arguments: &[&str]) -> Result<MqttOptions, String> {
        let line = Line::try_parse_from(std::iter::once(&"x").chain(arguments)).map_err(|error| error.to_string())?;
        line.flags.options("me").map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn flags_that_do_not_fit_together_are_told_by_their_names() {
        for (arguments, expected) in [
            (
                &["--broker", "mqtt://b"][..],
                "--broker: mqtt://b:1883 is not encrypted and leaves this machine: use mqtts://, or --plain-text",
            ),
            (&["--broker", "mqtts://b"], "--ca: is missing"),
            (&["--broker", "mqtts://b", "--ca", "/x", "--cert", "/y"], "--cert: needs --key too"),
            (&["--broker", "mqtts://b", "--ca", "/nonexistent/ca"], "/nonexistent/ca: could not be read: No such file"),
            (&["--ca", "/x"], "--ca: is of no use without mqtts://"),
            (&["--broker", "b"], "must be mqtts://HOST[:PORT] or mqtt://HOST[:PORT]"),
        ] {
            let error = options(arguments).unwrap_err();
            assert!(error.contains(expected), "{arguments:?} gave {error}");
        }
    }

    #[test]
    fn what_is_allowed_is_connected_to_without_a_delay_for_small_packets() {
        let options = options(&["--broker", "mqtt://b:7", "--plain-text", "--username", "u"]).unwrap();
        assert_eq!((options.broker_address(), options.client_id()), (("b".to_owned(), 7), "me".to_owned()));
        assert_eq!(options.connection_timeout(), 10);
        assert_eq!(options.credentials().map(|login| login.username), Some("u".to_owned()));
    }
}
