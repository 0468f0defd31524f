//! The small-site authority: certificates from keys and names. No file, no clock: time and serial numbers come in.
//!
//! There are two authorities, as the shipped broker has two doors: one signs rigs, the other the control plane, its
//! operators and the broker itself. A rig's certificate is then no key to the control plane's door, whatever name is in it.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams, DnType,
    DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKey, PublicKeyData,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rigd::mqtt::tls;
use rigd::wire::hex;
use ring::digest;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Signs rigs.
    Rigs,
    /// Signs the control plane, operators and the broker.
    Control,
}

impl Side {
    pub(super) const BOTH: [Self; 2] = [Self::Rigs, Self::Control];

    /// Its name: `NAME-ca.pem` and `NAME-ca.key`, as the broker's configuration has them.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Rigs => "rigs",
            Self::Control => "control",
        }
    }
}

/// From when to when, seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from_s: u64,
    pub(super) to_s: u64,
}

/// Whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// A rig, by its name.
    Rig(String),
    /// The control plane or an operator, by the whole common name: `ctl.control`.
    Controller(String),
    /// The broker, by the names under which it is dialled; never empty.
    Broker(Vec<String>),
}

impl Holder {
    pub(super) const fn side(&self) -> Side {
        match self {
            Self::Rig(_) => Side::Rigs,
            Self::Controller(_) | Self::Broker(_) => Side::Control,
        }
    }

    /// The common name.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Rig(name) | Self::Controller(name) => name.clone(),
            Self::Broker(names) => names.first().cloned().unwrap_or_default(),
        }
    }

    /// Every name of it can stand in a certificate, and in a line of text.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        self.params().map(drop)
    }

    fn params(&self) -> anyhow::Result<CertificateParams> {
        let (common, names, usage) = match self {
            Self::Rig(name) | Self::Controller(name) => {
                (name, std::slice::from_ref(name), ExtendedKeyUsagePurpose::ClientAuth)
            }
            Self::Broker(names) => {
                (names.first().context("a broker needs a name")?, &names[..], ExtendedKeyUsagePurpose::ServerAuth)
            }
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common.as_str());
        params.subject_alt_names = names.iter().map(|name| alternative(name)).collect::<anyhow::Result<_>>()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        Ok(params)
    }
}

/// An address, or a name of DNS; what is neither would only show at the first connection.
fn alternative(name: &str) -> anyhow::Result<SanType> {
    if let Ok(address) = name.parse() {
        return Ok(SanType::IpAddress(address));
    }
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    ensure!(
        !name.is_empty() && name.len() <= 253 && name.chars().all(good),
        "`{name}` is neither a name of DNS nor an address"
    );
    Ok(SanType::DnsName(Ia5String::try_from(name)?))
}

/// A new authority: its certificate and its key, in PEM.
pub(super) fn found(side: Side, validity: Validity, serial: Serial) -> anyhow::Result<(String, String)> {
    let key = KeyPair::generate().context("no key could be made")?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    // The end of the serial number tells two authorities of one name apart.
    let tail: String = serial.to_string().chars().skip(24).collect();
    params.distinguished_name.push(DnType::CommonName, format!("rigd {} {tail}", side.name()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    dated(&mut params, validity, serial);
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

fn dated(params: &mut CertificateParams, validity: Validity, serial: Serial) {
    params.not_before = date_time_ymd(1970, 1, 1) + Duration::from_secs(validity.from_s);
    params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(validity.to_s);
    params.serial_number = Some(SerialNumber::from_slice(&serial.0));
}

/// Names a certificate of an authority for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Serial([u8; 16]);

impl Serial {
    /// By random bytes. It is positive and has no zeros in front (RFC 5280, 4.1.2.2).
    pub(super) const fn new(mut random: [u8; 16]) -> Self {
        let [first, ..] = &mut random;
        *first = *first & 0x7f | 0x40;
        Self(random)
    }

    /// By its digits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        // An id of a command has the same form: 16 bytes in hexadecimal.
        text.parse::<rigd::wire::CommandId>().ok().map(|id| Self(id.0))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// An authority that can sign.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Seconds since 1970.
    ends_s: u64,
}

impl Authority {
    /// By its certificate and key, in PEM.
    pub(super) fn load(certificate: &str, key: &str) -> anyhow::Result<Self> {
        let key = KeyPair::from_pem(key).context("its key cannot be read")?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).context("its certificate cannot be read")?;
        let read = tls::Certificate::parse(&der).context("its certificate cannot be read")?;
        let ends_s = u64::try_from(read.not_after).unwrap_or(0);
        let issuer = Issuer::from_ca_cert_pem(certificate, key).context("its certificate cannot be read")?;
        Ok(Self { issuer, ends_s })
    }

    /// A certificate in PEM; it ends with the authority at the latest.
    pub(super) fn sign(
        &self,
        holder: &Holder,
        key: &impl PublicKeyData,
        validity: Validity,
        serial: Serial,
    ) -> anyhow::Result<String> {
        if self.ends_s <= validity.from_s {
            bail!("the authority's own certificate has expired: make another one");
        }
        let mut params = holder.params()?;
        dated(&mut params, Validity { to_s: validity.to_s.min(self.ends_s), ..validity }, serial);
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(key, &self.issuer)?.pem())
    }

    /// The list of certificates that hold no more, with when they were revoked, in PEM; `number` rises with each list. It
    /// is good for as long as the authority: a broker refuses everybody when its list has expired.
    pub(super) fn revoke(&self, revoked: &[(Serial, u64)], number: u64, now_s: u64) -> anyhow::Result<String> {
        let at = |unix_s| date_time_ymd(1970, 1, 1) + Duration::from_secs(unix_s);
        let one = |(serial, since_s): &(Serial, u64)| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&serial.0),
            revocation_time: at(*since_s),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: at(now_s),
            next_update: at(self.ends_s.max(now_s)),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(one).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }
}

