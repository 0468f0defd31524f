//! GPUs in thermal control: their temperatures count for the frame's zones, and each is a zone of its own for its own fans.

use std::time::Duration;

use super::zone::{Situation, ZoneState};
use crate::board;
use crate::gpu::{Gpu, Presence, air};
use crate::reading::{Missing, Reading, Zone};
use crate::units::{Duty, Millicelsius};

/// The temperatures of the GPUs that count for a zone, each with what is critical for it. One that is named and was never
/// seen is a missing one, and so are all where there is none.
pub(super) fn readings(zone: &board::Zone, gpus: &[Gpu]) -> Vec<(Reading<Millicelsius>, Millicelsius)> {
    let Some(which) = &zone.gpus else { return Vec::new() };
    let reading = |gpu: &Gpu| {
        let critical = which.critical.unwrap_or_else(|| air::critical(gpu.device.as_deref()));
        (heat(gpu, critical, TOO_HOT), critical)
    };
    let mut readings: Vec<_> = gpus.iter().filter(|gpu| which.count(gpu.pci)).map(reading).collect();
    let expected = which.only.as_ref().map_or(1, Vec::len);
    if readings.len() < expected {
        readings.push((Err(Missing::NotPresent), zone.critical));
    }
    readings
}

/// `nvmlClocksEventReasonHwThermalSlowdown` of nvml.h: slowed down to half or less by heat.
pub(super) const TOO_HOT: u64 = 0x40;
/// `nvmlClocksEventReasonSwThermalSlowdown`: slowed down so that chip and memory stay below what they are made for. A card
/// that runs at its target temperature says so too: its own fans then have more to give, and no frame is in danger.
const SLOWED: u64 = 0x20;

/// A GPU's temperature, or what is critical where it says itself that it is as hot as it may be, by one of these reasons: its
/// memory may be, whose temperature few cards tell, and newer cards tell a distance in place of a threshold.
pub(super) fn heat(gpu: &Gpu, critical: Millicelsius, reasons: u64) -> Reading<Millicelsius> {
    let temperature = gpu.temperature()?;
    let too_hot = gpu.sample.as_ref().is_ok_and(|sample| {
        sample.reasons.is_ok_and(|bits| bits & reasons != 0)
            || sample.margin.is_ok_and(|margin| margin.0 <= air::BEFORE_SLOWDOWN)
    });
    Ok(if too_hot { temperature.max(critical) } else { temperature })
}

