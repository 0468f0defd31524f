//! Why there is no connection, in words for whoever has to put it right: most failures of TLS are a file or a clock.

use std::io;

use rumqttc::TlsError;
use rumqttc::v5::mqttbytes::Error as MqttError;
use rumqttc::v5::{ConnectionError, StateError};
use rustls::{AlertDescription, CertificateError};

use super::certificate::date;

/// The failure in words. `unix_s` is the rig's clock, which is named where it may be the reason: many controllers have no
/// battery, and after a power cut nothing holds before their time has come from the network.
#[must_use]
pub fn explain(error: &ConnectionError, unix_s: i64) -> String {
    if let ConnectionError::Tls(TlsError::TLS(error)) = error {
        return in_words(error, unix_s);
    }
    match (io_error(error), error) {
        (Some(error), _) => match error.get_ref().and_then(|held| held.downcast_ref()) {
            Some(error) => in_words(error, unix_s),
            None => error.to_string(),
        },
        (None, ConnectionError::Timeout(_)) => "no answer in time".to_owned(),
        (None, other) => other.to_string(),
    }
}

/// What the system or rustls said: the same in all of these, depending on who read or wrote first.
fn io_error(error: &ConnectionError) -> Option<&io::Error> {
    let (ConnectionError::Io(error)
    | ConnectionError::Tls(TlsError::Io(error))
    | ConnectionError::MqttState(StateError::Io(error) | StateError::Deserialization(MqttError::Io(error)))) = error
    else {
        return None;
    };
    Some(error)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "rustls's list, which grows: the rest is told in its own words")]
fn in_words(error: &rustls::Error, unix_s: i64) -> String {
    let now = date(unix_s);
    match error {
        rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => {
            let end = date(i64::try_from(not_after.as_secs()).unwrap_or(i64::MAX));
            format!(
                "the broker's certificate was valid until {end}, and the rig's clock says {now}: renew it, or set the clock"
            )
        }
        rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }) => {
            let begin = date(i64::try_from(not_before.as_secs()).unwrap_or(i64::MAX));
            format!("the broker's certificate is valid from {begin}, and the rig's clock says {now}: set the clock")
        }
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "the broker's certificate is not signed by an authority in ca_file".to_owned()
        }
        rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { expected, presented }) => {
            let presented = presented.join(", ");
            format!("the broker's certificate is for {presented}, not for {}: see server_name", expected.to_str())
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateExpired) => {
            format!("the broker finds our certificate (cert_file) expired or not valid yet; the rig's clock says {now}")
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateRevoked) => {
            "our certificate (cert_file) is revoked".to_owned()
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the broker wants a certificate of ours: cert_file and key_file".to_owned()
        }
        rustls::Error::AlertReceived(AlertDescription::UnknownCA) => {
            "the broker does not know the authority that signed our certificate (cert_file)".to_owned()
        }
        other => format!("TLS: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    fn invalid(error: CertificateError) -> rustls::Error {
        rustls::Error::InvalidCertificate(error)
    }

    #[test]
    fn each_says_what_to_put_right() {
        let at = |unix_s| UnixTime::since_unix_epoch(Duration::from_secs(unix_s));
        let expired = CertificateError::ExpiredContext { time: at(0), not_after: at(951_782_400) };
        let early = CertificateError::NotValidYetContext { time: at(0), not_before: at(951_782_400) };
        let name = CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("b").unwrap(),
            presented: vec!["DnsName(\"a\")".to_owned()],
        };
        for (error, expected) in [
            (
                invalid(expired),
                "was valid until 2000-02-29, and the rig's clock says 1970-01-02: renew it, or set the clock",
            ),
            (invalid(early), "is valid from 2000-02-29, and the rig's clock says 1970-01-02: set the clock"),
            (invalid(CertificateError::UnknownIssuer), "not signed by an authority in ca_file"),
            (invalid(name), "is for DnsName(\"a\"), not for b: see server_name"),
            (rustls::Error::AlertReceived(AlertDescription::CertificateExpired), "the rig's clock says 1970-01-02"),
            (rustls::Error::AlertReceived(AlertDescription::CertificateRevoked), "is revoked"),
            (rustls::Error::AlertReceived(AlertDescription::CertificateRequired), "wants a certificate of ours"),
            (rustls::Error::AlertReceived(AlertDescription::UnknownCA), "signed our certificate"),
            (rustls::Error::DecryptError, "TLS: cannot decrypt peer's message"),
        ] {
            for wrapped in [
                ConnectionError::Tls(TlsError::Io(io::Error::other(error.clone()))),
                ConnectionError::Tls(TlsError::TLS(error.clone())),
                ConnectionError::Io(io::Error::other(error.clone())),
                ConnectionError::MqttState(StateError::Io(io::Error::other(error.clone()))),
                ConnectionError::MqttState(StateError::Deserialization(MqttError::Io(io::Error::other(error.clone())))),
            ] {
                let text = explain(&wrapped, 100_000);
                assert!(text.contains(expected), "{text}");
            }
        }
        let refused = ConnectionError::Io(io::ErrorKind::ConnectionRefused.into());
        assert_eq!(explain(&refused, 0), "connection refused");
    }
}
