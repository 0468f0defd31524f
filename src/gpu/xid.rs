//! NVIDIA's error numbers: what each asks for, and what asking for it again and again comes to.
//!
//! The grades are the "immediate action" of NVIDIA's Xid catalogue (docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html;
//! the same table in leptonai/gpud, components/accelerator/nvidia/xid/catalog_generated.go, of 2025-10-29), which covers
//! Ampere and later. Its IGNORE, CONTACT_SUPPORT and UPDATE_SWFW are [`Action::Record`] here, as is a number that it does not
//! have. Where it names a workflow: 48 is reset (docs.nvidia.com/health-validation/reference/checks/xid.md), 74 too ("a GPU
//! reset or node reboot is needed"); 45 follows another Xid, 144 to 150 and 154 are summed up by the driver in its recovery
//! action ([`Action::of_recovery`]), which the kernel log and NVML's field 230 tell.
//!
//! One crash of an application is many Xids: one for each of its processors, then 43 and 45, each told by the event set and
//! by the kernel log. So within [`SAME`] a number counts once, and all that ask for a restart are one incident.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// What an Xid asks for, from the mildest to the hardest. Order and numbers are on the wire: only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing but to be known.
    Record,
    /// End the payload on this GPU and start it anew.
    RestartApplication,
    /// Reset this GPU, with nothing running on it.
    ResetGpu,
    /// Restart the rig.
    RestartMachine,
    /// No restart helps: somebody must look at the card, its power and its riser.
    CheckHardware,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Record => "to be known",
            Self::RestartApplication => "restart what runs on it",
            Self::ResetGpu => "reset the GPU",
            Self::RestartMachine => "restart the machine",
            Self::CheckHardware => "look at the card, its power and its riser",
        })
    }
}

impl Action {
    /// What an Xid asks for when it comes alone.
    #[must_use]
    pub fn of(code: u64) -> Self {
        find(code).map_or(Self::Record, |row| row.3)
    }

    /// What the driver's recovery action asks for: the number in Xid 154's text and in NVML's field 230
    /// (`nvmlDeviceGpuRecoveryAction_t` in nvml.h). One that is not known asks for nothing but to be known.
    #[must_use]
    pub const fn of_recovery(number: u32) -> Self {
        match number {
            // Reset; drain and reset.
            1 | 4 => Self::ResetGpu,
            2 => Self::RestartMachine,
            // 0 none; 3 drain peer-to-peer traffic, then ask again; 5 means two things in two headers of 13.x.
            _ => Self::Record,
        }
    }

    /// After so many incidents of this grade on one GPU within [`WINDOW`], this one included. What comes back after
    /// restarts is not the application's fault alone; but no number of them restarts a rig with healthy GPUs in it.
    #[must_use]
    pub const fn escalated(self, incidents: usize) -> Self {
        match self {
            Self::RestartApplication if incidents >= REPEATS => Self::ResetGpu,
            Self::Record | Self::RestartApplication | Self::ResetGpu | Self::RestartMachine | Self::CheckHardware => {
                self
            }
        }
    }
}

/// What an Xid is, in a few words.
#[must_use]
pub fn name(code: u64) -> &'static str {
    find(code).map_or("unknown", |row| row.2)
}

/// A number again within this time is the same event, told by another source or once more by the driver.
pub const SAME: Duration = Duration::from_secs(5);
/// How long an incident is remembered.
pub const WINDOW: Duration = Duration::from_secs(600);
/// So many incidents within [`WINDOW`] ask for the next grade.
pub const REPEATS: usize = 3;
/// Numbers remembered to know them again. One more takes the oldest's place: at worst an event counts twice.
const REMEMBERED: usize = 8;

/// The Xids of one GPU since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Xids {
    /// How many events; stays at the highest number.
    pub count: u32,
    /// The newest, and when it came.
    pub last: Option<(u64, Instant)>,
    /// The newest of each number, oldest first.
    recent: Vec<(u64, Instant)>,
    /// Incidents that asked for a restart of the application, oldest first.
    incidents: Vec<Instant>,
}

impl Xids {
    /// Counts one, and says what to do; `None` where it is one that was counted already.
    pub fn note(&mut self, code: u64, now: Instant) -> Option<Action> {
        if self.recent.iter().any(|(known, when)| *known == code && since(now, *when) < SAME) {
            return None;
        }
        self.recent.retain(|(known, _)| *known != code);
        push(&mut self.recent, (code, now), REMEMBERED);
        self.count = self.count.saturating_add(1);
        self.last = Some((code, now));
        let grade = Action::of(code);
        if grade == Action::RestartApplication {
            self.incidents.retain(|when| since(now, *when) < WINDOW);
            if self.incidents.last().is_none_or(|when| since(now, *when) >= SAME) {
                push(&mut self.incidents, now, REPEATS);
            }
        }
        Some(grade.escalated(self.incidents.len()))
    }

    /// The GPU may have been reset: what was before is no sign of what comes.
    pub fn forget_incidents(&mut self) {
        self.incidents.clear();
    }
}

