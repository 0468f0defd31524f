//! One look at a payload's health. Asks 127.0.0.1 and nobody else, reads no more than a status line, and takes no longer than it may.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{WaitId, WaitIdOptions, waitid};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;

use super::manifest::{Manifest, Probe, Target};
use super::prepare::prepare;
use super::process::{Reaped, Site};
use super::{Grant, watch};

/// `HTTP/1.1 200`
const STATUS: usize = 12;

/// Whether it passed.
pub(super) async fn look(site: &Site, manifest: &Manifest, grant: &Grant, probe: &Probe) -> bool {
    let look = async {
        match &probe.target {
            Target::Tcp(port) => connect(*port).await.is_some(),
            Target::Http { port, path } => get(*port, path).await.is_some_and(|status| (200..300).contains(&status)),
            Target::Exec(argv) => run(site, manifest, grant, argv).await == Some(0),
        }
    };
    tokio::time::timeout(probe.timeout, look).await.unwrap_or(false)
}

async fn connect(port: u16) -> Option<TcpStream> {
    TcpStream::connect(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).await.ok()
}

async fn get(port: u16, path: &str) -> Option<u16> {
    let mut stream = connect(port).await?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: rigd\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut status = [0; STATUS];
    stream.read_exact(&mut status).await.ok()?;
    status_of(&status)
}

fn status_of(line: &[u8; STATUS]) -> Option<u16> {
    let line = std::str::from_utf8(line).ok()?;
    let (version, status) = line.split_once(' ')?;
    matches!(version, "HTTP/1.0" | "HTTP/1.1").then(|| status.parse().ok())?
}

/// Runs a program where and as the payload runs, and gives its exit code. Whoever stops waiting for it has killed it.
async fn run(site: &Site, manifest: &Manifest, grant: &Grant, argv: &[String]) -> Option<i32> {
    let null = || std::fs::File::options().read(true).write(true).open("/dev/null").ok();
    let asked = Manifest { argv: argv.to_vec(), container: None, ..manifest.clone() };
    let prepared = prepare(site, &asked, grant, null()?.into()).ok()?;
    let (_, pidfd, ran) = prepared.launch.fork().ok()?.go().await;
    let mut child = Reaped(Some(pidfd));
    ran.ok()?;
    let pidfd: OwnedFd = child.0.as_ref()?.try_clone().ok()?;
    let watched = watch(pidfd, Interest::READABLE).ok()?;
    watched.readable().await.ok()?.retain_ready();
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = waitid(WaitId::PidFd(watched.get_ref().as_fd()), options).ok()??;
    // Waited for: nothing is left to be killed.
    child.0 = None;
    status.exit_status()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_from_the_first_bytes() {
        for (line, status) in [
            (b"HTTP/1.1 200", Some(200)),
            (b"HTTP/1.0 503", Some(503)),
            (b"HTTP/1.1  20", None),
            (b"SSH-2.0-Open", None),
        ] {
            assert_eq!(status_of(line), status);
        }
    }
}
