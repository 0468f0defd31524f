//! The process that `cargo xtask measure --payloads` keeps running, and the barest of what keeps one running: spawn, wait, spawn
//! again, on the agent's own runtime. No record, no log, no sandbox, no budget.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rigd::clock::since_boot;

const HELP: &str = "\
bare-payload: says on a socket that it runs, and does nothing; or keeps such ones running

usage: bare-payload run SOCKET TAG [PORT]      with a port it answers every request there as a meter likes it
       bare-payload keep SOCKET TAG...         keeps one `run` for each tag

Without arguments it takes those in BARE_PAYLOAD, for supervisors that can give none.
";
const ANSWER: &str =
    "HTTP/1.1 200 OK\r\nContent-Length: 58\r\n\r\n{\"rate\": 12.5, \"work\": 4711, \"accepted\": 4700, \"queue\": 0}";
/// A client that says nothing for so long has gone away.
const PATIENCE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    // Before anything else: this is the moment that is measured.
    let now = since_boot();
    match run(now) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(io::stderr(), "bare-payload: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run(now: Duration) -> Result<()> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let inherited = std::env::var("BARE_PAYLOAD").unwrap_or_default();
    let args: Vec<&str> =
        if given.is_empty() { inherited.split(' ').collect() } else { given.iter().map(String::as_str).collect() };
    match args.as_slice() {
        ["run", socket, tag, rest @ ..] => {
            let text = format!("{tag} {} {}", std::process::id(), now.as_nanos());
            UnixDatagram::unbound()?.send_to(text.as_bytes(), socket).with_context(|| format!("tell {socket}"))?;
            match rest {
                [port] => serve(port.parse().context("PORT")?),
                _ => loop {
                    std::thread::park();
                },
            }
        }
        ["keep", socket, tags @ ..] if !tags.is_empty() => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(keep(socket, tags))
        }
        _ => bail!("{HELP}"),
    }
}

fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // A request of the agent's is one packet; whoever sends more gets the same answer.
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(ANSWER.as_bytes());
    }
    Ok(())
}

async fn keep(socket: &str, tags: &[&str]) -> Result<()> {
    let own = std::env::current_exe()?;
    let mut tasks = tokio::task::JoinSet::new();
    for tag in tags {
        let args = ["run", socket, tag].map(str::to_owned);
        let own = own.clone();
        tasks.spawn(async move {
            loop {
                let child = tokio::process::Command::new(&own).args(&args).spawn();
                match child {
                    Ok(mut child) => {
                        if let Err(error) = child.wait().await {
                            return error;
                        }
                    }
                    Err(error) => return error,
                }
            }
        });
    }
    match tasks.join_next().await {
        Some(Ok(error)) => Err(error.into()),
        _ => bail!("a loop ended"),
    }
}
