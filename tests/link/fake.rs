//! A broker of a few lines: as much of MQTT 5 as it takes to mistreat a client. It does nothing by itself.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

/// How long anything may take that has to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    Connect(Connect),
    Publish { id: u16, topic: String, payload: Vec<u8> },
    PubAck(u16),
    Subscribe { id: u16, filters: usize },
    PingReq,
    Disconnect,
    Other(u8),
}

/// What it wants of the session (MQTT 5, 3.1.2.11).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Connect {
    pub(crate) clean_start: bool,
    pub(crate) session_expiry_s: Option<u32>,
    pub(crate) receive_maximum: Option<u16>,
    pub(crate) maximum_packet_size: Option<u32>,
}

/// Takes connections in as they come.
pub(crate) struct Server {
    pub(crate) port: u16,
    accepted: Receiver<TcpStream>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with_receive_buffer(None)
    }

    /// With so little room for what is not read, bytes.
    pub(crate) fn with_receive_buffer(bytes: Option<i32>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        if let Some(bytes) = bytes {
            set_buffer(&listener, libc::SO_RCVBUF, bytes);
        }
        let port = listener.local_addr().unwrap().port();
        // Full: a client that comes more often waits in the kernel's queue.
        let (to, accepted) = sync_channel(256);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if to.send(stream.unwrap()).is_err() {
                    return;
                }
            }
        });
        Self { port, accepted }
    }

    /// The next connection, where one comes within this time.
    pub(crate) fn accept_within(&self, time: Duration) -> Option<Peer> {
        let stream = self.accepted.recv_timeout(time).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Some(Peer { stream, bytes: VecDeque::new() })
    }

    /// The next connection up to its CONNECT, which is not answered yet.
    pub(crate) fn accept(&self) -> (Peer, Connect) {
        let mut peer = self.accept_within(PATIENCE).expect("a connection comes");
        let first = peer.read();
        let Packet::Connect(connect) = first else { panic!("{first:?} is no CONNECT") };
        (peer, connect)
    }

    /// The next connection, let in.
    pub(crate) fn admit(&self, session_present: bool) -> Peer {
        let (mut peer, _) = self.accept();
        peer.admit(session_present);
        peer
    }
}

/// A client.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    bytes: VecDeque<u8>,
}

impl Peer {
    pub(crate) fn admit(&mut self, session_present: bool) {
        self.send(&[0x20, 3, u8::from(session_present), 0, 0]);
    }

    pub(crate) fn acknowledge(&mut self, id: u16) {
        let [high, low] = id.to_be_bytes();
        self.send(&[0x40, 2, high, low]);
    }

    /// A message with QoS 1.
    pub(crate) fn publish(&mut self, id: u16, topic: &str, payload: &[u8]) {
        let length = 2 + topic.len() + 2 + 1 + payload.len();
        assert!((128..16_384).contains(&length), "two bytes of length");
        let [low, high] = [length % 128 + 128, length / 128].map(|byte| u8::try_from(byte).unwrap());
        let mut packet = vec![0x32, low, high, 0];
        packet.push(topic.len().try_into().unwrap());
        packet.extend(topic.as_bytes());
        packet.extend(id.to_be_bytes());
        packet.push(0);
        packet.extend(payload);
        self.send(&packet);
    }

    /// The next packet; pings are answered and not told.
    pub(crate) fn read(&mut self) -> Packet {
        for _ in 0..4 {
            let packet = self.next().expect("a packet comes");
            if packet != Packet::PingReq {
                return packet;
            }
            self.send(&[0xd0, 0]);
        }
        panic!("nothing but pings");
    }

    /// The next packet, pings too. Subscriptions are granted and not told.
    pub(crate) fn next(&mut self) -> io::Result<Packet> {
        loop {
            let packet = self.any()?;
            let Packet::Subscribe { id, filters } = packet else { return Ok(packet) };
            let [high, low] = id.to_be_bytes();
            let granted = vec![1; filters];
            self.send(&[&[0x90, u8::try_from(3 + filters).unwrap(), high, low, 0], &granted[..]].concat());
        }
    }

