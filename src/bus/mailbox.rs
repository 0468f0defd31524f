//! One order on its way to a bus thread: a newer one takes the place of one that was not begun, so that a slow bus is
//! never driven by what control thought a pass ago.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Order;

/// The two ends share it; the sender's end closes it when it is dropped.
#[derive(Default)]
struct Shared {
    slot: Mutex<Slot>,
    changed: Condvar,
}

#[derive(Default)]
struct Slot {
    order: Option<Order>,
    closed: bool,
}

impl Shared {
    /// A thread that panicked in here left nothing half-done: each change is one assignment.
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Control's end.
pub(super) struct Sender(Arc<Shared>);

/// The bus thread's end.
pub(super) struct Inbox(Arc<Shared>);

/// A mailbox's two ends.
pub(super) fn mailbox() -> (Sender, Inbox) {
    let shared = Arc::new(Shared::default());
    (Sender(Arc::clone(&shared)), Inbox(shared))
}

impl Sender {
    /// Leaves the order for the bus thread in place of one that is still there. Never waits for the bus.
    pub(super) fn put(&self, order: Order) {
        self.0.lock().order = Some(order);
        self.0.changed.notify_one();
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_one();
    }
}

impl Inbox {
    /// Waits for the next order; `None` once the other end is closed, whatever still lay here.
    pub(super) fn take(&self) -> Option<Order> {
        let waiting = |slot: &mut Slot| slot.order.is_none() && !slot.closed;
        let mut slot = self.0.changed.wait_while(self.0.lock(), waiting).unwrap_or_else(PoisonError::into_inner);
        slot.order.take().filter(|_| !slot.closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Duty;

    fn order(duty: Duty) -> Order {
        Order { duties: vec![(0, 0, duty)] }
    }

    #[test]
    fn the_newest_order_is_carried_out_and_the_older_ones_are_forgotten() {
        let (sender, inbox) = mailbox();
        sender.put(order(Duty::OFF));
        sender.put(order(Duty::FULL));
        assert_eq!(inbox.take(), Some(order(Duty::FULL)));
    }

    #[test]
    fn an_order_that_still_lies_there_is_not_carried_out_on_the_way_out() {
        let (sender, inbox) = mailbox();
        sender.put(order(Duty::OFF));
        drop(sender);
        assert_eq!(inbox.take(), None);
    }

    #[test]
    fn an_order_wakes_the_thread_that_waits() {
        let (sender, inbox) = mailbox();
        let thread = std::thread::spawn(move || inbox.take());
        sender.put(order(Duty::FULL));
        assert_eq!(thread.join().ok().flatten(), Some(order(Duty::FULL)));
    }
}