/// The drive of a GPU's own fans by the rule of its profile; none where the driver has them.
pub(super) fn decide(gpu: &Gpu, memory: &mut ZoneState, starting: bool, since: Duration) -> Zone {
    let Some(zone) = gpu.air.as_deref().filter(|_| gpu.presence == Presence::Seen) else {
        *memory = ZoneState::default();
        return Zone::NONE;
    };
    let found = || {
        let fans = gpu.sample.iter().flat_map(|sample| &sample.fans);
        fans.filter_map(|fan| fan.duty.ok()).max().unwrap_or(Duty::FULL)
    };
    let situation = Situation {
        hottest: heat(gpu, zone.critical, TOO_HOT | SLOWED),
        rails: &[],
        dead: 0,
        starting,
        since,
        quiet: None,
        lowest: Duty::OFF,
        found,
    };
    memory.decide(zone, &situation)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::board::{Board, Gpus};
    use crate::clock::now;
    use crate::control::step::{Inputs, Orders, State, step};
    use crate::gpu::plan::tests::{card, sample};
    use crate::gpu::wire::{Device, PciAddress};
    use crate::reading::{Fan, Stage};
    use crate::units::Rpm;

    const PCI: [PciAddress; 2] =
        [PciAddress { domain: 0, bus: 1, device: 0 }, PciAddress { domain: 0, bus: 2, device: 0 }];

    fn device() -> Device {
        Device { slowdown: Ok(Millicelsius(93_000)), ..card() }
    }

    fn gpu(pci: PciAddress, celsius: Reading<i32>) -> Gpu {
        let mut gpu = Gpu::unseen(pci);
        gpu.presence = Presence::Seen;
        gpu.device = Some(Arc::new(device()));
        gpu.sample = celsius.map(|celsius| {
            let mut sample = sample(1_500, 50, 0);
            sample.temperature = Ok(Millicelsius(celsius * 1000));
            Arc::new(sample)
        });
        gpu
    }

    /// The board's zone with one cool sensor and one fan, and the GPUs that count for it.
    fn board(gpus: Gpus) -> Board {
        let text = "name = \"t\"\nrevision = \"a\"\n[bus.b]\nsocket = \"b\"\n[chip.U1]\npart = \"tmp75\"\nbus = \"b\"\naddr = 0x48\n\
            [chip.U2]\npart = \"max31790\"\nbus = \"b\"\naddr = 0x20\n[sensor.s]\nchip = \"U1\"\n[fan.f]\nchip = \"U2\"\nchannel = 1\n\
            min_rpm = 500\nmax_rpm = 5000\nstart_pct = 20\n[zone.z]\nsensors = [\"s\"]\nfans = [\"f\"]\n\
            curve = [[30_000, 30], [60_000, 100]]\ncritical_mc = 70_000\nslew_pct_per_s = 100\ngpus = [\"all\"]\n";
        let mut board = Board::parse("t.toml", text).unwrap();
        board.zones[0].gpus = Some(gpus);
        board
    }

    fn run(board: &Board, gpus: &[Gpu], ticks: u32) -> Orders {
        let started: Instant = now();
        let mut state = State::new(board, started);
        let mut orders = Orders::default();
        for tick in 0..=ticks {
            let fans = [Fan { rpm: Ok(Rpm(2_000)), duty: Ok(Duty::OFF), fault: false }];
            let inputs = Inputs {
                now: started + Duration::from_secs(tick.into()),
                sensors: &[Ok(Millicelsius(30_000))],
                fans: &fans,
                rails: &[],
                curves: &[],
                quiet: None,
                gpus,
                request: None,
                power: None,
            };
            (state, orders) = step(board, state, &inputs);
        }
        orders
    }

    #[test]
    fn the_gpu_that_is_nearest_to_its_own_critical_temperature_drives_the_frame() {
        let all = Gpus { only: None, critical: None };
        // These cards slow down at 93 °C, so 90 is critical: 80 is as near as 60 on the zone's own scale.
        for (gpus, expected, stage) in [
            ([Ok(50), Ok(45)], 30, Stage::Normal),
            ([Ok(80), Ok(45)], 100, Stage::Normal),
            ([Ok(65), Ok(45)], 65, Stage::Normal),
            ([Ok(90), Ok(45)], 100, Stage::Critical),
            ([Ok(50), Err(Missing::Stale)], 100, Stage::Blind),
        ] {
            let gpus = [gpu(PCI[0], gpus[0]), gpu(PCI[1], gpus[1])];
            let zone = run(&board(all.clone()), &gpus, 5).zones[0];
            assert_eq!((zone.duty, zone.stage), (Ok(Duty::from_percent(expected).unwrap()), stage), "{gpus:?}");
        }
    }

    #[test]
    fn a_gpu_that_says_it_is_too_hot_is_believed() {
        let board = board(Gpus { only: None, critical: None });
        let rule = crate::gpu::profile::FanRule::Fixed(Duty::from_percent(30).unwrap());
        let nothing = Err(crate::gpu::wire::Code::NOT_SUPPORTED);
        let (normal, critical) = (Stage::Normal, Stage::Critical);
        for (margin, reasons, own, frame) in [
            (nothing, Ok(0x4), normal, normal),
            (Ok(Millicelsius(20_000)), Ok(0), normal, normal),
            (Ok(Millicelsius(3_000)), Ok(0), critical, critical),
            (Ok(Millicelsius(-1_000)), Ok(0), critical, critical),
            (nothing, Ok(0x40), critical, critical),
            (nothing, Ok(0x20), critical, normal),
        ] {
            let mut gpu = gpu(PCI[0], Ok(60));
            let mut sample = sample(1_500, 50, 0);
            (sample.temperature, sample.margin, sample.reasons) = (Ok(Millicelsius(60_000)), margin, reasons);
            gpu.sample = Ok(Arc::new(sample));
            gpu.air = air::zone(PCI[0], Some(&rule), &device()).map(Arc::new);
            let orders = run(&board, &[gpu], 20);
            assert_eq!((orders.gpus[0].stage, orders.zones[0].stage), (own, frame), "{margin:?} {reasons:?}");
        }
    }

    #[test]
    fn a_gpu_that_was_never_seen_is_a_missing_one_and_one_that_does_not_count_is_none() {
        let only = |pci| Gpus { only: Some(vec![pci]), critical: Some(Millicelsius(80_000)) };
        let hot = [gpu(PCI[0], Ok(85))];
        assert_eq!(run(&board(only(PCI[1])), &hot, 5).zones[0].stage, Stage::Blind);
        assert_eq!(run(&board(only(PCI[0])), &hot, 5).zones[0].stage, Stage::Critical);
        assert_eq!(run(&board(Gpus { only: None, critical: None }), &[], 5).zones[0].stage, Stage::Blind);
        let both = [gpu(PCI[0], Ok(85)), gpu(PCI[1], Ok(30))];
        assert_eq!(run(&board(only(PCI[1])), &both, 5).zones[0].stage, Stage::Normal);
    }

    #[test]
    fn a_gpus_own_fans_follow_its_rule_and_have_full_air_when_it_is_not_read() {
        let board = board(Gpus { only: Some(Vec::new()), critical: None });
        let rule = crate::gpu::profile::FanRule::Curve(vec![
            (Millicelsius(40_000), Duty::from_percent(30).unwrap()),
            (Millicelsius(80_000), Duty::from_percent(70).unwrap()),
        ]);
        for (celsius, expected, stage) in [
            (Ok(60), Ok(50), Stage::Normal),
            (Ok(85), Ok(70), Stage::Normal),
            (Ok(90), Ok(100), Stage::Critical),
            (Err(Missing::Stale), Ok(100), Stage::Blind),
        ] {
            let mut gpu = gpu(PCI[0], celsius);
            gpu.air = air::zone(PCI[0], Some(&rule), &device()).map(Arc::new);
            let order = run(&board, std::slice::from_ref(&gpu), 20).gpus[0];
            let expected = expected.map(|percent| Duty::from_percent(percent).unwrap());
            assert_eq!((order.duty, order.stage), (expected, stage), "{celsius:?}");
            // Lost: nobody can drive its fans, so nobody is told to.
            gpu.presence = Presence::Lost;
            assert_eq!(run(&board, std::slice::from_ref(&gpu), 20).gpus[0], Zone::NONE);
        }
        let mut auto = gpu(PCI[0], Ok(60));
        auto.air = air::zone(PCI[0], Some(&crate::gpu::profile::FanRule::Auto), &device()).map(Arc::new);
        assert_eq!(run(&board, &[auto], 5).gpus[0], Zone::NONE);
    }
}
