//! As much of HTTP/1.1 (RFC 9112) as reading a payload's statistics takes: a GET of one's own, and the answer's body out
//! of its head, its length, its chunks or its end. Each byte is looked at once, so a byte at a time costs no more than
//! all together. No TLS, no redirect, no keep-alive.

use super::Answer;
use crate::reading::Missing;

/// A head is a few hundred bytes; longer than this is no HTTP.
const LARGEST_HEAD: usize = 16 * 1024;

/// What is asked. `host` and `path` come from an address and a checked meter file, the token is checked as it is read:
/// none of them can hold a line feed.
pub(super) fn request(host: &str, path: &str, token: Option<&str>) -> String {
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n{authorization}Connection: close\r\n\r\n")
}

/// The same for a request that changes something: a POST of JSON, or a GET where there is no body. The type is nothing but
/// `application/json`: xmrig takes no other and no parameter of it (src/base/api/Httpd.cpp, 6.26: 415 otherwise).
pub(super) fn call(host: &str, path: &str, body: Option<&str>, token: Option<&str>) -> String {
    let Some(body) = body else { return request(host, path, token) };
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         {authorization}Connection: close\r\n\r\n{body}",
        body.len()
    )
}

/// An answer as it comes in.
#[derive(Debug)]
pub(super) struct Decoder {
    state: State,
    head: Vec<u8>,
    body: Vec<u8>,
    /// The body's bound.
    most: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// So many bytes of body left, or all until the end.
    Body(Option<u64>),
    /// The size of the next chunk, as far as it was read; whether that is over and an extension or the line's end comes.
    Size(u64, bool),
    Chunk(u64),
    /// The line feed behind a chunk.
    ChunkEnd,
    /// All there.
    Done,
    /// Larger than it may be, or not HTTP any more: the body as it is, and not whole.
    Broken,
    /// Another status than 200.
    Refused(Missing),
}

impl Decoder {
    pub(super) const fn new(most: usize) -> Self {
        Self { state: State::Head, head: Vec::new(), body: Vec::new(), most }
    }

    /// Takes what came; whether more is wanted.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() && self.wants_more() {
            rest = match self.state {
                State::Body(None) => self.take(rest, u64::MAX).1,
                State::Body(Some(left)) => {
                    let (taken, after) = self.take(rest, left);
                    self.go(if taken == left { State::Done } else { State::Body(Some(left - taken)) });
                    after
                }
                State::Chunk(left) => {
                    let (taken, after) = self.take(rest, left);
                    self.go(if taken == left { State::ChunkEnd } else { State::Chunk(left - taken) });
                    after
                }
                State::Head | State::Size(..) | State::ChunkEnd | State::Done | State::Broken | State::Refused(_) => {
                    let Some((first, after)) = rest.split_first() else { break };
                    self.byte(*first);
                    after
                }
            };
        }
        self.wants_more()
    }

    /// What came, when no more does. `closed`: the other side ended it, which is the end of a body without a length.
    pub(super) fn finish(self, closed: bool) -> Result<Answer, Missing> {
        match self.state {
            State::Refused(reason) => Err(reason),
            State::Head => Err(Missing::Bus),
            State::Broken if self.body.is_empty() => Err(Missing::Bus),
            State::Done => Ok(Answer { bytes: self.body, whole: true }),
            State::Body(None) => Ok(Answer { bytes: self.body, whole: closed }),
            State::Body(Some(_)) | State::Size(..) | State::Chunk(_) | State::ChunkEnd | State::Broken => {
                Ok(Answer { bytes: self.body, whole: false })
            }
        }
    }

    fn wants_more(&self) -> bool {
        match self.state {
            State::Head | State::Body(_) | State::Size(..) | State::Chunk(_) | State::ChunkEnd => true,
            State::Done | State::Broken | State::Refused(_) => false,
        }
    }

    /// To the next state, unless the body's bound was met on the way.
    fn go(&mut self, state: State) {
        if self.state != State::Broken {
            self.state = state;
        }
    }

    /// Takes up to `most` bytes into the body: how many, and what is left of the input.
    fn take<'a>(&mut self, bytes: &'a [u8], most: u64) -> (u64, &'a [u8]) {
        let room = self.most - self.body.len();
        let wanted = usize::try_from(most).unwrap_or(usize::MAX).min(bytes.len());
        let (taken, after) = bytes.split_at_checked(wanted.min(room)).unwrap_or((bytes, &[]));
        self.body.extend_from_slice(taken);
        if wanted > room {
            self.state = State::Broken;
        }
        (u64::try_from(taken.len()).unwrap_or(u64::MAX), after)
    }

    fn byte(&mut self, byte: u8) {
        match self.state {
            State::Head => {
                self.head.push(byte);
                let ended = byte == b'\n' && (self.head.ends_with(b"\r\n\r\n") || self.head.ends_with(b"\n\n"));
                if ended {
                    self.state = head(&self.head);
                } else if self.head.len() >= LARGEST_HEAD {
                    self.state = State::Broken;
                }
            }
            State::Size(size, over) => self.state = size_byte(size, over, byte),
            State::ChunkEnd => match byte {
                b'\r' => {}
                b'\n' => self.state = State::Size(0, false),
                _ => self.state = State::Broken,
            },
            State::Body(_) | State::Chunk(_) | State::Done | State::Broken | State::Refused(_) => {}
        }
    }
}

