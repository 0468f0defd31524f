//! What a virtio I2C driver asks for, and what it is answered (Virtual I/O Device 1.2, 5.34).
//!
//! Each request is one message of a transaction: address, flags, the bytes to write or room for those to read, and room
//! for a status. FAIL_NEXT ties it to the request after it: a repeated start between them, and none of the rest once one
//! has failed. The driver puts a whole transaction into the queue before it says so.

use rigd::bus::socket::Status;
use rigd_sim::{Operation, Outcome, Request};

/// Bytes of `struct virtio_i2c_out_hdr`: the address, padding, the flags; little-endian.
pub(crate) const HEADER_BYTES: usize = 8;
/// `VIRTIO_I2C_FLAGS_FAIL_NEXT`.
const FAIL_NEXT: u32 = 1 << 0;
/// `VIRTIO_I2C_FLAGS_M_RD`.
const M_RD: u32 = 1 << 1;

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// `None` for an address that no 7-bit bus has.
    addr: Option<u8>,
    /// The next one belongs to the same transaction.
    fail_next: bool,
    operation: Operation,
}

/// What became of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) ok: bool,
    /// As many as there is room for; zeros where it failed.
    pub(crate) bytes: Vec<u8>,
}

impl Message {
    /// A request with these bytes to write and room for so many to read.
    pub(crate) fn parse(header: [u8; HEADER_BYTES], bytes: Vec<u8>, room: usize) -> Self {
        let [low, high, _, _, flags @ ..] = header;
        // 7-bit addresses stand in bits 7:1; 10-bit ones, which have 11110 on top, no chip here answers.
        let addr = u16::from_le_bytes([low, high]);
        let addr = u8::try_from(addr >> 1).ok().filter(|seven| *seven < 0x80 && addr & 1 == 0);
        let flags = u32::from_le_bytes(flags);
        let operation = if flags & M_RD != 0 { Operation::Read(room) } else { Operation::Write(bytes) };
        Self { addr, fail_next: flags & FAIL_NEXT != 0, operation }
    }
}

/// Carries out what arrived together, in its transactions; a reply for each message.
pub(crate) fn carry_out(messages: Vec<Message>, mut transact: impl FnMut(&Request) -> Outcome) -> Vec<Reply> {
    let mut replies = Vec::new();
    let mut messages = messages.into_iter().peekable();
    while let Some(Message { addr, mut fail_next, operation }) = messages.next() {
        let mut operations = vec![operation];
        // A change of address within a transaction begins another for us: nobody else is on this bus to come between.
        while let Some(next) = messages.next_if(|next| fail_next && next.addr == addr) {
            fail_next = next.fail_next;
            operations.push(next.operation);
        }
        let failed = Outcome::failed(Status::NoAddress);
        let (outcome, operations) = match addr {
            Some(addr) => {
                let request = Request { addr, operations };
                (transact(&request), request.operations)
            }
            None => (failed, operations),
        };
        let all = outcome.done == operations.len();
        reply(&outcome, &operations, &mut replies);
        while !all && fail_next {
            let Some(next) = messages.next() else { break };
            fail_next = next.fail_next;
            reply(&Outcome::failed(Status::Bus), &[next.operation], &mut replies);
        }
    }
    replies
}

fn reply(outcome: &Outcome, operations: &[Operation], replies: &mut Vec<Reply>) {
    let mut read = outcome.bytes.iter().copied();
    for (index, operation) in operations.iter().enumerate() {
        let ok = index < outcome.done;
        let bytes = match operation {
            Operation::Write(_) => Vec::new(),
            Operation::Read(length) if ok => read.by_ref().take(*length).collect(),
            Operation::Read(length) => vec![0; *length],
        };
        replies.push(Reply { ok, bytes });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(addr: u8, flags: u32, bytes: &[u8], room: usize) -> Message {
        let [f0, f1, f2, f3] = flags.to_le_bytes();
        Message::parse([addr << 1, addr >> 7, 0, 0, f0, f1, f2, f3], bytes.to_vec(), room)
    }

    fn ok(bytes: &[u8]) -> Reply {
        Reply { ok: true, bytes: bytes.to_vec() }
    }

    fn failed(room: usize) -> Reply {
        Reply { ok: false, bytes: vec![0; room] }
    }

    /// A bus whose chip at 0x40 acknowledges all, at 0x41 writes only, and 0x42 is not there.
    fn bus(seen: &mut Vec<(u8, usize)>) -> impl FnMut(&Request) -> Outcome {
        |request| {
            seen.push((request.addr, request.operations.len()));
            let reads = |operation: &Operation| matches!(operation, Operation::Read(_));
            let done = match request.addr {
                0x40 => request.operations.len(),
                0x41 => request.operations.iter().position(reads).unwrap_or(request.operations.len()),
                _ => 0,
            };
            let bytes = request.operations.iter().take(done).flat_map(|operation| match operation {
                Operation::Write(_) => Vec::new(),
                Operation::Read(length) => vec![0xa5; *length],
            });
            let status = if done == request.operations.len() { Status::Ok } else { Status::NoData };
            Outcome { status, done, bytes: bytes.collect() }
        }
    }

    #[test]
    fn headers_are_the_standards() {
        let write = Message { addr: Some(0x40), fail_next: true, operation: Operation::Write(vec![2]) };
        assert_eq!(Message::parse([0x80, 0, 0, 0, 1, 0, 0, 0], vec![2], 0), write);
        let read = Message { addr: Some(0x7f), fail_next: false, operation: Operation::Read(2) };
        assert_eq!(Message::parse([0xfe, 0, 0, 0, 2, 0, 0, 0], vec![], 2), read);
        for header in [[0x81, 0, 0, 0, 0, 0, 0, 0], [0x00, 0x01, 0, 0, 0, 0, 0, 0], [0xf0, 0x34, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(Message::parse(header, vec![], 0).addr, None, "{header:02x?}");
        }
    }

    /// Name, messages, what they are answered, and the transactions they made: address and operations of each.
    type Row = (&'static str, Vec<Message>, Vec<Reply>, Vec<(u8, usize)>);

    #[test]
    fn tied_messages_are_one_transaction_and_the_rest_of_a_failed_one_fails() {
        let register = |addr| vec![message(addr, 1, &[2], 0), message(addr, 2, &[], 2)];
        let rows: [Row; 6] = [
            ("register", register(0x40), vec![ok(&[]), ok(&[0xa5; 2])], vec![(0x40, 2)]),
            ("nobody", register(0x42), vec![failed(0), failed(2)], vec![(0x42, 2)]),
            ("does not read", register(0x41), vec![ok(&[]), failed(2)], vec![(0x41, 2)]),
            (
                "not tied",
                vec![message(0x42, 0, &[2], 0), message(0x40, 2, &[], 1)],
                vec![failed(0), ok(&[0xa5])],
                vec![(0x42, 1), (0x40, 1)],
            ),
            (
                "two chips, the first away",
                vec![message(0x42, 1, &[2], 0), message(0x40, 3, &[], 1), message(0x40, 2, &[], 1)],
                vec![failed(0), failed(1), failed(1)],
                vec![(0x42, 1)],
            ),
            ("nothing to write", vec![message(0x40, 0, &[], 0)], vec![ok(&[])], vec![(0x40, 1)]),
        ];
        for (name, messages, replies, transactions) in rows {
            let mut seen = Vec::new();
            assert_eq!(carry_out(messages, bus(&mut seen)), replies, "{name}");
            assert_eq!(seen, transactions, "{name}");
        }
    }
}
