//! Which broker is tried next, and when.
//!
//! Brokers are tried in the order of the configuration; the first that lets us in holds, and while it does nothing moves,
//! also where one before it is back: sessions would be torn for a broker that may go again. When it is lost the round
//! begins anew with the first. Between brokers of one round there is no pause, between rounds the back-off; one that lets
//! us in and drops us within [`GOOD`] counts as not having let us in, so that it does not keep us from the next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, warn};
use rumqttc::v5::MqttOptions;
use rumqttc::{NetworkOptions, TlsConfiguration, Transport};
use rustls::ClientConfig;

use super::backoff::{BackOff, GOOD};
use super::session::CONNECT;
use super::tls::{LOOK, Tls};
use crate::config::Broker;
use crate::config::Config;
use crate::config::broker::Address;

/// The brokers, and how it went with them.
pub(super) struct Brokers {
    rig: String,
    broker: Broker,
    password: Option<String>,
    tls: Option<Tls>,
    round: Round,
    /// By address, the failure that was logged last: one line per episode, not per attempt.
    told: Vec<Option<String>>,
    /// When the files of TLS were looked at last.
    looked: Option<Instant>,
}

/// Which of so many is tried.
#[derive(Clone, Debug)]
struct Round {
    count: usize,
    at: usize,
    backoff: BackOff,
}

impl Round {
    /// An attempt came to nothing, or a connection ended that had been up for `held`; how long to wait before the next.
    fn ended(&mut self, held: Option<Duration>) -> Duration {
        let held = held.unwrap_or_default();
        self.at += 1;
        if held < GOOD && self.at < self.count {
            return Duration::ZERO;
        }
        self.at = 0;
        self.backoff.next(held)
    }
}

impl Brokers {
    pub(super) fn new(config: &Config, password: Option<String>, seed: u64) -> Self {
        let broker = config.broker.clone();
        let count = broker.addresses.len();
        Self {
            rig: config.rig.to_string(),
            tls: broker.tls.clone().map(|files| Tls::new(files, config.rig.clone())),
            broker,
            password,
            round: Round { count, at: 0, backoff: BackOff::new(seed) },
            told: vec![None; count],
            looked: None,
        }
    }

    /// What to connect with now: to whom, as whom, how. The files of TLS are looked at here.
    ///
    /// # Errors
    /// Why it cannot be tried at all.
    pub(super) fn options(&mut self, now: Instant) -> Result<MqttOptions, String> {
        self.looked = Some(now);
        // A configuration has an address.
        let address = self.broker.addresses.get(self.round.at).ok_or("no broker is configured")?;
        let config = match (&mut self.tls, address.tls) {
            (Some(tls), true) => Some(tls.config()?),
            (None, true) => return Err("no files for TLS are configured".to_owned()),
            (_, false) => None,
        };
        Ok(connect_options(&self.broker, address, &self.rig, self.password.as_deref(), config))
    }

    /// Whether the connection that is up has to be made anew, because files of TLS have changed. Asked after each packet.
    pub(super) fn renewed(&mut self, now: Instant) -> bool {
        let encrypted = self.broker.addresses.get(self.round.at).is_some_and(|address| address.tls);
        let due = self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK);
        if !(encrypted && due) {
            return false;
        }
        self.looked = Some(now);
        self.tls.as_mut().is_some_and(Tls::look)
    }

    /// It let us in.
    pub(super) fn admitted(&mut self) {
        info!("connected to {}", self.name());
        self.told.fill(None);
    }

    /// It is over; `held` is how long it was up, where it was. How long to wait before the next attempt.
    pub(super) fn ended(&mut self, held: Option<Duration>, failure: String) -> Duration {
        let name = self.name();
        if let Some(told) = self.told.get_mut(self.round.at)
            && (held.is_some() || told.as_ref() != Some(&failure))
        {
            let what = if held.is_some() { "lost" } else { "no connection to" };
            warn!("{what} broker {name}: {failure}; trying again");
            *told = Some(failure);
        }
        self.round.ended(held)
    }

    /// Host and port of the one that is tried.
    fn name(&self) -> String {
        self.broker
            .addresses
            .get(self.round.at)
            .map(|address| format!("{}:{}", address.host, address.port))
            .unwrap_or_default()
    }
}

/// What every client of ours connects with: TCP_NODELAY, a bound on the time it takes, the password, TLS where the address asks
/// for it; `config` is for that.
#[must_use]
pub fn connect_options(
    broker: &Broker,
    address: &Address,
    client_id: &str,
    password: Option<&str>,
    config: Option<Arc<ClientConfig>>,
) -> MqttOptions {
    // With TLS the name goes into the comparison with the certificate as it is, so without brackets; the look-up splits at the
    // last colon and takes it like that. Without TLS brackets make the address one that needs no look-up.
    let host = if address.tls { address.dial() } else { &address.host };
    let mut options = MqttOptions::new(client_id, host, address.port);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(CONNECT.as_secs());
    options.set_network_options(network);
    options.set_connection_timeout(CONNECT.as_secs());
    options.set_keep_alive(broker.keepalive);
    if let Some(username) = &broker.username {
        options.set_credentials(username, password.unwrap_or_default());
    }
    if let Some(config) = config {
        options.set_transport(Transport::Tls(TlsConfiguration::Rustls(config)));
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(count: usize) -> Round {
        Round { count, at: 0, backoff: BackOff::new(1) }
    }

    #[test]
    fn a_round_goes_through_all_without_a_pause_and_pauses_before_the_next() {
        let mut round = round(3);
        for _ in 0..4 {
            let waits: Vec<_> = (0..3)
                .map(|at| {
                    assert_eq!(round.at, at);
                    round.ended(None)
                })
                .collect();
            assert_eq!(waits.iter().map(|wait| wait.is_zero()).collect::<Vec<_>>(), [true, true, false], "{waits:?}");
        }
    }

    #[test]
    fn after_a_connection_that_held_the_first_comes_first() {
        for at in 0..3 {
            let mut round = Round { at, ..round(3) };
            assert!(round.ended(Some(GOOD)) < Duration::from_millis(250));
            assert_eq!(round.at, 0);
        }
    }

    #[test]
    fn one_that_drops_us_at_once_does_not_keep_us_from_the_next() {
        let mut round = round(2);
        assert_eq!((round.ended(Some(Duration::from_secs(1))), round.at), (Duration::ZERO, 1));
        assert!(!round.ended(Some(Duration::from_secs(1))).is_zero());
        assert_eq!(round.at, 0);
    }

    /// An IPv6 address goes to rumqttc without brackets where there is TLS, and that is looked up with the port behind a colon.
    #[test]
    fn an_ipv6_address_is_found_with_and_without_brackets() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for (url, host) in [("mqtts://[::1]:7", "::1"), ("mqtt://[::1]:7", "[::1]")] {
            let address = Address::parse(url).unwrap();
            let broker = Broker::from_url(url).unwrap();
            let options = connect_options(&broker, &address, "me", None, None);
            assert_eq!(options.broker_address(), (host.to_owned(), 7));
            let found = runtime.block_on(tokio::net::lookup_host(format!("{host}:7"))).unwrap().next();
            assert_eq!(found, Some("[::1]:7".parse().unwrap()));
        }
    }

    #[test]
    fn one_alone_always_waits() {
        let mut round = round(1);
        for held in [None, Some(Duration::ZERO), Some(GOOD)] {
            assert!(!round.ended(held).is_zero());
            assert_eq!(round.at, 0);
        }
    }
}
