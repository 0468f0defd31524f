//! `trust.mark`: which files of the state directory were there once, so that one of them that is missing is noticed.
//!
//! A journal that is missing would open the window for replays again, and a missing file of rotations would trust revoked keys
//! again; both would look like a new rig's. So each is named here, on the disk, as soon as it is there:
//!
//! | missing | but named here | then |
//! |---|---|---|
//! | `commands.log` | yes | it counts as lost: what was signed before that was noticed, or in the minute after, needs the nonce of the birth ([`journal`](super::journal)) |
//! | `keys.json` | yes | nobody is trusted until somebody on the rig brings it back, or removes `trust.mark` and so says that no key was revoked |
//! | both, and this file | | a new rig |
//!
//! Nobody is locked out by what happens to a whole fleet: a state directory that is made anew lacks all three, and is a new rig's. What
//! was valid in the ten minutes before could be brought again to such a rig, unless it carries the nonce, as every order to one rig by
//! `rigd-ctl send` does; its owner wiped it, and its payloads, setpoints and counters with it. Who may write to the state directory may
//! remove this file too: it is against losses, not against root. Revocations that must outlive the directory stand in the configuration:
//! `[key.NAME] revoked = true`.
//!
//! To be trusting again takes no verb: who may remove the file may do anything on this rig, and a verb would prove nothing. The agent
//! looks again with the next command or desired state, and writes down in the audit log that it trusted nobody, and that it trusts again:
//!
//! 1. `rigd-ctl audit show /var/lib/rigd/audit`, and the records of the control plane: was a key ever revoked by order?
//! 2. Each that was goes into the configuration: `[key.NAME] revoked = true`.
//! 3. `rm /var/lib/rigd/trust.mark`, then one command, such as `rigd-ctl send … snapshot`, to see that it is done and written down.
//! 4. `systemctl restart rigd`: keys that the configuration revokes now are revoked from here on, and the desired state is in force again.
//!
//! A file is made first and named after that, so that no power cut names one that never was; one that is there and not named is named
//! at the next start.

use std::fs;
use std::io;
use std::path::Path;

use crate::statefile;

const FILE: &str = "trust.mark";
/// It has two lines.
const LARGEST: u64 = 1_024;

/// Whether a file of this name was there once.
///
/// # Errors
/// What the system says, or a mark that is none of ours: nobody can tell then.
pub fn names(directory: &Path, name: &str) -> io::Result<bool> {
    Ok(read(directory)?.lines().any(|line| line == name))
}

/// Writes down that a file of this name is there; waits for the disk the first time.
///
/// # Errors
/// What the system says.
pub fn name(directory: &Path, name: &str) -> io::Result<()> {
    let mut text = read(directory)?;
    if text.lines().any(|line| line == name) {
        return Ok(());
    }
    text.push_str(name);
    text.push('\n');
    statefile::replace(&directory.join(FILE), "mark.new", text.as_bytes())
}

fn read(directory: &Path) -> io::Result<String> {
    let path = directory.join(FILE);
    match fs::metadata(&path) {
        Ok(found) if found.len() > LARGEST => Err(io::Error::other(format!("{FILE}: is not of ours"))),
        Ok(_) => fs::read_to_string(&path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_once_is_known() {
        let directory = std::env::temp_dir().join(format!("rigd-mark-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        let known = || ["a", "b", "c"].map(|file| names(&directory, file).unwrap());
        assert_eq!(known(), [false; 3]);
        for file in ["a", "b", "a"] {
            name(&directory, file).unwrap();
        }
        assert_eq!(
            (known(), fs::read_to_string(directory.join(FILE)).unwrap().as_str()),
            ([true, true, false], "a\nb\n")
        );
        fs::write(directory.join(FILE), vec![b'x'; 2_000]).unwrap();
        assert!(names(&directory, "a").is_err() && name(&directory, "c").is_err());
        fs::remove_dir_all(&directory).unwrap();
    }
}