/// Events may come from two sources a little out of order: the later one is then no time ago.
fn since(now: Instant, when: Instant) -> Duration {
    now.saturating_duration_since(when)
}

/// Adds to the end; where there would be more than `most`, the oldest goes.
fn push<T>(list: &mut Vec<T>, new: T, most: usize) {
    if list.len() >= most {
        list.remove(0);
    }
    list.push(new);
}

/// First and last number, what it is, what it asks for.
type Row = (u16, u16, &'static str, Action);

fn find(code: u64) -> Option<&'static Row> {
    CATALOGUE.iter().find(|(first, last, ..)| (u64::from(*first)..=u64::from(*last)).contains(&code))
}

/// In ascending order, without the numbers that the catalogue calls unused.
#[rustfmt::skip]
const CATALOGUE: &[Row] = {
    use Action::{CheckHardware, Record, ResetGpu, RestartApplication, RestartMachine};
    &[
        (8, 8, "GPU stopped processing", RestartApplication),
        (11, 11, "invalid or corrupted push buffer", RestartApplication),
        (13, 13, "graphics engine exception", RestartApplication),
        (25, 25, "illegal push buffer", RestartApplication),
        (31, 31, "memory page fault", RestartApplication),
        (32, 32, "invalid or corrupted push buffer", RestartApplication),
        (37, 38, "driver firmware error", Record),
        (39, 41, "copy engine exception", RestartApplication),
        (43, 43, "GPU stopped processing", Record),
        (44, 44, "fault during context switch", Record),
        (45, 45, "cleanup after earlier errors", Record),
        (46, 46, "GPU stopped processing", ResetGpu),
        (48, 48, "double bit ECC error", ResetGpu),
        (54, 54, "auxiliary power is not connected", CheckHardware),
        (60, 60, "video processor exception", RestartApplication),
        (62, 62, "micro-controller halted", ResetGpu),
        (63, 63, "memory row remapped", Record),
        (64, 64, "memory row could not be remapped", ResetGpu),
        (66, 67, "illegal access by the driver", Record),
        (68, 68, "video decoder exception", RestartApplication),
        (69, 69, "graphics engine class error", RestartApplication),
        (70, 72, "copy engine exception", RestartApplication),
        (74, 74, "NVLink error", ResetGpu),
        (75, 77, "copy engine exception", RestartApplication),
        (78, 78, "vGPU start error", Record),
        (79, 79, "GPU has fallen off the bus", RestartMachine),
        (80, 80, "corrupted data sent to the GPU", RestartApplication),
        (82, 82, "JPEG engine error", RestartApplication),
        (83, 84, "video decoder error", RestartApplication),
        (85, 85, "copy engine exception", RestartApplication),
        (86, 86, "optical flow engine exception", RestartApplication),
        (88, 89, "video decoder error", RestartApplication),
        (92, 92, "many single bit ECC errors", Record),
        (93, 93, "InfoROM wear limit reached", Record),
        (94, 94, "contained memory error", RestartApplication),
        (95, 95, "uncontained memory error", ResetGpu),
        (96, 98, "video decoder error", RestartApplication),
        (99, 105, "JPEG engine error", RestartApplication),
        (106, 107, "test message", Record),
        (109, 109, "context switch timed out", ResetGpu),
        (110, 110, "security fault", ResetGpu),
        (119, 119, "no answer from the GPU's system processor", ResetGpu),
        (120, 120, "error in the GPU's system processor", ResetGpu),
        (121, 121, "chip-to-chip link error", Record),
        (126, 135, "copy engine exception", RestartApplication),
        (136, 136, "link training failed", ResetGpu),
        (137, 137, "NVLink privilege error", Record),
        (139, 139, "optical flow engine error", RestartApplication),
        (140, 140, "unrecovered ECC error", ResetGpu),
        (141, 141, "CUDA fast path error", Record),
        (142, 142, "video encoder error", Record),
        (143, 143, "GPU initialization error", ResetGpu),
        (144, 150, "NVLink error", Record),
        (151, 151, "key rotation error", RestartMachine),
        (152, 153, "deep learning accelerator error", Record),
        (154, 154, "recovery action changed", Record),
        (155, 155, "NVLink error", ResetGpu),
        (156, 156, "resource retired", ResetGpu),
        (157, 157, "resource could not be retired", Record),
        (158, 158, "GPU timed out fatally", ResetGpu),
        (159, 159, "coherent interface error", Record),
        (160, 160, "channel retired", Record),
        (161, 161, "channel could not be retired", Record),
        (162, 165, "power smoothing changed", Record),
        (166, 166, "NVLink encryption error", Record),
        (167, 167, "PCIe timed out fatally", Record),
        (168, 168, "reduced memory capacity", Record),
        (169, 169, "security processor halted", Record),
        (170, 170, "NVLink interrupt in confidential mode", Record),
        (171, 171, "uncorrectable DRAM error", Record),
        (172, 172, "uncorrectable SRAM error", Record),
    ]
};

#[cfg(test)]
mod tests;
