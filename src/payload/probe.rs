//! One look at a payload's health. Asks 127.0.0.1 and nobody else, reads no more than a status line, and takes no longer than it may.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
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

/// A program that was asked, and what it has started: killed with this, and waited for.
struct Asked {
    pid: Pid,
    child: Reaped,
}

impl Asked {
    /// It leads a session of its own. Nobody has waited for it yet, so its number is no other's.
    fn kill(&self) {
        let _ = kill_process_group(self.pid, Signal::KILL);
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if self.child.0.is_some() {
            self.kill();
        }
    }
}

/// Runs a program where and as the payload runs, and gives its exit code. Whoever stops waiting for it has killed it, and all that it
/// has started but what has left its session; nothing of it goes on when it has ended either.
async fn run(site: &Site, manifest: &Manifest, grant: &Grant, argv: &[String]) -> Option<i32> {
    let null = || std::fs::File::options().read(true).write(true).open("/dev/null").ok();
    let asked = Manifest { argv: argv.to_vec(), container: None, ..manifest.clone() };
    let prepared = prepare(site, &asked, grant, null()?.into()).ok()?;
    let waiting = prepared.launch.fork().ok()?;
    let Ok(pidfd) = waiting.pidfd.try_clone() else {
        // Without the word it ends by itself.
        drop(Reaped(Some(waiting.pidfd)));
        return None;
    };
    // Before the word: from then on it may be given up at any moment.
    let mut asked = Asked { pid: waiting.pid, child: Reaped(Some(pidfd)) };
    let (_, pidfd, ran) = waiting.go().await;
    ran.ok()?;
    let watched = watch(pidfd, Interest::READABLE).ok()?;
    watched.readable().await.ok()?.retain_ready();
    asked.kill();
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = waitid(WaitId::PidFd(watched.get_ref().as_fd()), options).ok()??;
    // Waited for: nothing is left to be killed, and its number may be another's.
    asked.child.0 = None;
    status.exit_status()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::pin::pin;
    use std::task::Poll;
    use std::time::Duration;

    use super::*;

    /// It may be given up, by its time-out or with its payload, between the word and exec.
    #[test]
    fn one_that_is_given_up_before_it_runs_is_killed_and_waited_for() {
        let directory = PathBuf::from(format!("/var/tmp/rigd-probe-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        let site = Site { directory: directory.join("payloads"), pipes: None, root: None, boot: "this one".to_owned() };
        let user = if rustix::process::geteuid().is_root() { "user = \"nobody\"\n" } else { "" };
        let text = format!("kind = \"ai\"\nargv = [\"/bin/sh\"]\n{user}");
        let manifest = Manifest::parse("probe", "probe", &text).unwrap();
        // Of this thread, ended ones included that nobody has waited for.
        let children = || fs::read_to_string("/proc/thread-self/children").unwrap().split_whitespace().count();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            {
                let (grant, argv) = (Grant::default(), ["/bin/sleep", "1000"].map(str::to_owned));
                let mut run = pin!(run(&site, &manifest, &grant, &argv));
                let once = std::future::poll_fn(|context| Poll::Ready(run.as_mut().poll(context))).await;
                assert!(once.is_pending() && children() == 1);
            }
            let deadline = crate::clock::now() + Duration::from_secs(60);
            while children() > 0 {
                assert!(crate::clock::now() < deadline, "it is there still");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        fs::remove_dir_all(&directory).unwrap();
    }

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
