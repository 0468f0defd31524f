//! One test for each way in which rumqttc loses messages, hangs, or does too much.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

use rigd::clock;
use rigd::wire::{
    Audience, Command, CommandId, Encoding, Header, Kind, MAX_MESSAGE, Order, SigningKey, decode, encode,
};

use crate::fake::{PATIENCE, Packet, Peer, Server, set_buffer};
use crate::rig::Rig;

/// The number of an event; `None` for all other messages.
fn event(payload: &[u8]) -> Option<u64> {
    let (header, _) = decode(payload).unwrap();
    (header.kind == Kind::Event).then_some(header.seq)
}

/// The next message.
fn message(peer: &mut Peer) -> (u16, Vec<u8>) {
    let packet = peer.read();
    let Packet::Publish { id, payload, .. } = packet else { panic!("{packet:?} is no message") };
    (id, payload)
}

/// Acknowledges everything until this many events are there, and adds them up by how often each came.
fn take(peer: &mut Peer, taken: &mut BTreeMap<u64, u32>, count: usize) {
    while taken.len() < count {
        let (id, payload) = message(peer);
        peer.acknowledge(id);
        if let Some(seq) = event(&payload) {
            *taken.entry(seq).or_default() += 1;
        }
    }
}

/// Nagle holds each small packet back until the one before is acknowledged, 40 ms later.
/// Seen to fail without `set_tcp_nodelay(true)` in `connect_options`.
#[test]
fn small_packets_are_not_held_back() {
    let server = Server::start();
    let _rig = Rig::start(server.port, "");
    let peer = server.admit(false);
    assert!(peer.clients_socket().nodelay().unwrap());
}

/// `poll()` connects again at once: 47 000 times a second against a port that refuses.
/// Seen to fail without the `sleep` in `Link::run`.
#[test]
fn a_broker_that_hangs_up_at_once_is_not_hammered() {
    let server = Server::start();
    let _rig = Rig::start(server.port, "");
    let begin = clock::now();
    for _ in 0..6 {
        drop(server.accept());
    }
    let took = clock::now() - begin;
    assert!(took > Duration::from_millis(1_000), "six attempts took {took:?}");
}

/// `poll()` starts from the beginning when it is dropped while it connects: with a timer beside it in one `select!` a broker
/// that takes its time is never reached. Samples come here all the while.
/// Seen to fail with 100 ms as the deadline of a connecting `poll()` in `Session::next`.
#[test]
fn a_slow_handshake_is_waited_for() {
    let server = Server::start();
    let rig = Rig::start(server.port, "");
    let (mut peer, _) = server.accept();
    for _ in 0..15 {
        rig.tick();
        let second = server.accept_within(Duration::from_millis(100));
        assert!(second.is_none(), "a second connection while the first is being made");
    }
    peer.admit(false);
    let (_, online) = message(&mut peer);
    assert_eq!(decode(&online).unwrap().0.kind, Kind::Online);
}

/// Lets in, takes some messages without an answer to the last of them, and hangs up, again and again.
fn nothing_is_lost(session_present: bool) {
    const EVENTS: usize = 100;
    let server = Server::start();
    let rig = Rig::start(server.port, "");
    let feeder = thread::spawn(move || {
        for _ in 0..EVENTS {
            rig.alarm();
        }
        rig
    });
    // What it has answered for; what it read and did not answer for a real broker may forget.
    let mut taken = BTreeMap::new();
    for turn in 0..5 {
        let mut peer = server.admit(session_present && turn > 0);
        let mut unanswered = Vec::new();
        // All that a window holds, so that packet ids are in use when they are given again; every second time nothing
        // is answered for, else the older half.
        while unanswered.len() < 12 {
            unanswered.push(message(&mut peer));
        }
        let answered = if turn % 2 == 0 { 0 } else { 6 };
        for (id, payload) in unanswered.drain(..answered) {
            peer.acknowledge(id);
            if let Some(seq) = event(&payload) {
                *taken.entry(seq).or_default() += 1;
            }
        }
        if answered > 0 {
            // It has seen the answers when more comes than the window had room for.
            for _ in 0..5 {
                message(&mut peer);
            }
        }
    }
    let mut peer = server.admit(session_present);
    take(&mut peer, &mut taken, EVENTS);
    let rig = feeder.join().unwrap();
    let all: BTreeSet<u64> = taken.keys().copied().collect();
    let first = *all.first().unwrap();
    assert_eq!(all, (first..first + EVENTS as u64).collect(), "no number is missing");
    assert!(taken.values().all(|times| *times <= 2), "sent again only where nothing was answered: {taken:?}");
    drop(peer);
    drop(rig);
}

/// A CONNACK without a session throws away all that waits in rumqttc, also what was never sent.
/// Seen to fail without `self.outbox.disconnected()` in `Publisher::start_over`.
#[test]
fn a_broker_that_has_forgotten_the_session_gets_everything_again() {
    nothing_is_lost(false);
}

