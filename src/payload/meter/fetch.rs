//! The shell: asks a payload on this machine and takes what comes, up to a size and a time.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use std::{fmt, fs};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::http::{self, Decoder};
use super::place::Document;
use super::{Answer, Ask, Format, Meter, Pausing};
use crate::reading::Missing;

/// What is read of an answer; a rig of twelve cards needs a tenth. Behind it the answer counts as broken off.
pub const LARGEST_ANSWER: usize = 256 * 1024;
/// From the connection to the answer's last byte. What came until then is used.
pub const TIMEOUT: Duration = Duration::from_secs(2);
/// A token is a line of text.
const LARGEST_TOKEN: u64 = 4 * 1024;

/// What a payload's API wants to hear before it answers. It is shown to nobody, not even in a debug print.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Reads it from a file, without the white space around it.
    ///
    /// # Errors
    /// What the system says, or that this is no token: empty, longer than 4 KiB, not of printable ASCII.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut text = String::new();
        fs::File::open(path)?.take(LARGEST_TOKEN + 1).read_to_string(&mut text)?;
        let fits = u64::try_from(text.len()).is_ok_and(|length| length <= LARGEST_TOKEN);
        let token = text.trim();
        if fits && !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic()) {
            Ok(Self(token.to_owned()))
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, "no token: it must be one word of printable ASCII"))
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Asks once. Answers within [`TIMEOUT`], whatever the other side does.
///
/// # Errors
/// [`Missing::NotPresent`] where nobody listens, the API is not there or refuses us, or the address is not of this
/// machine: a payload's API is nobody else's business, and a token must not leave. [`Missing::Off`] where it says that it
/// does not serve yet. [`Missing::Bus`] where nothing that can be read came in time.
pub async fn fetch(at: SocketAddr, meter: &Meter, token: Option<&Token>) -> Result<Answer, Missing> {
    if !at.ip().is_loopback() {
        return Err(Missing::NotPresent);
    }
    match &meter.ask {
        Ask::Http(path) => {
            let request = http::request(&at.to_string(), path, token.map(|token| token.0.as_str()));
            let mut decoder = Decoder::new(LARGEST_ANSWER);
            let closed = exchange(at, &request, |bytes| decoder.feed(bytes)).await?;
            decoder.finish(closed)
        }
        Ask::Tcp(line) => {
            let mut bytes = Vec::new();
            let mut over = false;
            let closed = exchange(at, &format!("{line}\n"), |more| {
                let room = LARGEST_ANSWER.saturating_sub(bytes.len());
                bytes.extend_from_slice(more.get(..room).unwrap_or(more));
                over = more.len() > room;
                // cgminer's answers end with a NUL, before it closes.
                !over && bytes.last() != Some(&0)
            })
            .await?;
            let whole = !over && (closed || bytes.last() == Some(&0));
            if bytes.is_empty() { Err(Missing::Bus) } else { Ok(Answer { bytes, whole }) }
        }
    }
}

/// Asks a program to rest, or to go on, and hears whether it does. Answers within [`TIMEOUT`].
///
/// # Errors
/// As [`fetch`]; [`Missing::Implausible`] where what it says is not that it has done so.
pub async fn tell(
    at: SocketAddr,
    format: Format,
    pausing: &Pausing,
    rest: bool,
    token: Option<&Token>,
) -> Result<(), Missing> {
    if !at.ip().is_loopback() {
        return Err(Missing::NotPresent);
    }
    let call = if rest { &pausing.pause } else { &pausing.resume };
    let request = http::call(&at.to_string(), &call.path, call.body.as_deref(), token.map(|token| token.0.as_str()));
    let mut decoder = Decoder::new(LARGEST_ANSWER);
    let closed = exchange(at, &request, |bytes| decoder.feed(bytes)).await?;
    let answer = decoder.finish(closed)?;
    let said = Document::parse(format, &answer).text(&pausing.done.at);
    let done = said.is_ok_and(|said| pausing.done.starts.iter().any(|start| said.starts_with(start.as_str())));
    if done { Ok(()) } else { Err(Missing::Implausible) }
}

/// Sends and reads until `feed` has enough, the other side closes, or the time is over; whether it closed.
async fn exchange(at: SocketAddr, request: &str, mut feed: impl FnMut(&[u8]) -> bool) -> Result<bool, Missing> {
    let talk = async {
        let mut stream = TcpStream::connect(at).await.map_err(|error| missing(&error))?;
        stream.write_all(request.as_bytes()).await.map_err(|error| missing(&error))?;
        let mut buffer = [0; 4 * 1024];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) => return Ok(true),
                Ok(count) => {
                    if !feed(buffer.get(..count).unwrap_or_default()) {
                        return Ok(false);
                    }
                }
                // A reset behind the answer's last byte is how some end it; the answer's own form tells what is missing.
                Err(_) => return Ok(false),
            }
        }
    };
    // What was fed before the time was over is there.
    timeout(TIMEOUT, talk).await.unwrap_or(Ok(false))
}

fn missing(error: &io::Error) -> Missing {
    if error.kind() == io::ErrorKind::ConnectionRefused { Missing::NotPresent } else { Missing::Bus }
}
