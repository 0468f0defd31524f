//! What becomes of an order that the agent's end interrupted.

use crate::wire::{Order, PayloadAct};

/// What becomes of a command that was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterRestart {
    /// Carried out again, or for the first time: twice is the same as once.
    Again,
    /// The restart was what it wanted.
    Done,
    /// Nobody can tell.
    Unknown,
}

/// What becomes of an interrupted order, on the same boot of the kernel or on another: the only such table.
#[must_use]
pub const fn after_restart(order: &Order, same_boot: bool) -> AfterRestart {
    match order {
        Order::SetProfile { .. }
        | Order::SetPowerCap(_)
        | Order::SetFanTarget { .. }
        | Order::Payload { act: PayloadAct::Start | PayloadAct::Stop | PayloadAct::Drain, .. }
        | Order::Assign { .. }
        | Order::Probe
        | Order::Logs { .. }
        | Order::Snapshot
        | Order::RotateKey { .. }
        | Order::Maintenance { .. } => AfterRestart::Again,
        // The agent that starts reads its configuration; whoever follows a log finds that it has ended, and asks again.
        Order::Reload | Order::RestartAgent | Order::FollowLogs { .. } => AfterRestart::Done,
        Order::Reboot if !same_boot => AfterRestart::Done,
        Order::Reboot | Order::Payload { act: PayloadAct::Restart, .. } | Order::Identify { .. } => {
            AfterRestart::Unknown
        }
    }
}

/// Whether an order sets what an earlier one has set. Of caps each of its speakers has a slot, which nothing here knows: a cap of the
/// site that a later one of the rig stands behind may be lost, and whoever gave it is told that nobody knows.
pub(super) fn overtakes(later: &Order, earlier: &Order) -> bool {
    match earlier {
        Order::SetProfile { gpu: other, .. } => {
            matches!(later, Order::SetProfile { gpu: one, .. } if one.is_none() || other.is_none() || one == other)
        }
        Order::SetFanTarget { zone: other, .. } => {
            matches!(later, Order::SetFanTarget { zone: one, .. } if one == other)
        }
        Order::Payload { name: other, .. } => {
            matches!(later, Order::Maintenance { .. })
                || matches!(later, Order::Payload { name: one, .. } if one == other)
        }
        Order::Assign { payload: other, .. } => matches!(later, Order::Assign { payload: one, .. } if one == other),
        Order::SetPowerCap(_) => matches!(later, Order::SetPowerCap(_)),
        Order::RotateKey { .. } => matches!(later, Order::RotateKey { .. }),
        Order::Maintenance { .. } => matches!(later, Order::Maintenance { .. } | Order::Payload { .. }),
        // They set nothing that stays.
        Order::Identify { .. }
        | Order::Probe
        | Order::Logs { .. }
        | Order::Snapshot
        | Order::Reload
        | Order::RestartAgent
        | Order::Reboot
        | Order::FollowLogs { .. } => false,
    }
}