/// A byte of a chunk's size: hexadecimal digits, then perhaps an extension, then the line's end. The last chunk is of
/// size 0; what trails it says nothing of the body.
fn size_byte(size: u64, over: bool, byte: u8) -> State {
    match (byte, char::from(byte).to_digit(16)) {
        (b'\n', _) if size == 0 => State::Done,
        (b'\n', _) => State::Chunk(size),
        (_, _) if over => State::Size(size, true),
        (_, Some(digit)) => match size.checked_mul(16).and_then(|size| size.checked_add(digit.into())) {
            Some(size) => State::Size(size, false),
            None => State::Broken,
        },
        (b'\r' | b';' | b' ' | b'\t', None) => State::Size(size, true),
        (_, None) => State::Broken,
    }
}

/// What a head announces.
fn head(head: &[u8]) -> State {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split_whitespace();
    let status = first.next().filter(|version| version.starts_with("HTTP/1.")).and_then(|_| first.next());
    match status.and_then(|status| status.parse::<u16>().ok()) {
        Some(200) => {}
        // It says of itself that it does not serve: a server that still loads its model.
        Some(503) => return State::Refused(Missing::Off),
        Some(500..) | None => return State::Refused(Missing::Bus),
        // Nobody of this name, or nobody for us.
        Some(_) => return State::Refused(Missing::NotPresent),
    }
    let mut length = None;
    let mut chunked = false;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok();
        }
        if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.trim().eq_ignore_ascii_case("chunked");
        }
    }
    match (chunked, length) {
        (true, _) => State::Size(0, false),
        (false, Some(0)) => State::Done,
        (false, length) => State::Body(length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same whether it comes at once or a byte at a time.
    fn decode(text: &str, closed: bool) -> Result<(String, bool), Missing> {
        let mut at_once = Decoder::new(10);
        at_once.feed(text.as_bytes());
        let mut in_bytes = Decoder::new(10);
        for byte in text.as_bytes() {
            in_bytes.feed(&[*byte]);
        }
        let at_once = at_once.finish(closed);
        assert_eq!(at_once, in_bytes.finish(closed), "{text:?}");
        at_once.map(|answer| (String::from_utf8(answer.bytes).unwrap(), answer.whole))
    }

    #[test]
    fn a_body_ends_by_its_length_its_chunks_or_its_connection() {
        let ok = "HTTP/1.1 200 OK\r\n";
        let whole = |text: &str| Ok((text.to_owned(), true));
        let part = |text: &str| Ok((text.to_owned(), false));
        for (text, closed, expected) in [
            (format!("{ok}Content-Length: 5\r\n\r\nabcde"), false, whole("abcde")),
            (format!("{ok}content-length:5\r\n\r\nabcdefgh"), false, whole("abcde")),
            (format!("{ok}Content-Length: 0\r\n\r\n"), false, whole("")),
            (format!("{ok}Content-Length: 5\r\n\r\nabc"), true, part("abc")),
            (format!("{ok}\r\nabc"), true, whole("abc")),
            (format!("{ok}\r\nabc"), false, part("abc")),
            ("HTTP/1.0 200\n\nabc".to_owned(), true, whole("abc")),
            (
                format!("{ok}Transfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"),
                false,
                whole("abcde"),
            ),
            (format!("{ok}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nd"), true, part("abcd")),
            (format!("{ok}Transfer-Encoding: chunked\r\n\r\n3\r\nabc??"), true, part("abc")),
            (format!("{ok}Transfer-Encoding: chunked\r\n\r\nzz\r\n"), true, Err(Missing::Bus)),
            (format!("{ok}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n"), true, Err(Missing::Bus)),
            (format!("{ok}Transfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n1\r\nx"), true, part("0123456789")),
            (format!("{ok}\r\n0123456789x"), true, part("0123456789")),
            (format!("{ok}Content-Length: 99999999999999999999\r\n\r\nabc"), true, whole("abc")),
            ("HTTP/1.1 404 Not Found\r\n\r\n".to_owned(), true, Err(Missing::NotPresent)),
            ("HTTP/1.1 301 Moved\r\nLocation: /x\r\n\r\n".to_owned(), true, Err(Missing::NotPresent)),
            ("HTTP/1.1 503 Loading model\r\n\r\n{}".to_owned(), true, Err(Missing::Off)),
            ("HTTP/1.1 500 Oh\r\n\r\n{}".to_owned(), true, Err(Missing::Bus)),
            ("SSH-2.0-OpenSSH_9.6\r\n\r\n".to_owned(), true, Err(Missing::Bus)),
            ("HTTP/1.1 200 OK\r\n".to_owned(), true, Err(Missing::Bus)),
            ("x".repeat(20_000), true, Err(Missing::Bus)),
            (String::new(), true, Err(Missing::Bus)),
        ] {
            assert_eq!(decode(&text, closed), expected, "{text:?}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..Default::default() })]
        #[test]
        fn whatever_comes_is_the_same_in_any_pieces(
            start in proptest::sample::select(vec!["", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]),
            more in "[0-9a-f;\r\n]{0,40}",
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40),
        ) {
            let all = [start.as_bytes(), more.as_bytes(), &bytes].concat();
            let mut at_once = Decoder::new(16);
            at_once.feed(&all);
            let mut in_bytes = Decoder::new(16);
            all.iter().for_each(|byte| { in_bytes.feed(&[*byte]); });
            let at_once = at_once.finish(true);
            proptest::prop_assert_eq!(&at_once, &in_bytes.finish(true));
            proptest::prop_assert!(at_once.map_or(true, |answer| answer.bytes.len() <= 16));
        }
    }

    #[test]
    fn a_request_is_a_get_that_ends_its_connection() {
        assert_eq!(
            request("127.0.0.1:1", "/2/summary", Some("secret")),
            "GET /2/summary HTTP/1.1\r\nHost: 127.0.0.1:1\r\nAccept: */*\r\nAuthorization: Bearer secret\r\nConnection: close\r\n\r\n"
        );
        assert!(!request("127.0.0.1:1", "/", None).contains("Authorization"));
        assert_eq!(
            call("127.0.0.1:1", "/json_rpc", Some("{}"), Some("secret")),
            "POST /json_rpc HTTP/1.1\r\nHost: 127.0.0.1:1\r\nAccept: */*\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\
             Authorization: Bearer secret\r\nConnection: close\r\n\r\n{}"
        );
        assert_eq!(call("h", "/p", None, None), request("h", "/p", None));
    }
}
