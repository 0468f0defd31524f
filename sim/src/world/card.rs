//! What cards there are: one of each class, with the numbers that `nvidia-smi -q -x` printed on a real one.
//!
//! Source: influxdata/telegraf, `plugins/inputs/nvidia_smi/testdata`, the file named at each profile. What those files do
//! not tell (boost under load, lower memory states, offset ranges, least fan drive) is a plausible guess and says so.

/// Numbers of a kind of card.
#[derive(Debug)]
pub struct Profile {
    /// Word for it on command lines.
    pub class: &'static str,
    /// Product name; all of them say that they are simulated.
    pub name: &'static str,
    /// Firmware version.
    pub vbios: &'static str,
    /// PCI device (high half) and vendor (low half).
    pub pci_device: u32,
    /// PCI subsystem.
    pub pci_subsystem: u32,
    /// `NVML_DEVICE_ARCH_*`.
    pub architecture: u32,
    /// `NVML_BRAND_*`.
    pub brand: u32,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// Kept by the driver, MiB.
    pub reserved_mib: u32,
    /// Lowest, default and highest power limit, mW.
    pub limits: [u32; 3],
    /// At rest, W.
    pub idle_watts: f64,
    /// Lowest, reached at work, and highest core clock, MHz.
    pub core: [u32; 3],
    /// Core clock step, half MHz.
    pub half_steps: u32,
    /// Memory clocks with their performance states, fastest first, MHz.
    pub memory: &'static [(u8, u32)],
    /// Which of them it works in.
    pub work_state: usize,
    /// Lowest and highest core clock offset, MHz.
    pub core_offsets: [i32; 2],
    /// Lowest and highest memory clock offset, of the data rate, MHz.
    pub memory_offsets: [i32; 2],
    /// How many fans NVML sees.
    pub fans: usize,
    /// Least drive by hand, %.
    pub least_fan: u32,
    /// Gets slower by software, by hardware, and switches off, °C.
    pub hot: [i32; 3],
    /// The absolute thresholds can be read; else they are offsets to T.Limit.
    pub absolute: bool,
    /// Highest temperature of its memory, where that is told, °C.
    pub memory_hot: Option<i32>,
    /// What can be locked.
    pub locks: Locks,
    /// Counts energy (Volta and later).
    pub energy: bool,
    /// Averages power over a second (Ampere and later, but not GA100).
    pub averages: bool,
    /// Has error correction and counts.
    pub ecc: bool,
    /// Remaps rows.
    pub rows: bool,
    /// Has a serial number.
    pub serial: bool,
    /// PCIe generation.
    pub pcie: u32,
}

/// Which clocks can be locked: core from Volta on, memory from Ampere on (`nvml.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locks {
    /// None.
    None,
    /// Core.
    Core,
    /// Core and memory.
    Both,
}

