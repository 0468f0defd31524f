//! The key that signs a rig's receipts of energy.
//!
//! `energy.key` in the state directory, mode 0600: 32 secret bytes (RFC 8032, 5.1.5), made at the first start. It is good for
//! receipts alone, by what is put in front of each hash that it signs, and says nothing about who may connect or command. The
//! birth names its public half: whoever wants to rely on receipts notes it when the rig is set up.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ring::signature::{Ed25519KeyPair, KeyPair};

use super::interval::DOMAIN;
use crate::wire::{Hex, PublicKey, Receipt};

/// Its file in the state directory.
const FILE: &str = "energy.key";

/// The secret half, in memory.
pub struct Key(Ed25519KeyPair);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.public())
    }
}

impl Key {
    /// The key in this directory; where there is none, one is made of 32 random bytes.
    ///
    /// # Errors
    /// What the system says; a file that is no key is left as it is, for receipts of another key are another rig's.
    pub fn open(state: &Path, random: impl FnOnce() -> io::Result<[u8; 32]>) -> io::Result<Self> {
        let path = state.join(FILE);
        let seed: [u8; 32] = match fs::read(&path) {
            Ok(bytes) => bytes.try_into().map_err(|_| io::Error::other("it is not 32 bytes long"))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let seed = random()?;
                make(state, &seed)?;
                seed
            }
            Err(error) => return Err(error),
        };
        Self::of(&seed).ok_or_else(|| io::Error::other("it is no key"))
    }

    /// The key of these 32 secret bytes; none where ring cannot take them.
    #[must_use]
    pub fn of(seed: &[u8; 32]) -> Option<Self> {
        Ed25519KeyPair::from_seed_unchecked(seed).ok().map(Self)
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        // An Ed25519 key is 32 bytes long.
        PublicKey(self.0.public_key().as_ref().try_into().unwrap_or_default())
    }

    /// Signs a receipt.
    pub fn sign(&self, receipt: &mut Receipt) {
        let signature = self.0.sign(&[DOMAIN, &receipt.hash.0].concat());
        (receipt.key, receipt.signature) = (self.public(), Hex(signature.as_ref().to_vec()));
    }
}

/// Whole or not at all: a half of a key would lock the rig out of its own chain.
fn make(state: &Path, seed: &[u8; 32]) -> io::Result<()> {
    let new = state.join("energy.key.new");
    // One that was being written when the power went is nobody's yet.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(seed)?;
    file.sync_all()?;
    fs::rename(&new, state.join(FILE))?;
    fs::File::open(state)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::energy::{Broken, Interval};
    use crate::scratch::Scratch;
    use crate::wire::ChainHash;

    #[test]
    fn a_key_is_made_once_and_is_nobody_elses_to_read() {
        let state = Scratch::new("energy-key");
        fs::write(state.join("energy.key.new"), b"torn").unwrap();
        let made = Key::open(&state, || Ok([7; 32])).unwrap().public();
        assert_eq!(Key::open(&state, || Ok([8; 32])).unwrap().public(), made, "the one that is there");
        assert_eq!(fs::metadata(state.join(FILE)).unwrap().mode() & 0o777, 0o600);
        fs::write(state.join(FILE), b"short").unwrap();
        assert_eq!(Key::open(&state, || Ok([8; 32])).unwrap_err().to_string(), "it is not 32 bytes long");
        assert_eq!(fs::read(state.join(FILE)).unwrap(), b"short", "left to whoever wants to repair it");
    }

    #[test]
    fn a_signature_is_one_keys_over_one_receipt() {
        let (key, other) = (Key::of(&[1; 32]).unwrap(), Key::of(&[2; 32]).unwrap());
        let plain = Receipt::after(ChainHash([9; 32]), &Interval { index: 5, ..Interval::default() });
        assert_eq!(plain.check(None, 0), Err(Broken::Unsigned(5)));
        let mut signed = plain.clone();
        key.sign(&mut signed);
        assert_eq!(signed.check(Some(&key.public()), 0).map(|one| one.index), Ok(5));
        assert_eq!(signed.check(None, 0).map(|one| one.index), Ok(5));
        let stranger = Broken::Stranger { number: 5, key: key.public() };
        assert_eq!(signed.check(Some(&other.public()), 0), Err(stranger));
        let renamed = Receipt { key: other.public(), ..signed.clone() };
        assert_eq!(renamed.check(Some(&other.public()), 0), Err(Broken::Forged(5)));
        let mut moved = Receipt::after(ChainHash([8; 32]), &Interval { index: 5, ..Interval::default() });
        (moved.key, moved.signature) = (signed.key, signed.signature.clone());
        assert_eq!(moved.check(None, 0), Err(Broken::Forged(5)), "another place in the chain");
        // Ed25519 over the hash alone, without what says that it is energy, is no receipt.
        let bare = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap().sign(&plain.hash.0);
        let bare = Receipt { key: key.public(), signature: Hex(bare.as_ref().to_vec()), ..plain };
        assert_eq!(bare.check(None, 0), Err(Broken::Forged(5)));
    }
}