/// With a session what waits is sent again without regard to the window, and messages under the same packet id overwrite each
/// other: 140 of 500 were lost. It must not be there to be sent.
/// Seen to fail without `self.eventloop.pending.clear()` in `Session::forget`: messages came a third time.
#[test]
fn a_broker_that_has_the_session_gets_everything_once_more_and_in_our_order() {
    nothing_is_lost(true);
}

/// A message that waits for the packet id of another survives the connection, and from then on nothing is sent at all.
/// Seen to fail without `self.eventloop.state.collision = None` in `Session::forget`; and, for there are more ids then, without
/// `set_outgoing_inflight_upper_limit` in `Bounds::set`, without which rumqttc makes slots of 14 MB for what is on its way.
#[test]
fn a_packet_id_that_is_never_given_back_does_not_stop_the_next_connection() {
    let server = Server::start();
    let rig = Rig::start(server.port, "");
    let mut peer = server.admit(false);
    for _ in 0..40 {
        rig.alarm();
    }
    // The first is never answered, all others at once, until ids begin anew and nothing more can come.
    let (first, _) = message(&mut peer);
    for _ in 1..16 {
        let (id, _) = message(&mut peer);
        assert_ne!(id, first);
        peer.acknowledge(id);
    }
    // Only pings now: the next message would have the first one's id.
    assert_eq!(peer.next().unwrap(), Packet::PingReq);
    drop(peer);
    let mut taken = BTreeMap::new();
    take(&mut server.admit(true), &mut taken, 10);
}

/// A peer that stops reading: once the buffer is full the flush never returns, and neither does the ping that would tell.
/// Seen to fail with an hour as the deadline in `Session::next`.
#[test]
fn a_broker_that_stops_reading_is_given_up() {
    let server = Server::with_receive_buffer(Some(1));
    // JSON makes sixteen messages more than both buffers hold.
    let rig = Rig::start(server.port, "encoding = \"json\"");
    let peer = server.admit(false);
    set_buffer(&peer.clients_socket(), libc::SO_SNDBUF, 1);
    for _ in 0..20 {
        rig.alarm();
    }
    assert!(server.accept_within(PATIENCE).is_some(), "it connects again");
    drop(peer);
}

/// A message over the limit that a client has in silence is an error that comes again with each connection: 116 in 6 s. A limit
/// that is announced is the broker's to keep. And the session outlives a connection.
/// Seen to fail without `set_max_packet_size` in `Bounds::set`; what is too large on its way out is in the end-to-end tests.
#[test]
fn limits_are_announced() {
    let server = Server::start();
    let _rig = Rig::start(server.port, "");
    for _ in 0..2 {
        let (_, connect) = server.accept();
        assert_eq!(connect.maximum_packet_size, Some(MAX_MESSAGE as u32));
        assert_eq!(connect.receive_maximum, Some(16));
        assert_eq!((connect.clean_start, connect.session_expiry_s), (false, Some(600)));
    }
}

/// rumqttc acknowledges a message before anybody has seen it: a crash then loses it. Ours is acknowledged when the journal has
/// it. Seen to fail without `set_manual_acks(true)` in `Bounds::set`.
#[test]
fn a_command_is_acknowledged_when_it_is_written_down() {
    let server = Server::start();
    let key = SigningKey::from_seed(&[3; 32]).unwrap();
    let lines =
        format!("[fleet]\ntrust_clock = true\n[key.ops]\npublic = \"{}\"\nscopes = [\"operate\"]", key.public());
    let rig = Rig::start(server.port, &lines);
    let mut peer = server.admit(false);
    let topic = "r1/rig-1/dn/cmd";
    let command = Command {
        audience: Audience::Rig("rig-1".parse().unwrap()),
        id: CommandId([0x5a; 16]),
        counter: 1,
        not_before_ms: clock::unix_ms(),
        not_after_ms: clock::unix_ms() + 60_000,
        nonce: None,
        revision: None,
        order: Order::Identify { seconds: 1 },
    };
    let message = encode(Encoding::Postcard, Header::new(Kind::Command, 0, 0), &command);
    peer.publish(9, topic, &key.frame(None, topic, &message));
    loop {
        match peer.read() {
            Packet::PubAck(id) => {
                let journal = std::fs::read(rig.state.join("commands.log")).unwrap();
                assert!(id == 9 && journal.windows(16).any(|window| window == [0x5a; 16]));
                return;
            }
            Packet::Publish { id, .. } => peer.acknowledge(id),
            other @ (Packet::Connect(_)
            | Packet::Subscribe { .. }
            | Packet::PingReq
            | Packet::Disconnect
            | Packet::Other(_)) => panic!("{other:?}"),
        }
    }
}
