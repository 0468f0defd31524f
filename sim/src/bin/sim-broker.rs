//! An MQTT 5 broker in a process of its own, for demonstrations and tests where no mosquitto is to be had.
//!
//! Retained messages, last wills with their delay, and persistent sessions work; passwords, TLS and storage on disk
//! are left out, so it is for the loopback interface only. It speaks MQTT 5 and nothing older.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

const HELP: &str = "\
sim-broker: an MQTT 5 broker for demonstrations, in memory, without passwords

usage: sim-broker [--listen ADDR:PORT] [--lifeline]

  --listen ADDR:PORT   where to listen (default 127.0.0.1:1883; port 0 takes a free one)
  --lifeline           stop when standard input ends
  --help               this text

Prints `listening on ADDR:PORT` once connections are accepted.
";

/// How long the listener may take to come up: 100 tries, 50 ms apart.
const START_TRIES: u32 = 100;
const START_PAUSE: Duration = Duration::from_millis(50);

/// Each subscription filter keeps this much in memory, then forgets the oldest.
const SEGMENT_BYTES: usize = 1 << 20;
const SEGMENTS: usize = 4;

enum End {
    Broker,
    Stdin,
}

struct Options {
    listen: SocketAddr,
    lifeline: bool,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(io::stderr(), "sim-broker: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let Some(options) = parse(std::env::args().skip(1))? else {
        return Ok(io::stdout().write_all(HELP.as_bytes())?);
    };
    let listen = free_port(options.listen)?;

    // Two senders, one message each: neither ever waits.
    let (tell, ended) = sync_channel(2);
    let broker_ended = tell.clone();
    thread::Builder::new().name("broker".to_owned()).spawn(move || {
        // Returns only when the listener has failed; the reason stays inside the library.
        let _ = Broker::new(config(listen)).start();
        broker_ended.send(End::Broker).ok();
    })?;
    wait_until_listening(listen, &ended)?;
    writeln!(io::stdout(), "listening on {listen}")?;

    if options.lifeline {
        thread::spawn(move || {
            io::stdin().read_to_end(&mut Vec::new()).ok();
            tell.send(End::Stdin).ok();
        });
    }
    match ended.recv()? {
        End::Stdin => Ok(()),
        End::Broker => bail!("the listener on {listen} stopped"),
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Options>> {
    let mut options = Options { listen: SocketAddr::from(([127, 0, 0, 1], 1883)), lifeline: false };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--listen" => {
                let addr = args.next().context("--listen needs ADDR:PORT")?;
                options.listen = addr.parse().with_context(|| format!("--listen {addr}: not ADDR:PORT"))?;
            }
            "--lifeline" => options.lifeline = true,
            "--help" | "-h" => return Ok(None),
            _ => bail!("unknown argument {arg}; see --help"),
        }
    }
    Ok(Some(options))
}

/// The library binds by itself and does not tell what port 0 became, so a free one is chosen here.
fn free_port(listen: SocketAddr) -> Result<SocketAddr> {
    let bound = TcpListener::bind(listen).with_context(|| format!("listen on {listen}"))?;
    Ok(bound.local_addr()?)
}

fn wait_until_listening(listen: SocketAddr, ended: &Receiver<End>) -> Result<()> {
    for _ in 0..START_TRIES {
        if TcpStream::connect(listen).is_ok() {
            return Ok(());
        }
        let waited = ended.recv_timeout(START_PAUSE);
        ensure!(matches!(waited, Err(RecvTimeoutError::Timeout)), "cannot listen on {listen}");
    }
    bail!("no listener on {listen} after {:?}", START_PAUSE * START_TRIES)
}

fn config(listen: SocketAddr) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: 10_000,
        max_payload_size: 256 << 10,
        max_inflight_count: 100,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = ServerSettings { name: "v5".to_owned(), listen, tls: None, next_connection_delay_ms: 1, connections };
    Config {
        router: RouterConfig {
            max_connections: 1000,
            max_outgoing_packet_count: 200,
            max_segment_size: SEGMENT_BYTES,
            max_segment_count: SEGMENTS,
            ..RouterConfig::default()
        },
        v5: Some(HashMap::from([("v5".to_owned(), server)])),
        ..Config::default()
    }
}
