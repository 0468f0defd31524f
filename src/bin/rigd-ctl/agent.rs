//! The agent's local socket, from the tool's side.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Error, anyhow};
use rigd::local::{Reply, Request};

/// An agent that is silent for longer is stuck.
const DEADLINE: Duration = Duration::from_secs(10);
/// Far above the longest line of an agent's.
const MAX_LINE: u64 = 1 << 20;

/// An agent that was asked for something. Its orders end with the connection.
pub(crate) struct Agent {
    lines: BufReader<UnixStream>,
    /// Why the request could not be written, where it could not: an agent that is too busy says so before it reads anything,
    /// and then its answer counts.
    unasked: Option<std::io::Error>,
}

impl Agent {
    /// Asks the agent at this socket; `silence` is how long it may take from one line to the next.
    pub(crate) fn ask(path: &Path, request: &Request, silence: Option<Duration>) -> anyhow::Result<Self> {
        let mut stream = UnixStream::connect(path).map_err(|error| explain(path, error))?;
        stream.set_read_timeout(Some(silence.unwrap_or(DEADLINE)))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        let request = serde_json::to_string(request)?;
        let unasked = stream.write_all(format!("{request}\n").as_bytes()).err();
        Ok(Self { lines: BufReader::new(stream), unasked })
    }

    /// The next line of its answer.
    pub(crate) fn reply(&mut self) -> anyhow::Result<Reply> {
        match self.line() {
            Ok(Reply::Error(text)) => Err(anyhow!("the agent says: {text}")),
            Ok(reply) => Ok(reply),
            Err(error) => Err(self.unasked.take().map_or(error, Error::from)),
        }
    }

    fn line(&mut self) -> anyhow::Result<Reply> {
        let mut line = String::new();
        (&mut self.lines).take(MAX_LINE).read_line(&mut line).context("the agent does not answer")?;
        if !line.ends_with('\n') {
            let cut = Error::from(std::io::Error::from(ErrorKind::UnexpectedEof));
            return Err(cut.context("the agent ended the connection before its answer was complete"));
        }
        serde_json::from_str(&line).context("this agent's answer is of another version than rigd-ctl")
    }
}

/// Whether this is an agent that is not there now and may be again: it is started again, or being replaced.
pub(crate) fn is_away(error: &Error) -> bool {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    let away = [
        ErrorKind::NotFound,
        ErrorKind::ConnectionRefused,
        ErrorKind::ConnectionReset,
        ErrorKind::BrokenPipe,
        ErrorKind::UnexpectedEof,
        ErrorKind::WouldBlock,
        ErrorKind::TimedOut,
    ];
    kind.is_some_and(|kind| away.contains(&kind))
}

/// An answer to something else.
pub(crate) fn unexpected() -> Error {
    anyhow!("this agent's answer is of another version than rigd-ctl")
}

/// What to do about a socket that cannot be opened.
fn explain(path: &Path, error: std::io::Error) -> Error {
    let place = path.display();
    let kind = error.kind();
    let advice = if kind == ErrorKind::NotFound {
        format!("no agent listens at {place}; see `systemctl status rigd`")
    } else if kind == ErrorKind::ConnectionRefused {
        format!("the agent that listened at {place} is gone; see `systemctl status rigd`")
    } else if kind == ErrorKind::PermissionDenied {
        match group(path).as_deref().unwrap_or("rigd") {
            "root" => format!("{place} is for root: use sudo"),
            group => format!(
                "{place} is for root and the group {group}: use sudo, or `usermod -aG {group} USER` and log in again"
            ),
        }
    } else {
        format!("could not open {place}")
    };
    Error::from(error).context(advice)
}

/// The name of the group that owns a file, where /etc/group has one.
fn group(path: &Path) -> Option<String> {
    let gid = fs::metadata(path).ok()?.gid().to_string();
    let groups = fs::read_to_string("/etc/group").ok()?;
    // name:password:gid:members
    let mut fields = groups.lines().map(|line| line.split(':'));
    fields.find_map(|mut fields| fields.next().filter(|_| fields.nth(1) == Some(gid.as_str()))).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_ask_is_told_what_to_do() {
        let (there, nowhere) = ("/etc/passwd", "/nonexistent/rigd.sock");
        for (path, kind, advice) in [
            (nowhere, ErrorKind::NotFound, "no agent listens at /nonexistent/rigd.sock; see `systemctl status rigd`"),
            (
                there,
                ErrorKind::ConnectionRefused,
                "the agent that listened at /etc/passwd is gone; see `systemctl status rigd`",
            ),
            (there, ErrorKind::PermissionDenied, "/etc/passwd is for root: use sudo"),
            (
                nowhere,
                ErrorKind::PermissionDenied,
                "/nonexistent/rigd.sock is for root and the group rigd: use sudo, or `usermod -aG rigd USER` and log in again",
            ),
            (there, ErrorKind::InvalidInput, "could not open /etc/passwd"),
        ] {
            let error = explain(Path::new(path), kind.into());
            assert_eq!(error.to_string(), advice);
            // What does not mend itself is not waited for.
            assert_eq!(is_away(&error), matches!(kind, ErrorKind::NotFound | ErrorKind::ConnectionRefused), "{advice}");
        }
    }
}
