//! A payload's meter at work: asks its API, reads the answer, remembers what it counted.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::warn;

use super::manifest::{Manifest, MeterUse};
use super::meter::{self, Counters, Token, fetch, read};
use super::supervisor;
use crate::clock::now;

/// A file with the token that an API wants, among the options of a manifest's meter.
const TOKEN: &str = "token_file";

/// The meter of one payload.
pub(super) struct Metering {
    meter: meter::Meter,
    at: SocketAddr,
    token: Option<Token>,
    counters: Counters,
    last: Option<Instant>,
}

/// The meter that a manifest names; complained of in the log where it cannot be used, for a payload runs without one too.
fn of(manifest: &Manifest) -> Option<meter::Meter> {
    let MeterUse { name, .. } = manifest.meter.as_ref()?;
    match meter::Meter::load(name) {
        Ok(meter) => Some(meter),
        Err(problems) => {
            warn!("payload {}: not measured: {problems}", manifest.name);
            None
        }
    }
}

impl Metering {
    /// Of this payload; `words` is what it counted before the agent's start.
    pub(super) fn new(manifest: &Manifest, words: &[u64]) -> Option<Self> {
        let (used, meter) = (manifest.meter.as_ref()?, of(manifest)?);
        let Some(port) = used.port.or(meter.port) else {
            warn!(
                "payload {}: not measured: `{}` has no port of its own, and meter.port is not given",
                manifest.name, used.name
            );
            return None;
        };
        let token = used.options.get(TOKEN).and_then(|path| match Token::read(path.as_ref()) {
            Ok(token) => Some(token),
            Err(error) => {
                warn!("payload {}: measured without a token: {path}: {error}", manifest.name);
                None
            }
        });
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Some(Self { meter, at, token, counters: Counters::from_words(words), last: None })
    }

    async fn sample(&mut self) -> supervisor::Sample {
        let answer = fetch(self.at, &self.meter, self.token.as_ref()).await;
        let elapsed = self.last.replace(now()).map_or(Duration::ZERO, |last| now().saturating_duration_since(last));
        let told = match answer {
            Ok(answer) => read(&self.meter, &answer, Some(&self.counters), elapsed),
            Err(missing) => meter::Sample::missing(missing, Some(&self.counters), elapsed),
        };
        self.counters = told.counters;
        supervisor::Sample {
            rate: told.rate.ok().map(|rate| rate.0),
            counters: self.counters.words(),
            told: Some(Arc::new(told)),
        }
    }
}

impl supervisor::Meter for Metering {
    fn unit(&self) -> meter::Unit {
        self.meter.unit
    }

    fn read(&mut self) -> Pin<Box<dyn Future<Output = Option<supervisor::Sample>> + Send + '_>> {
        Box::pin(async { Some(self.sample().await) })
    }
}