/// Every profile; the first is the default.
pub static PROFILES: [Profile; 6] = [
    // 3090-v13.xml; the memory states are those of its supported clocks.
    Profile {
        class: "ampere",
        name: "Simulated GeForce RTX 3090",
        vbios: "94.02.26.48.1B",
        pci_device: 0x2204_10de,
        pci_subsystem: 0x87ad_1043,
        architecture: 7,
        brand: 5,
        memory_mib: 24_576,
        reserved_mib: 450,
        limits: [100_000, 350_000, 480_000],
        idle_watts: 25.0,
        core: [210, 1695, 2100],
        half_steps: 30,
        memory: &[(0, 9751), (2, 9501), (3, 5001), (5, 810), (8, 405)],
        work_state: 1,
        core_offsets: [-1000, 1000],
        memory_offsets: [-2000, 6000],
        fans: 2,
        least_fan: 30,
        hot: [93, 95, 98],
        absolute: true,
        memory_hot: None,
        locks: Locks::Both,
        energy: true,
        averages: true,
        ecc: false,
        rows: false,
        serial: false,
        pcie: 4,
    },
    // gtx-1070-ti.xml tells little; limits, thresholds and clocks are from memory of the card.
    Profile {
        class: "pascal",
        name: "Simulated GeForce GTX 1070 Ti",
        vbios: "86.04.85.00.01",
        pci_device: 0x1b82_10de,
        pci_subsystem: 0x3750_1462,
        architecture: 4,
        brand: 5,
        memory_mib: 8192,
        reserved_mib: 80,
        limits: [90_000, 180_000, 217_000],
        idle_watts: 8.0,
        core: [135, 1683, 1911],
        half_steps: 25,
        memory: &[(0, 4004), (2, 3802), (5, 810), (8, 405)],
        work_state: 1,
        core_offsets: [-200, 1000],
        memory_offsets: [-2000, 2000],
        fans: 1,
        least_fan: 0,
        hot: [92, 96, 99],
        absolute: true,
        memory_hot: None,
        locks: Locks::None,
        energy: false,
        averages: false,
        ecc: false,
        rows: false,
        serial: false,
        pcie: 3,
    },
    // dual_2080-v13.xml.
    Profile {
        class: "turing",
        name: "Simulated GeForce RTX 2080",
        vbios: "90.04.0B.00.8F",
        pci_device: 0x1e87_10de,
        pci_subsystem: 0x2500_19da,
        architecture: 6,
        brand: 5,
        memory_mib: 8192,
        reserved_mib: 406,
        limits: [105_000, 215_000, 240_000],
        idle_watts: 12.0,
        core: [300, 1800, 2160],
        half_steps: 30,
        memory: &[(0, 7000), (2, 6800), (3, 5000), (5, 810), (8, 405)],
        work_state: 1,
        core_offsets: [-1000, 1000],
        memory_offsets: [-2000, 6000],
        fans: 1,
        least_fan: 30,
        hot: [88, 97, 100],
        absolute: true,
        memory_hot: None,
        locks: Locks::Core,
        energy: true,
        averages: false,
        ecc: false,
        rows: false,
        serial: false,
        pcie: 3,
    },
    // rtx-4000-sff-ada-v13.xml: 38 °C with 49 °C to T.Limit, thresholds 0, -2 and -7 from there.
    Profile {
        class: "ada",
        name: "Simulated RTX 4000 SFF Ada Generation",
        vbios: "95.04.53.00.01",
        pci_device: 0x27b0_10de,
        pci_subsystem: 0x16fa_10de,
        architecture: 8,
        brand: 13,
        memory_mib: 20_475,
        reserved_mib: 460,
        limits: [30_000, 70_000, 70_000],
        idle_watts: 8.8,
        core: [210, 1560, 3105],
        half_steps: 30,
        memory: &[(0, 7001), (2, 6501), (3, 5001), (5, 810), (8, 405)],
        work_state: 0,
        core_offsets: [-1000, 1000],
        memory_offsets: [-2000, 6000],
        fans: 1,
        least_fan: 30,
        hot: [87, 89, 94],
        absolute: false,
        memory_hot: None,
        locks: Locks::Both,
        energy: true,
        averages: true,
        ecc: true,
        rows: true,
        serial: true,
        pcie: 4,
    },
    // pro-6000-maxq-blackwell-v13.xml: 24 °C with 68 °C to T.Limit, thresholds 0, -2 and -5; 389 clocks of 7.5 MHz.
    Profile {
        class: "blackwell",
        name: "Simulated RTX PRO 6000 Blackwell Max-Q",
        vbios: "98.02.6A.00.03",
        pci_device: 0x2bb4_10de,
        pci_subsystem: 0x204c_10de,
        architecture: 10,
        brand: 13,
        memory_mib: 97_887,
        reserved_mib: 637,
        limits: [250_000, 300_000, 325_000],
        idle_watts: 4.0,
        core: [180, 2280, 3090],
        half_steps: 15,
        memory: &[(0, 14_001), (3, 7001), (5, 810), (8, 405)],
        work_state: 0,
        core_offsets: [-1000, 1000],
        memory_offsets: [-2000, 6000],
        fans: 1,
        least_fan: 30,
        hot: [92, 94, 97],
        absolute: false,
        memory_hot: None,
        locks: Locks::Both,
        energy: true,
        averages: true,
        ecc: false,
        rows: true,
        serial: true,
        pcie: 5,
    },
    // a100-sxm4-v12.xml: no fans of its own, one memory clock.
    Profile {
        class: "datacenter",
        name: "Simulated A100-SXM4-80GB",
        vbios: "92.00.36.00.02",
        pci_device: 0x20b2_10de,
        pci_subsystem: 0x147f_10de,
        architecture: 7,
        brand: 14,
        memory_mib: 81_920,
        reserved_mib: 869,
        limits: [100_000, 500_000, 500_000],
        idle_watts: 60.0,
        core: [210, 1410, 1410],
        half_steps: 30,
        memory: &[(0, 1593)],
        work_state: 0,
        core_offsets: [0, 0],
        memory_offsets: [0, 0],
        fans: 0,
        least_fan: 0,
        hot: [85, 89, 92],
        absolute: true,
        memory_hot: Some(95),
        locks: Locks::Both,
        energy: true,
        averages: false,
        ecc: true,
        rows: true,
        serial: true,
        pcie: 4,
    },
];

