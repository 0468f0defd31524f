//! Law 6, whatever happens: each number is delivered, waits, or is inside a declared gap. Where a control plane keeps accounts, that goes
//! for each number below the highest that it has, also of starts that were killed.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Act {
    Push(Lane),
    Pass(u64),
    /// Hands over some, of which the broker answers the first so many.
    Send(usize, usize),
    /// The broker says no, for good or for now.
    Refuse(bool),
    Connect,
    Disconnect,
    Controller(bool),
    Watermark,
    Refuses(bool),
    /// Killed and started anew.
    Kill,
    Stop,
}

fn act() -> impl Strategy<Value = Act> {
    let lane = prop_oneof![Just(Lane::Event), Just(Lane::Telemetry), Just(Lane::Telemetry)];
    prop_oneof![
        12 => lane.prop_map(Act::Push),
        8 => prop_oneof![Just(10), Just(900), Just(3_000), Just(60_000)].prop_map(Act::Pass),
        8 => (1..20_usize, 0..20_usize).prop_map(|(sent, answered)| Act::Send(sent, answered)),
        1 => any::<bool>().prop_map(Act::Refuse),
        2 => Just(Act::Connect),
        2 => Just(Act::Disconnect),
        1 => any::<bool>().prop_map(Act::Controller),
        3 => Just(Act::Watermark),
        1 => any::<bool>().prop_map(Act::Refuses),
        1 => Just(Act::Kill),
        1 => Just(Act::Stop),
    ]
}

/// What the other side has.
#[derive(Default)]
struct Collector {
    known: BTreeMap<(u32, Lane), BTreeSet<u64>>,
}

impl Collector {
    fn take(&mut self, message: &Message) {
        let Ticket { boot, lane, seq } = message.ticket;
        self.known.entry((boot, lane)).or_default().extend(seq - message.gap..=seq);
        for (_, known) in self.known.iter_mut().filter(|((boot, _), _)| message.ended.contains(boot)) {
            let highest = known.last().copied().unwrap_or(0);
            known.extend(1..=highest);
        }
    }

    fn upto(&self, boot: u32, lane: Lane) -> u64 {
        let Some(known) = self.known.get(&(boot, lane)) else { return 0 };
        (1..).take_while(|seq| known.contains(seq)).last().unwrap_or(0)
    }
}

struct World {
    site: Site,
    rules: OutboxConfig,
    collector: Collector,
    flying: Vec<Message>,
    /// The last number of each boot that is known to have been on the disk or delivered.
    certain: BTreeMap<(u32, Lane), u64>,
    connected: bool,
    lossy: bool,
}

impl World {
    fn answer(&mut self, count: usize) {
        for message in self.flying.drain(..count.min(self.flying.len())).collect::<Vec<_>>() {
            // Where the watermark rules, a broker may lose what it acknowledged.
            if !(self.lossy && self.site.keeper.by_watermark() && message.ticket.seq % 7 == 3) {
                self.collector.take(&message);
            }
            self.site.keeper.settled(message.ticket, self.site.now);
        }
        self.site.work();
    }

    fn marks(&mut self) {
        let lanes = self.collector.known.keys();
        let mark = |(boot, lane): &(u32, Lane)| (*boot, *lane, self.collector.upto(*boot, *lane));
        let marks: Vec<_> = lanes.map(mark).collect();
        self.site.marks(&marks);
    }

