//! systemd's notification socket (sd_notify(3)): ready, alive, stopping.
//!
//! Alive is said by the control thread after a finished tick and by nobody else, so that systemd's watchdog guards the
//! loop that keeps the rig cool and not the process around it.

use std::cell::Cell;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::{Duration, Instant};

use log::warn;

/// The way to systemd; silent where it did not start us.
#[derive(Debug, Default)]
pub struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// A third of `WATCHDOG_USEC`: often enough to miss one, seldom enough to cost nothing at 100 ticks a second.
    period: Option<Duration>,
    last: Option<Instant>,
    /// A failure was said; the next is not.
    told: Cell<bool>,
}

impl Notify {
    /// From `NOTIFY_SOCKET` and `WATCHDOG_USEC`, as systemd sets them.
    #[must_use]
    pub fn from_environment() -> Self {
        let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        let watchdog = std::env::var("WATCHDOG_USEC").ok().and_then(|micros| micros.parse().ok());
        match connect(Path::new(&path)) {
            Ok(socket) => Self {
                socket: Some(socket),
                period: watchdog.map(|micros| Duration::from_micros(micros) / 3),
                ..Self::default()
            },
            Err(error) => {
                warn!("systemd's notification socket cannot be used: {error}");
                Self::default()
            }
        }
    }

    /// The first tick is done: fans are under control.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// A tick is done.
    pub fn finished_tick(&mut self, now: Instant) {
        let Some(period) = self.period else { return };
        if self.last.is_none_or(|last| now.saturating_duration_since(last) >= period) {
            self.last = Some(now);
            self.send("WATCHDOG=1");
        }
    }

    /// Leaving on purpose.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    fn send(&self, text: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(text.as_bytes(), address)
            && !self.told.replace(true)
        {
            warn!("could not tell systemd {text}: {error}");
        }
    }
}

/// A leading `@` is Linux's abstract namespace. The socket never blocks: control waits for nobody.
fn connect(path: &Path) -> std::io::Result<(UnixDatagram, SocketAddr)> {
    let bytes = path.as_os_str().as_encoded_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alive_is_said_at_a_third_of_the_watchdogs_time() {
        let name = format!("@rigd-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name.as_bytes()[1..]).unwrap();
        let systemd = UnixDatagram::bind_addr(&address).unwrap();
        let socket = connect(Path::new(&name)).unwrap();
        let mut notify = Notify { socket: Some(socket), period: Some(Duration::from_secs(3)), ..Notify::default() };
        let start = crate::clock::now();
        notify.ready();
        for second in 0..7 {
            notify.finished_tick(start + Duration::from_secs(second));
        }
        notify.stopping();
        let mut said = Vec::new();
        let mut buffer = [0; 64];
        systemd.set_nonblocking(true).unwrap();
        while let Ok(length) = systemd.recv(&mut buffer) {
            said.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        assert_eq!(said, ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"]);
    }
}