/// A certificate request in PEM: common name and alternative name.
pub(super) fn request(holder: &Holder, key: &KeyPair) -> anyhow::Result<String> {
    Ok(holder.params()?.serialize_request(key)?.pem()?)
}

/// Reads a request for this rig. Nothing is believed of it but its key: whose signature it bears, and whose name it has, is
/// checked, and the certificate's words are ours.
pub(super) fn read_request(text: &str, rig: &str) -> anyhow::Result<PublicKey> {
    let read = CertificateSigningRequestParams::from_pem(text).context("this is no certificate request of a rig")?;
    let name = match read.params.distinguished_name.get(&DnType::CommonName) {
        Some(DnValue::Utf8String(name)) => name.clone(),
        Some(DnValue::PrintableString(name)) => name.as_str().to_owned(),
        _ => bail!("the request has no common name"),
    };
    ensure!(name == rig, "the request is for `{}` and not for {rig}", crate::people::harmless(&name));
    Ok(read.public_key)
}

/// SHA-256 of a public key (SubjectPublicKeyInfo, DER), in hexadecimal: what two people compare over the telephone.
pub(super) fn fingerprint(key: &impl PublicKeyData) -> String {
    let hash = digest::digest(&digest::SHA256, &key.subject_public_key_info());
    hex(hash.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: Validity = Validity { from_s: 1_700_000_000, to_s: 1_731_536_000 };

    fn authority(side: Side) -> Authority {
        let (certificate, key) = found(side, YEAR, Serial::new([0xff; 16])).unwrap();
        Authority::load(&certificate, &key).unwrap()
    }

    fn read(pem: &str) -> tls::Certificate {
        tls::Certificate::parse(&CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn a_rig_gets_its_name_and_no_more_time_than_the_authority_has() {
        let rigs = authority(Side::Rigs);
        let key = KeyPair::generate().unwrap();
        let holder = Holder::Rig("rig-7".to_owned());
        let asked = read_request(&request(&holder, &key).unwrap(), "rig-7").unwrap();
        assert_eq!(fingerprint(&asked), fingerprint(&key));
        for (to_s, expected) in [(1_700_086_400, 1_700_086_400), (9_000_000_000, YEAR.to_s)] {
            let signed = rigs.sign(&holder, &asked, Validity { to_s, ..YEAR }, Serial::new([0; 16])).unwrap();
            let read = read(&signed);
            assert_eq!(read.common_name.as_deref(), Some("rig-7"));
            assert_eq!(read.dns_names, ["rig-7"]);
            assert_eq!((read.not_before, read.not_after), (1_700_000_000, i64::try_from(expected).unwrap()));
        }
        let late = Validity { from_s: YEAR.to_s, to_s: YEAR.to_s + 1 };
        let error = rigs.sign(&holder, &asked, late, Serial::new([0; 16])).unwrap_err();
        assert!(error.to_string().contains("has expired"), "{error}");
    }

    #[test]
    fn a_request_for_another_or_a_forged_one_is_refused() {
        let key = KeyPair::generate().unwrap();
        let text = request(&Holder::Rig("rig-8".to_owned()), &key).unwrap();
        let error = read_request(&text, "rig-7").unwrap_err();
        assert!(error.to_string().contains("is for `rig-8` and not for rig-7"), "{error}");
        assert!(read_request("nonsense", "rig-7").is_err());
        // Another name under the same signature.
        let der = rcgen_der(&text);
        let at = der.windows(5).position(|window| window == b"rig-8").unwrap();
        let mut forged = der.clone();
        forged[at + 4] = b'7';
        let forged = CertificateSigningRequestParams::from_der(&forged.into());
        assert!(forged.is_err());
    }

    fn rcgen_der(pem: &str) -> Vec<u8> {
        rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
    }

    #[test]
    fn a_serial_number_comes_back_and_is_positive_and_full() {
        for (random, expected) in [([0; 16], 0x40), ([0xff; 16], 0x7f), ([0x80; 16], 0x40)] {
            let serial = Serial::new(random);
            assert_eq!(serial.0[0], expected);
            assert_eq!(Serial::parse(&serial.to_string()), Some(serial));
        }
        assert_eq!(Serial::parse("40"), None);
    }

    #[test]
    fn names_are_of_dns_or_addresses() {
        for (name, good) in [("broker.example", true), ("10.0.0.1", true), ("::1", true), ("a b", false), ("", false)] {
            assert_eq!(alternative(name).is_ok(), good, "{name}");
        }
    }
}
