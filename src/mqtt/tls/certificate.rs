//! What an X.509 certificate says of itself, for people and for `rigd-ctl check`: whose it is and when it holds.
//!
//! rustls decides whom to believe; nothing here does. It hands out neither the dates nor the subject of our own
//! certificate, and a parser for all of X.509 is larger than the rest of the link. RFC 5280, 4.1; DER is X.690.

/// What is read of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The common name of its subject: the name of the rig.
    pub common_name: Option<String>,
    /// Names in it (subject alternative names of DNS).
    pub dns_names: Vec<String>,
    /// Seconds since 1970 from which it holds.
    pub not_before: i64,
    /// Seconds since 1970 until which it holds.
    pub not_after: i64,
}

/// 2.5.4.3 (X.520).
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17 (RFC 5280, 4.2.1.6).
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];

const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[2] dNSName` of a GeneralName.
const DNS_NAME: u8 = 0x82;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

impl Certificate {
    /// Reads DER; `None` for what is no certificate.
    #[must_use]
    pub fn parse(der: &[u8]) -> Option<Self> {
        let mut outer = Der(der).inside(SEQUENCE)?;
        let mut body = outer.inside(SEQUENCE)?;
        body.skip_if(VERSION)?;
        // Serial number, algorithm, issuer.
        for _ in 0..3 {
            body.next()?;
        }
        let mut validity = body.inside(SEQUENCE)?;
        let (not_before, not_after) = (time(validity.next()?)?, time(validity.next()?)?);
        let mut subject = body.inside(SEQUENCE)?;
        let mut common_name = None;
        while let Some(mut set) = subject.inside(SET) {
            while let Some(mut attribute) = set.inside(SEQUENCE) {
                if attribute.next()? == (OID, COMMON_NAME) {
                    common_name = Some(text(attribute.next()?.1));
                }
            }
        }
        // The public key and what may follow it.
        let mut dns_names = Vec::new();
        while let Some((tag, inner)) = body.next() {
            if tag != EXTENSIONS {
                continue;
            }
            let mut extensions = Der(inner).inside(SEQUENCE)?;
            while let Some(mut extension) = extensions.inside(SEQUENCE) {
                if extension.next()? != (OID, ALTERNATIVE_NAMES) {
                    continue;
                }
                // A flag may lie between the name and the value.
                while let Some((tag, value)) = extension.next() {
                    let mut names = if tag == OCTETS { Der(value).inside(SEQUENCE)? } else { continue };
                    while let Some((tag, name)) = names.next() {
                        dns_names.extend((tag == DNS_NAME).then(|| text(name)));
                    }
                }
            }
        }
        Some(Self { common_name, dns_names, not_before, not_after })
    }

    /// Whether it is this one's: a common name or a name in it.
    #[must_use]
    pub fn names(&self, name: &str) -> bool {
        self.common_name.as_deref() == Some(name) || self.dns_names.iter().any(|one| one == name)
    }
}

/// Elements that follow one another.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Tag and contents of the next element; `None` at the end, and where its length is not that of DER.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            // Two bytes of length do for 64 KiB, beyond which no certificate is.
            let (bytes, rest) =
                rest.split_at_checked(usize::from(first & 0x7f)).filter(|(bytes, _)| bytes.len() <= 2)?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        };
        let (contents, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, contents))
    }

    /// The contents of the next element, which must have this tag.
    fn inside(&mut self, tag: u8) -> Option<Self> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, contents)| Der(contents))
    }

    fn skip_if(&mut self, tag: u8) -> Option<()> {
        if self.0.first() == Some(&tag) { self.next().map(drop) } else { Some(()) }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `YYMMDDhhmmssZ`, where 50 is 1950, or `YYYYMMDDhhmmssZ` (RFC 5280, 4.1.2.5).
fn time((tag, contents): (u8, &[u8])) -> Option<i64> {
    let digits = contents.strip_suffix(b"Z")?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = number(digits, 2)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => number(digits, 4)?,
        _ => return None,
    };
    let (month, rest) = number(rest, 2)?;
    let (day, rest) = number(rest, 2)?;
    let (hour, rest) = number(rest, 2)?;
    let (minute, rest) = number(rest, 2)?;
    let (second, rest) = number(rest, 2)?;
    let sane = rest.is_empty() && (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60;
    sane.then(|| days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

fn number(digits: &[u8], count: usize) -> Option<(i64, &[u8])> {
    let (digits, rest) = digits.split_at_checked(count)?;
    let number = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some((number.parse().ok()?, rest))
}

/// Days since 1970 of a date of the Gregorian calendar: years begin in March here, so that the leap day is the last (Howard
/// Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil).
const fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year - 719_468
}

/// The date of these seconds since 1970, UTC: `2026-08-01` (the same source, civil_from_days).
#[must_use]
pub fn date(unix_s: i64) -> String {
    let shifted = unix_s.div_euclid(86_400) + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_based = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_based + 2) / 5 + 1;
    let month = if march_based < 10 { march_based + 3 } else { march_based - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_go_both_ways() {
        // Seconds from `date -u -d DATE +%s`.
        for (text, digits, unix_s) in [
            ("1970-01-01", "19700101000000Z", 0),
            ("2000-02-29", "20000229000000Z", 951_782_400),
            ("2026-08-01", "20260801123456Z", 1_785_587_696),
            ("2100-03-01", "21000301000000Z", 4_107_542_400),
            ("1969-12-31", "19691231235959Z", -1),
        ] {
            assert_eq!(time((GENERALIZED_TIME, digits.as_bytes())), Some(unix_s), "{text}");
            assert_eq!(date(unix_s), text);
        }
        assert_eq!(time((UTC_TIME, b"260801123456Z")), Some(1_785_587_696));
        assert_eq!(time((UTC_TIME, b"500101000000Z")), Some(-631_152_000));
        for bad in
            ["", "Z", "20260801123456", "20261301000000Z", "2026080112345Z", "+2260801123456Z", "20260801123456ZZ"]
        {
            assert_eq!(time((GENERALIZED_TIME, bad.as_bytes())), None, "{bad}");
        }
    }

    /// Certificates as rcgen writes them; `openssl x509 -text` says the same of them.
    fn sample() -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(["rig-7".to_owned(), "rig-7.site".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "A");
        params.distinguished_name.push(rcgen::DnType::CommonName, "rig-7");
        params.not_before = rcgen::date_time_ymd(2026, 8, 1);
        params.not_after = rcgen::date_time_ymd(2060, 8, 1);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn subject_names_and_validity() {
        let found = Certificate::parse(&sample()).unwrap();
        let expected = Certificate {
            common_name: Some("rig-7".to_owned()),
            dns_names: vec!["rig-7".to_owned(), "rig-7.site".to_owned()],
            not_before: 1_785_542_400,
            not_after: 2_858_544_000,
        };
        assert_eq!(found, expected);
        assert!(found.names("rig-7") && found.names("rig-7.site") && !found.names("rig-8"));
    }

    #[test]
    fn whatever_is_cut_or_changed_is_no_panic() {
        let whole = sample();
        for end in 0..whole.len() {
            assert_eq!(Certificate::parse(&whole[..end]), None);
        }
        for at in 0..whole.len() {
            for byte in [0x00, 0x30, 0x7f, 0x82, 0xff] {
                let mut changed = whole.clone();
                changed[at] = byte;
                let _ = Certificate::parse(&changed);
            }
        }
    }
}
