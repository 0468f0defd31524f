//! A mosquitto of the test's own, on a free port of the loopback.

use std::cell::RefCell;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::agent::{Scratch, until};

/// A broker that ends with the test.
pub(crate) struct Broker {
    pub(crate) port: u16,
    config: PathBuf,
    process: Option<Child>,
    scratch: Scratch,
}

impl Broker {
    /// A broker that lets everybody in.
    pub(crate) fn start() -> Self {
        let mut broker = Self::absent();
        broker.run();
        broker
    }

    /// A broker's place without a broker.
    pub(crate) fn absent() -> Self {
        Self::with("allow_anonymous true\n")
    }

    /// A broker's place with lines of its own in the configuration; `{dir}` in them is the broker's directory.
    pub(crate) fn with(lines: &str) -> Self {
        let port = free_port();
        let lines = format!("listener {port} 127.0.0.1\nset_tcp_nodelay true\nlog_dest none\n{lines}");
        Self::configured(port, &lines)
    }

    /// A broker's place with this configuration, which must listen on this port; `{dir}` in it is the broker's directory.
    pub(crate) fn configured(port: u16, lines: &str) -> Self {
        let scratch = Scratch::new("broker");
        let lines = lines.replace("{dir}", &scratch.path.display().to_string());
        let config = scratch.path.join("mosquitto.conf");
        fs::write(&config, lines).unwrap();
        Self { port, config, process: None, scratch }
    }

    /// Its directory.
    pub(crate) fn directory(&self) -> &std::path::Path {
        &self.scratch.path
    }

    /// Starts it and waits until it listens.
    pub(crate) fn run(&mut self) {
        let mosquitto = ["/usr/sbin/mosquitto", "/usr/bin/mosquitto", "/usr/local/sbin/mosquitto"];
        let mosquitto = mosquitto.iter().find(|path| PathBuf::from(path).exists());
        let mosquitto = mosquitto.expect("mosquitto is not installed: `cargo xtask test` installs it");
        let child =
            Command::new(mosquitto).arg("-c").arg(&self.config).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = RefCell::new(child.unwrap());
        let port = self.port;
        until("mosquitto listens", || {
            let ended = child.borrow_mut().try_wait().unwrap();
            assert_eq!(ended, None, "mosquitto does not run with {}, or port {port} is taken", self.config.display());
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        self.process = Some(child.into_inner());
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// SIGSTOP or SIGCONT: a broker that accepts and does not answer.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let process = self.process.as_ref().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(process), signal).unwrap();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody listens on now, and that is given to nobody else: each is given out once, and none of them is one of those
/// that the kernel gives out (ip_local_port_range, from 32768 on).
pub(crate) fn free_port() -> u16 {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let ports = std::iter::repeat_with(|| {
        // Beside the tests of another process, most likely.
        let place = std::process::id().wrapping_mul(367).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        u16::try_from(FIRST + place % COUNT).unwrap()
    });
    let mut free = ports.take(1_000).filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.next().expect("one of a thousand ports is free")
}
