//! A mosquitto of the run's own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rigd::clock;

use crate::process::Running;

const WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

pub(crate) struct Broker {
    pub(crate) port: u16,
    running: Running,
}

impl Broker {
    /// On a free port of the loopback. `set_tcp_nodelay`, as the agent asks of whoever runs a broker: without it an
    /// acknowledgement may wait 40 ms.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        let mosquitto = find()?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let config = dir.join("mosquitto.conf");
        // `user root` stays who we are: in a user namespace there is nobody else to become.
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\npersistence false\nlog_type none\nuser root\n"
        );
        fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let mut running = Running::start("mosquitto", Command::new(mosquitto).arg("-c").arg(&config), dir)?;
        let deadline = clock::now() + WITHIN;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            running.still_running()?;
            ensure!(clock::now() < deadline, "mosquitto does not listen after {WITHIN:?}");
            thread::sleep(POLL);
        }
        Ok(Self { port, running })
    }

    pub(crate) fn still_running(&mut self) -> Result<()> {
        self.running.still_running()
    }
}

/// Services are in the sbin folders, which a user's PATH may leave out.
fn find() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    let mut files = folders.map(|folder| folder.join("mosquitto"));
    files
        .find(|file| file.is_file())
        .context("mosquitto is neither on PATH nor in /usr/sbin; install the package mosquitto")
}
