//! TLS to the broker: which authority is believed, who we are, and files that change while we run.
//!
//! TLS 1.3 alone, by rustls with ring. Only the authorities of `ca_file` are believed and never the system's, and the
//! broker's certificate must have the name that was asked for. rumqttc's own `TlsConfiguration::default()` would load the
//! system's authorities and panic where there are none.
//!
//! Files are looked at on each attempt to connect and every 10 s while connected: three calls of `stat`, which wait for
//! no disk that works. What changed is read as a whole; where that does not work (half of a renewal is written) the old
//! certificate stays in force and the log names the file. A renewal that works is used at once, by a new connection,
//! so that a bad one shows while somebody is looking and not when the broker restarts at night.
//!
//! Sessions are not resumed: a broker would not look at a certificate again that it has since revoked.

mod certificate;
mod failure;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use log::{info, warn};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

pub use certificate::{Certificate, date};
pub use failure::explain;

use crate::clock;
use crate::config::broker::TlsFiles;
use crate::source::{Problem, Problems};
use crate::wire::RigId;

/// How often files are looked at while connected; the next packet is when it happens, so a keep-alive later at most.
pub(super) const LOOK: Duration = Duration::from_secs(10);
/// A file that is longer holds no certificate of ours, bytes. It is refused.
const LONGEST: u64 = 1 << 20;

/// What was read of the files.
#[derive(Debug)]
pub struct Loaded {
    /// What rustls takes.
    pub config: Arc<ClientConfig>,
    /// Our own certificate, where there is one.
    pub own: Option<Certificate>,
}

/// The files, and what was in them when they were read last.
#[derive(Debug)]
pub(super) struct Tls {
    files: TlsFiles,
    rig: RigId,
    seen: Option<Stamps>,
    config: Option<Arc<ClientConfig>>,
    /// Why the files as they are now cannot be used.
    broken: Option<String>,
}

/// What changes when a file does: `None` where it cannot be asked.
type Stamps = [Option<[i128; 5]>; 3];

impl Tls {
    /// Nothing is read yet.
    pub(super) fn new(files: TlsFiles, rig: RigId) -> Self {
        Self { files, rig, seen: None, config: None, broken: None }
    }

    /// What is in force now, or why nothing is.
    pub(super) fn config(&mut self) -> Result<Arc<ClientConfig>, String> {
        self.look();
        let broken = || self.broken.clone().unwrap_or_default();
        self.config.clone().ok_or_else(broken)
    }

    /// Reads the files where they have changed; whether something else is in force now.
    pub(super) fn look(&mut self) -> bool {
        // Before reading: what changes meanwhile is read again at the next look.
        let now = self.files.stamps();
        if self.seen == Some(now) {
            return false;
        }
        self.seen = Some(now);
        match load(&self.files) {
            Ok(Loaded { config, own }) => {
                self.config = Some(config);
                self.broken = None;
                self.tell(own.as_ref());
                true
            }
            Err(problems) => {
                let text = problems.to_string().replace('\n', "; ");
                // Without an old one the attempt that follows fails with these words, and the link says them.
                if self.config.is_some() {
                    warn!("{text}; what was read before stays in force");
                }
                self.broken = Some(text);
                false
            }
        }
    }

    /// What is in force, and what is odd about it: the broker has the last word.
    fn tell(&self, own: Option<&Certificate>) {
        let (Some((cert, key)), Some(own)) = (&self.files.identity, own) else { return };
        let file = cert.display();
        info!("{file}: in force, valid until {}", date(own.not_after));
        let now = i64::try_from(clock::unix_ms() / 1000).unwrap_or(i64::MAX);
        for text in odd(own, &self.rig, now) {
            warn!("{file}: {text}");
        }
        if let Some(text) = open_to_others(key) {
            warn!("{}: {text}", key.display());
        }
    }
}

impl TlsFiles {
    fn stamps(&self) -> Stamps {
        let stamp = |path: &Path| {
            let of = fs::metadata(path).ok()?;
            let changed = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
            Some([
                changed(of.mtime(), of.mtime_nsec()),
                changed(of.ctime(), of.ctime_nsec()),
                of.len().into(),
                of.ino().into(),
                of.dev().into(),
            ])
        };
        let identity = self.identity.as_ref();
        [stamp(&self.ca), identity.and_then(|(cert, _)| stamp(cert)), identity.and_then(|(_, key)| stamp(key))]
    }
}