    fn any(&mut self) -> io::Result<Packet> {
        let kind = self.byte()?;
        let length = self.length()?;
        let mut body = Body { bytes: (0..length).map(|_| self.byte()).collect::<io::Result<_>>()?, at: 0 };
        Ok(match kind >> 4 {
            1 => Packet::Connect(connect(&mut body)),
            3 => {
                let topic = String::from_utf8(body.prefixed()).unwrap();
                let id = if kind & 0b110 == 0 { 0 } else { body.u16() };
                let properties = body.length();
                body.at += properties;
                Packet::Publish { id, topic, payload: body.rest() }
            }
            4 => Packet::PubAck(body.u16()),
            8 => {
                let id = body.u16();
                let properties = body.length();
                body.at += properties;
                let mut filters = 0;
                while body.at < body.bytes.len() {
                    // A filter and its options.
                    body.prefixed();
                    body.at += 1;
                    filters += 1;
                }
                Packet::Subscribe { id, filters }
            }
            12 => Packet::PingReq,
            14 => Packet::Disconnect,
            other => Packet::Other(other),
        })
    }

    /// The client's own end of this connection: it is in this process.
    pub(crate) fn clients_socket(&self) -> TcpStream {
        let theirs = self.stream.peer_addr().unwrap();
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
        descriptors
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .find_map(|descriptor: i32| {
                // SAFETY: `dup` of any number is sound: it says no to one that is not open, and what it opens is ours alone.
                let copy = unsafe { libc::dup(descriptor) };
                // SAFETY: the number was just opened and nobody else has it; whatever kind of file it is, TcpStream only closes it and
                // asks the kernel, which says no to what is no socket.
                let socket = (copy >= 0).then(|| unsafe { TcpStream::from_raw_fd(copy) })?;
                (socket.local_addr().ok() == Some(theirs)).then_some(socket)
            })
            .expect("the client's socket is one of this process")
    }

    fn send(&mut self, bytes: &[u8]) {
        // Whether the client is still there shows at the next read.
        let _ = self.stream.write_all(bytes);
    }

    fn byte(&mut self) -> io::Result<u8> {
        while self.bytes.is_empty() {
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.bytes.extend(&buffer[..count]),
            }
        }
        Ok(self.bytes.pop_front().unwrap())
    }

    /// A variable byte integer (MQTT 5, 1.5.5).
    fn length(&mut self) -> io::Result<usize> {
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        Ok(length)
    }
}

/// What is in a packet.
struct Body {
    bytes: Vec<u8>,
    at: usize,
}

impl Body {
    fn take(&mut self, count: usize) -> Vec<u8> {
        let taken = self.bytes[self.at..self.at + count].to_vec();
        self.at += count;
        taken
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().unwrap())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().unwrap())
    }

    fn prefixed(&mut self) -> Vec<u8> {
        let count = self.u16();
        self.take(count.into())
    }

    fn length(&mut self) -> usize {
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.take(1)[0];
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        length
    }

    fn rest(&mut self) -> Vec<u8> {
        self.take(self.bytes.len() - self.at)
    }
}

fn connect(body: &mut Body) -> Connect {
    assert_eq!((body.prefixed(), body.take(1)), (b"MQTT".to_vec(), vec![5]));
    let flags = body.take(1)[0];
    body.u16();
    let mut found = Connect { clean_start: flags & 0b10 != 0, ..Connect::default() };
    let length = body.length();
    let end = body.at + length;
    while body.at < end {
        match body.take(1)[0] {
            0x11 => found.session_expiry_s = Some(body.u32()),
            0x21 => found.receive_maximum = Some(body.u16()),
            0x27 => found.maximum_packet_size = Some(body.u32()),
            0x22 => drop(body.u16()),
            0x17 | 0x19 => drop(body.take(1)),
            other => panic!("property {other:#x} is not known here"),
        }
    }
    found
}

/// Sets the size of a socket's buffer; the kernel has a least one of its own.
pub(crate) fn set_buffer(socket: &impl AsRawFd, which: i32, bytes: i32) {
    let length = libc::socklen_t::try_from(size_of::<i32>()).unwrap();
    // SAFETY: the socket is open for as long as it is borrowed, and the value is an i32 of that length, as both options want.
    let outcome =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, which, (&raw const bytes).cast(), length) };
    assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
}