    fn again(&mut self) {
        self.flying.clear();
        for lane in Lane::ALL {
            let line = self.site.keeper.line(lane);
            for boot in 1..=self.site.boot {
                let last = line.shelf.last_of(boot).unwrap_or(0).max(self.collector.upto(boot, lane));
                let certain = self.certain.entry((boot, lane)).or_default();
                *certain = last.max(*certain);
            }
        }
        let files = self.site.disk.files.after_the_cut(true);
        let boot = self.site.boot + 1;
        let pad = self.site.pad;
        self.site = Site { pad, ..Site::on(self.rules.clone(), files, boot) };
        self.connected = false;
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Push(lane) => {
                self.site.add(lane);
            }
            Act::Pass(ms) => self.site.pass(Duration::from_millis(ms)),
            Act::Send(sent, answered) if self.connected => {
                let sent = self.site.send(sent);
                self.flying.extend(sent);
                self.answer(answered);
            }
            Act::Refuse(for_good) => {
                if let Some(message) = self.flying.pop() {
                    if for_good {
                        // Of a start that is over nothing may come to declare it; it is counted as refused.
                        if message.ticket.boot != self.site.boot {
                            self.collector.take(&message);
                        }
                        self.site.keeper.refused(message.ticket);
                    } else {
                        self.site.keeper.returned(message.ticket);
                    }
                }
            }
            Act::Connect if !self.connected => {
                self.connected = true;
                self.site.keeper.connected(self.site.now);
            }
            Act::Disconnect => {
                self.connected = false;
                self.flying.clear();
                self.site.keeper.disconnected();
            }
            Act::Controller(online) if self.rules.delivery != Delivery::Puback => {
                self.site.keeper.controller(online, self.site.now);
            }
            Act::Watermark if self.site.keeper.by_watermark() => self.marks(),
            Act::Refuses(refuses) => {
                self.site.disk.files.refuses = refuses.then_some(std::io::ErrorKind::StorageFull);
            }
            Act::Kill => self.again(),
            Act::Stop => {
                self.site.keeper.stop();
                self.site.work();
                self.again();
            }
            Act::Send(..) | Act::Connect | Act::Controller(_) | Act::Watermark => {}
        }
    }

    /// Everything works from now on, until nothing waits.
    fn calm_down(&mut self) {
        self.lossy = false;
        self.site.disk.files.refuses = None;
        self.act(Act::Disconnect);
        self.site.seconds(20);
        self.act(Act::Connect);
        self.act(Act::Controller(true));
        if self.rules.delivery == Delivery::Watermark {
            self.site.keeper.controller(true, self.site.now);
        }
        // What comes last declares what was lost before it.
        for lane in [Lane::Event, Lane::Telemetry] {
            self.site.add(lane);
        }
        let mut told = 20;
        for _ in 0..3_000 {
            let sent = self.site.send(16);
            let step = if sent.is_empty() { 5_000 } else { 50 };
            self.flying.extend(sent);
            self.answer(16);
            if self.site.keeper.by_watermark() {
                self.marks();
            }
            if self.site.keeper.waiting() == 0 {
                // And what was lost with a killed start is told by what comes then.
                if told == 0 {
                    return;
                }
                told -= 1;
                self.site.add(Lane::Telemetry);
            }
            self.site.pass(Duration::from_millis(step));
        }
        panic!("{} still wait", self.site.keeper.waiting());
    }
}

fn hold(delivery: Delivery, disk_bytes: u64, pad: usize, acts: Vec<Act>) {
    let rules = OutboxConfig { ram_bytes: 64 << 10, disk_bytes, ..rules(delivery) };
    let mut world = World {
        site: Site { pad, ..Site::new(rules.clone()) },
        rules: rules.clone(),
        collector: Collector::default(),
        flying: Vec::new(),
        certain: BTreeMap::new(),
        connected: false,
        lossy: true,
    };
    for act in acts {
        world.act(act);
        let line = |lane| {
            world.site.keeper.line(lane).new.iter().filter(|one| one.flight == super::super::line::Flight::Flying)
        };
        let flying: usize = Lane::ALL.into_iter().flat_map(line).map(super::super::line::Record::cost).sum();
        let soon = rules.ram_bytes / 4 + pad + 400;
        assert!(world.site.keeper.ram() <= rules.ram_bytes.max(flying + soon), "memory is bounded");
    }
    world.calm_down();
    if delivery != Delivery::Puback {
        for ((boot, lane), known) in &world.collector.known {
            let last = known.last().copied().unwrap_or(0);
            let missing: Vec<u64> = (1..=last).filter(|seq| !known.contains(seq)).collect();
            assert!(missing.is_empty(), "boot {boot} {lane:?}: {missing:?} is not declared");
        }
    }
    let own = world.site.boot;
    for lane in [Lane::Event, Lane::Telemetry] {
        world.certain.insert((own, lane), world.site.keeper.line(lane).last_seq);
    }
    for ((boot, lane), last) in world.certain {
        let known = world.collector.known.get(&(boot, lane)).cloned().unwrap_or_default();
        let missing: Vec<u64> = (1..=last).filter(|seq| !known.contains(seq)).collect();
        assert!(missing.is_empty(), "boot {boot} {lane:?}: {missing:?} of {last}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn every_number_is_accounted_for(
        delivery in prop_oneof![Just(Delivery::Auto), Just(Delivery::Watermark), Just(Delivery::Puback)],
        disk in prop_oneof![Just(64_u64 << 20), Just(200 << 10)],
        pad in prop_oneof![Just(300_usize), Just(6_000)],
        acts in prop::collection::vec(act(), 0..250),
    ) {
        hold(delivery, disk, pad, acts);
    }
}
