//! What has been heard of each rig.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use rigd::wire::{Birth, Event, Header, Message, Online, Reported, RigId, Telemetry};

/// Events kept per rig, the newest last.
const EVENTS: usize = 8;

/// Every rig that was heard of, by name.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    pub(super) rigs: BTreeMap<RigId, Rig>,
}

/// The last word of a rig on everything.
#[derive(Debug, Default)]
pub(super) struct Rig {
    pub(super) online: Option<Online>,
    pub(super) birth: Option<Birth>,
    pub(super) telemetry: Option<Telemetry>,
    /// How near it is to its desired state.
    pub(super) reported: Option<Reported>,
    pub(super) heard: Option<Instant>,
    pub(super) events: VecDeque<Event>,
    /// Telemetry messages that never came, by their numbers.
    pub(super) missed: u64,
    last: Option<(u32, u64)>,
}

impl Fleet {
    pub(super) fn take(&mut self, rig: RigId, (header, message): (Header, Message), now: Instant) {
        let rig = self.rigs.entry(rig).or_default();
        match message {
            Message::Online(online) => rig.online = Some(online),
            Message::Birth(birth) => rig.birth = Some(birth),
            Message::Telemetry(telemetry) => {
                rig.count(&header);
                rig.heard = Some(now);
                rig.telemetry = Some(telemetry);
            }
            Message::Event(event) => {
                if rig.events.len() == EVENTS {
                    rig.events.pop_front();
                }
                rig.events.push_back(event);
            }
            // The control plane's own words.
            Message::Watermark(_) | Message::Controller(_) | Message::Command(_) | Message::Desired(_) => {}
            Message::Reported(reported) => rig.reported = Some(reported),
            // Whoever gave the command shows what it brings; what was used is telemetry's to tell.
            Message::Ack(_) | Message::Receipt(_) | Message::Log(_) => {}
        }
    }

    /// Something was heard, and every rig that is online has told its readings.
    pub(super) fn complete(&self) -> bool {
        let told = |rig: &Rig| rig.telemetry.is_some() || rig.online.is_some_and(|online| !online.online);
        !self.rigs.is_empty() && self.rigs.values().all(told)
    }
}

impl Rig {
    /// Sent again is not missed: only a number that was jumped over is.
    fn count(&mut self, header: &Header) {
        if let Some((boot, seq)) = self.last
            && boot == header.boot
        {
            self.missed += header.seq.saturating_sub(seq + 1);
        }
        self.last = Some((header.boot, header.seq));
    }

    /// The readings with the names that belong to them; none where the birth is another's.
    pub(super) fn named(&self) -> Option<(&Birth, &Telemetry)> {
        let (birth, telemetry) = (self.birth.as_ref()?, self.telemetry.as_ref()?);
        (birth.id == telemetry.birth).then_some((birth, telemetry))
    }
}

#[cfg(test)]
mod tests {
    use rigd::wire::Kind;

    use super::*;

    #[test]
    fn jumps_are_missed_and_repeats_are_not() {
        let mut rig = Rig::default();
        for (boot, seq) in [(1, 5), (1, 6), (1, 6), (1, 9), (2, 1), (2, 2)] {
            rig.count(&Header::new(Kind::Telemetry, boot, seq));
        }
        assert_eq!(rig.missed, 2);
    }
}
