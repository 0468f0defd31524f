//! Authorities and certificates of the test's own.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, SerialNumber,
    date_time_ymd,
};

/// Signs certificates.
pub(crate) struct Authority {
    pub(crate) issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate to be.
pub(crate) struct Wanted<'a> {
    /// The common name, and a name of DNS.
    pub(crate) name: &'a str,
    /// More names, of DNS or addresses.
    pub(crate) also: &'a [&'a str],
    /// First and last year of validity.
    pub(crate) years: (i32, i32),
    pub(crate) serial: u64,
}

impl<'a> Wanted<'a> {
    /// One that holds, for nobody else.
    pub(crate) fn by(name: &'a str) -> Self {
        Self { name, also: &[], years: (2020, 2090), serial: 1 }
    }
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2090, 1, 1));
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Certificate and key, in PEM.
    pub(crate) fn issue(&self, wanted: &Wanted<'_>) -> (String, String) {
        let names = std::iter::once(wanted.name).chain(wanted.also.iter().copied()).map(str::to_owned);
        let mut params = CertificateParams::new(names.collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, wanted.name);
        params.serial_number = Some(SerialNumber::from(wanted.serial));
        params.not_before = date_time_ymd(wanted.years.0, 1, 1);
        params.not_after = date_time_ymd(wanted.years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// The same in files of this stem: `STEM.pem` and `STEM.key`. Each appears as a whole.
    pub(crate) fn issue_to(&self, stem: &Path, wanted: &Wanted<'_>) -> (PathBuf, PathBuf) {
        let (cert, key) = self.issue(wanted);
        let paths = (stem.with_extension("pem"), stem.with_extension("key"));
        put(&paths.0, &cert);
        put(&paths.1, &key);
        paths
    }
}

/// Writes a file by renaming, for its owner alone.
pub(crate) fn put(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    fs::rename(&new, path).unwrap();
}
