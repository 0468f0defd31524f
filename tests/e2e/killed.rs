//! A start of the agent that is killed: the next one delivers what it left, and says when that was all.

use rigd::wire::{Encoding, Header, Kind, Mark, Watermark, encode};
use rumqttc::v5::mqttbytes::QoS;
use rustix::process::Signal;

use crate::agent::{Agent, Setup};
use crate::broker::Broker;
use crate::subscriber::Subscriber;

#[test]
fn the_next_start_tells_of_a_killed_one_that_nothing_of_it_is_left() {
    let broker = Broker::start();
    let subscriber = Subscriber::new(broker.port);
    let setup = Setup { broker: "[outbox]\ndelivery = \"watermark\"\n".to_owned(), ..Setup::default() };
    let mut agent = Agent::start(&broker, setup);
    let telemetry = |boot: Option<u32>, after: u64| {
        subscriber.first("telemetry", |heard| {
            let header = heard.header;
            let other = boot.is_none_or(|boot| header.boot == boot) && header.seq > after;
            (header.kind == Kind::Telemetry && other).then(|| (header, heard.ended.clone()))
        })
    };
    let (Header { boot: killed, .. }, said) = telemetry(None, 10);
    assert_eq!(said, None);
    agent.signal(Signal::KILL);
    agent.ended();
    agent.run();
    let is_new = |header: Header| header.kind == Kind::Telemetry && header.boot != killed;
    let next = subscriber.first("the next start", |heard| is_new(heard.header).then_some(heard.header.boot));
    // All that it left is confirmed.
    let confirm = |own: u64| {
        let lanes = [Kind::Event, Kind::Receipt, Kind::Ack, Kind::Telemetry];
        let marks = lanes.map(|lane| Mark { boot: killed, lane, seq: 1_000_000 });
        let own = Mark { boot: next, lane: Kind::Telemetry, seq: own };
        let watermark = Watermark { marks: marks.into_iter().chain([own]).collect() };
        let message = encode(Encoding::Postcard, Header::new(Kind::Watermark, 0, 0), &watermark);
        subscriber.client().publish("r1/rig-1/dn/wm", QoS::AtLeastOnce, true, message).unwrap();
    };
    confirm(0);
    let seq = subscriber.first("its word", |heard| {
        let said = heard.ended.as_ref().map(|said| (said.clone(), heard.header));
        said.map(|(said, header)| {
            assert_eq!((said, header.boot, header.kind), (killed.to_string(), next, Kind::Telemetry));
            header.seq
        })
    });
    // It is said until it is confirmed, and no longer.
    let (_, said) = telemetry(Some(next), seq);
    assert_eq!(said, Some(killed.to_string()));
    confirm(seq + 1);
    subscriber.first("no word of it", |heard| {
        let header = heard.header;
        (header.boot == next && header.kind == Kind::Telemetry && header.seq > seq && heard.ended.is_none())
            .then_some(())
    });
}