/// Most cards in a rig.
pub const MAX_CARDS: usize = 16;

/// The default card: `ampere`.
#[must_use]
pub const fn default_profile() -> &'static Profile {
    let [first, ..] = &PROFILES;
    first
}

impl Profile {
    /// By its word.
    #[must_use]
    pub fn of(class: &str) -> Option<&'static Self> {
        PROFILES.iter().find(|profile| profile.class == class)
    }

    /// What `ampere:4,blackwell:2` says, in that order.
    ///
    /// # Errors
    /// A class that is not known, a number that is none, none at all or more than [`MAX_CARDS`].
    pub fn list(text: &str) -> Result<Vec<&'static Self>, String> {
        let mut cards = Vec::new();
        for part in text.split(',') {
            let (class, many) = part.split_once(':').unwrap_or((part, "1"));
            let classes = || PROFILES.iter().map(|profile| profile.class).collect::<Vec<_>>().join(", ");
            let profile =
                Self::of(class).ok_or_else(|| format!("no GPUs of class `{class}`; there are {}", classes()))?;
            let many: usize = many.parse().map_err(|_| format!("`{many}` is no number of GPUs, as in ampere:4"))?;
            cards.extend(std::iter::repeat_n(profile, many.min(MAX_CARDS + 1)));
        }
        let right = (1..=MAX_CARDS).contains(&cards.len());
        if right { Ok(cards) } else { Err(format!("1 to {MAX_CARDS} GPUs, not {}", cards.len())) }
    }

    /// Core clocks, highest first, MHz; half ones are cut as the driver does.
    #[must_use]
    pub fn core_clocks(&self) -> Vec<u32> {
        let [low, _, high] = self.core;
        (0..)
            .map(|step| 2 * high - (step * self.half_steps).min(2 * high))
            .take_while(|half| *half >= 2 * low)
            .map(|half| half / 2)
            .collect()
    }

    /// Index of the memory state nearest to a clock.
    #[must_use]
    pub fn nearest_memory(&self, mhz: u32) -> usize {
        let states = self.memory.iter().enumerate();
        states.min_by_key(|(_, (_, state))| state.abs_diff(mhz)).map_or(0, |(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_taken_and_mistakes_told() {
        let classes = |text| Profile::list(text).map(|list| list.iter().map(|p| p.class).collect::<Vec<_>>());
        assert_eq!(classes("ampere:2,ada"), Ok(vec!["ampere", "ampere", "ada"]));
        for (text, told) in
            [("", "no GPUs of class"), ("ampere:x", "no number"), ("ada:0", "not 0"), ("ada:99", "1 to 16")]
        {
            assert!(classes(text).is_err_and(|error| error.contains(told)), "{text}");
        }
    }

    #[test]
    fn clocks_are_as_many_as_the_real_ones_have() {
        let many = |class: &str| Profile::of(class).map(|profile| profile.core_clocks().len());
        assert_eq!(many("ampere"), Some(127), "210 to 2100 by 15");
        assert_eq!(many("blackwell"), Some(389), "180 to 3090 by 7.5");
        let clocks = Profile::of("blackwell").map(Profile::core_clocks).unwrap();
        assert_eq!((&clocks[..3], clocks.last()), (&[3090, 3082, 3075][..], Some(&180)));
    }

    #[test]
    fn a_memory_clock_goes_to_the_nearest_state() {
        let profile = default_profile();
        for (asked, got) in [(9751, 0), (5001, 2), (6000, 2), (8000, 1), (0, 4), (700, 3)] {
            assert_eq!(profile.nearest_memory(asked), got, "{asked}");
        }
    }

    #[test]
    fn every_profile_is_in_order() {
        for profile in &PROFILES {
            assert!(profile.limits.is_sorted() && profile.core.is_sorted() && profile.hot.is_sorted(), "{profile:?}");
            assert!(profile.memory.is_sorted_by(|a, b| a.1 > b.1) && profile.work_state < profile.memory.len());
            assert!(profile.name.starts_with("Simulated"));
        }
    }
}