/// Reads the files.
///
/// # Errors
/// Each file that cannot be read or used, by its name; a key that belongs to another certificate.
pub fn load(files: &TlsFiles) -> Result<Loaded, Problems> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in certificates(&files.ca)? {
        roots.add(authority).map_err(|error| problem(&files.ca, format!("cannot be an authority: {error}")))?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| problem(&files.ca, error.to_string()))?;
    let verifier: Arc<dyn ServerCertVerifier> = match files.server_name.as_deref().map(ServerName::try_from) {
        None => verifier,
        Some(Ok(name)) => Arc::new(Named { name: name.to_owned(), verifier }),
        // The configuration was checked for that.
        Some(Err(error)) => return Err(problem(&files.ca, error.to_string())),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| problem(&files.ca, error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let (mut config, own) = match &files.identity {
        None => (builder.with_no_client_auth(), None),
        Some((cert, key)) => {
            let chain = certificates(cert)?;
            let own = chain.first().and_then(|own| Certificate::parse(own));
            let own = own.ok_or_else(|| problem(cert, "is not understood as a certificate".to_owned()))?;
            let secret = PrivateKeyDer::from_pem_slice(&read(key)?);
            let secret = secret.map_err(|_| problem(key, "has no private key in PEM in it".to_owned()))?;
            let config = builder.with_client_auth_cert(chain, secret).map_err(|error| {
                if let rustls::Error::InconsistentKeys(_) = error {
                    problem(key, format!("is not the key of {}", cert.display()))
                } else {
                    problem(key, format!("cannot be used: {error}"))
                }
            })?;
            (config, Some(own))
        }
    };
    config.resumption = Resumption::disabled();
    Ok(Loaded { config: Arc::new(config), own })
}

/// Whether the files would be of use to this rig at this time, seconds since 1970: for `rigd-ctl check`, which is stricter than
/// the agent, because somebody is there to put it right.
///
/// # Errors
/// Everything that stands in the way, with the file.
pub fn check(files: &TlsFiles, rig: &RigId, unix_s: i64) -> Result<Loaded, Problems> {
    let loaded = load(files)?;
    let mut problems = Vec::new();
    if let (Some((cert, key)), Some(own)) = (&files.identity, &loaded.own) {
        problems.extend(odd(own, rig, unix_s).into_iter().flat_map(|text| problem(cert, text).0));
        problems.extend(open_to_others(key).into_iter().flat_map(|text| problem(key, text).0));
    }
    for authority in certificates(&files.ca)? {
        let read = Certificate::parse(&authority);
        problems.extend(
            read.and_then(|read| out_of_time(&read, unix_s)).into_iter().flat_map(|text| problem(&files.ca, text).0),
        );
    }
    if problems.is_empty() { Ok(loaded) } else { Err(Problems(problems)) }
}

/// What is wrong with our own certificate, though it can be shown.
fn odd(own: &Certificate, rig: &RigId, unix_s: i64) -> Vec<String> {
    let stranger = (!own.names(rig.as_str())).then(|| {
        let whose = own.common_name.as_deref().unwrap_or("nobody");
        format!("is the certificate of {whose}, and this rig is {rig}")
    });
    stranger.into_iter().chain(out_of_time(own, unix_s)).collect()
}

fn out_of_time(certificate: &Certificate, unix_s: i64) -> Option<String> {
    let now = date(unix_s);
    if unix_s < certificate.not_before {
        Some(format!("is valid from {}, and the clock says {now}", date(certificate.not_before)))
    } else if unix_s > certificate.not_after {
        Some(format!("was valid until {}, and the clock says {now}", date(certificate.not_after)))
    } else {
        None
    }
}

fn open_to_others(key: &Path) -> Option<String> {
    let mode = fs::metadata(key).ok()?.mode() & 0o777;
    (mode & 0o007 != 0).then(|| format!("is open to everybody on this machine: mode {mode:03o}, should be 640 or 600"))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Problems> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let found = found.map_err(|error| problem(path, format!("is no PEM: {error}")))?;
    if found.is_empty() { Err(problem(path, "has no certificate in PEM in it".to_owned())) } else { Ok(found) }
}

fn read(path: &Path) -> Result<Vec<u8>, Problems> {
    let told = |error: std::io::Error| problem(path, format!("could not be read: {error}"));
    if fs::metadata(path).map_err(told)?.len() > LONGEST {
        return Err(problem(path, format!("is longer than {LONGEST} bytes, which no certificate is")));
    }
    fs::read(path).map_err(told)
}

fn problem(path: &Path, text: String) -> Problems {
    Problems(vec![Problem { file: path.display().to_string(), line: None, key: String::new(), text }])
}

/// Asks for another name than the host's: rumqttc knows only that one. All the rest is rustls's own.
#[derive(Debug)]
struct Named {
    name: ServerName<'static>,
    verifier: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _host: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verifier.verify_server_cert(own, between, &self.name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;
