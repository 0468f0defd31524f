//! The socket's file: made so that only who may use it ever could, never taken from an agent that lives, gone with its agent.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixSocket, UnixStream};

/// Root and the group of the agent; nobody else.
const MODE: u32 = 0o660;
/// Clients that wait to be accepted; one more is told by the kernel to try again.
const BACKLOG: u32 = 16;

/// A socket's file, which goes when this goes.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    /// Device and inode: whatever has the path later is not ours to remove.
    file: (u64, u64),
}

impl Socket {
    /// Makes the socket, in the place of one that a dead agent left, and listens.
    pub(super) async fn listen(path: &Path) -> Result<(Self, UnixListener)> {
        let socket = UnixSocket::new_stream()?;
        match socket.bind(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                clear(path).await?;
                socket.bind(path)?;
            }
            bound => bound?,
        }
        // Nobody can connect before it listens, so nobody sees another mode than this.
        fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
        let file = fs::symlink_metadata(path)?;
        let this = Self { path: path.to_owned(), file: (file.dev(), file.ino()) };
        Ok((this, socket.listen(BACKLOG)?))
    }
}

/// Removes what is in the way if it is a socket and nobody listens there.
async fn clear(path: &Path) -> Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(Error::new(ErrorKind::AlreadyExists, "a file that is no socket is in the way"));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        // Also where it is too busy to answer, which a dead one is not.
        Ok(_) | Err(_) => Err(Error::new(ErrorKind::AddrInUse, "another agent listens there")),
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.file);
        if ours {
            // Where it cannot go, the next agent finds it dead.
            let _ = fs::remove_file(&self.path);
        }
    }
}
