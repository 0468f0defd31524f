use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use certificates::{Authority, Wanted, put};

#[path = "../../../tests/e2e/certificates.rs"]
mod certificates;

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("rigd-tls-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Files of rig-1, signed by this authority, which is the one that is believed.
    fn files(&self, authority: &Authority) -> TlsFiles {
        put(&self.0.join("ca.pem"), &authority.pem());
        let identity = authority.issue_to(&self.0.join("rig"), &Wanted::by("rig-1"));
        TlsFiles { ca: self.0.join("ca.pem"), identity: Some(identity), server_name: None }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn rig() -> RigId {
    "rig-1".parse().unwrap()
}

/// 2026-08-01.
const NOW: i64 = 1_785_542_400;

#[test]
fn good_files_are_taken_and_whatever_is_wrong_names_its_file() {
    let (folder, authority) = (Folder::new(), Authority::new("a"));
    let files = folder.files(&authority);
    let (cert, key) = files.identity.clone().unwrap();
    let loaded = check(&files, &rig(), NOW).unwrap();
    assert_eq!(loaded.own.unwrap().common_name.as_deref(), Some("rig-1"));
    assert!(check(&TlsFiles { identity: None, ..files.clone() }, &rig(), NOW).unwrap().own.is_none());
    let (_, other_key) = authority.issue(&Wanted::by("rig-1"));
    let whole = fs::read_to_string(&cert).unwrap();
    for (file, text, expected) in [
        (&files.ca, "", "ca.pem: has no certificate in PEM in it"),
        (
            &files.ca,
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "ca.pem: cannot be an authority: ",
        ),
        (&cert, &whole[..whole.len() / 2], "rig.pem: is no PEM: "),
        (
            &cert,
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "rig.pem: is not understood as a certificate",
        ),
        (&key, "", "rig.key: has no private key in PEM in it"),
        (&key, &other_key, "rig.key: is not the key of "),
    ] {
        let before = fs::read_to_string(file).unwrap();
        put(file, text);
        let error = load(&files).unwrap_err().to_string();
        assert!(error.contains(expected), "{text:?} gave {error}");
        put(file, &before);
    }
    fs::remove_file(&key).unwrap();
    assert!(load(&files).unwrap_err().to_string().contains("rig.key: could not be read: No such file"));
}

#[test]
fn the_check_knows_whose_it_is_when_it_holds_and_who_reads_the_key() {
    let (folder, authority) = (Folder::new(), Authority::new("a"));
    let files = folder.files(&authority);
    let stem = folder.0.join("rig");
    for (wanted, expected) in [
        (Wanted::by("rig-2"), "rig.pem: is the certificate of rig-2, and this rig is rig-1"),
        (
            Wanted { years: (2020, 2025), ..Wanted::by("rig-1") },
            "rig.pem: was valid until 2025-01-01, and the clock says 2026-08-01",
        ),
        (
            Wanted { years: (2027, 2030), ..Wanted::by("rig-1") },
            "rig.pem: is valid from 2027-01-01, and the clock says 2026-08-01",
        ),
    ] {
        authority.issue_to(&stem, &wanted);
        let error = check(&files, &rig(), NOW).unwrap_err().to_string();
        assert!(error.ends_with(expected), "{error}");
        // The agent shows it all the same: the broker has the last word, and a clock may be put right.
        assert!(load(&files).is_ok());
    }
    // A name beside the common one does too.
    authority.issue_to(&stem, &Wanted { also: &["rig-1"], ..Wanted::by("site-7") });
    assert!(check(&files, &rig(), NOW).is_ok());
    let (_, key) = files.identity.clone().unwrap();
    fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    let error = check(&files, &rig(), NOW).unwrap_err().to_string();
    assert!(
        error.ends_with("rig.key: is open to everybody on this machine: mode 644, should be 640 or 600"),
        "{error}"
    );
    fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    let error = check(&files, &rig(), 0).unwrap_err().to_string();
    assert!(error.contains("ca.pem: is valid from 2020-01-01, and the clock says 1970-01-01"), "{error}");
}

#[test]
fn what_changed_is_taken_and_what_is_broken_leaves_the_old_in_force() {
    let (folder, authority) = (Folder::new(), Authority::new("a"));
    let files = folder.files(&authority);
    let (cert, key) = files.identity.clone().unwrap();
    let mut tls = Tls::new(files, rig());
    let first = tls.config().unwrap();
    assert!(!tls.look(), "nothing has changed");
    assert!(Arc::ptr_eq(&first, &tls.config().unwrap()));
    // Half of a renewal: the certificate without its key.
    let (new_cert, new_key) = authority.issue(&Wanted::by("rig-1"));
    put(&cert, &new_cert);
    assert!(!tls.look(), "a certificate without its key is not taken");
    assert!(Arc::ptr_eq(&first, &tls.config().unwrap()), "the old one stays in force");
    put(&key, &new_key);
    assert!(tls.look(), "the whole is");
    assert!(!Arc::ptr_eq(&first, &tls.config().unwrap()));
    fs::remove_file(&cert).unwrap();
    assert!(!tls.look() && tls.config().is_ok());
}

#[test]
fn files_that_were_never_good_are_told_and_read_again_when_they_change() {
    let (folder, authority) = (Folder::new(), Authority::new("a"));
    let files = folder.files(&authority);
    fs::remove_file(&files.ca).unwrap();
    let mut tls = Tls::new(files.clone(), rig());
    for _ in 0..2 {
        assert!(tls.config().unwrap_err().contains("ca.pem: could not be read"));
    }
    put(&files.ca, &authority.pem());
    assert!(tls.config().is_ok());
}
