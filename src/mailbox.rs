//! One order on its way from control to a thread that carries it out: a newer one takes the place of one that was not
//! begun, so that a slow bus or a slow driver never does what control thought a pass ago.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The two ends share it; the sender's end closes it when it is dropped.
struct Shared<T> {
    slot: Mutex<Slot<T>>,
    changed: Condvar,
}

struct Slot<T> {
    order: Option<T>,
    closed: bool,
}

impl<T> Shared<T> {
    /// A thread that panicked in here left nothing half-done: each change is one assignment.
    fn lock(&self) -> MutexGuard<'_, Slot<T>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Control's end.
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// The other thread's end.
pub(crate) struct Inbox<T>(Arc<Shared<T>>);

/// A mailbox's two ends.
pub(crate) fn mailbox<T>() -> (Sender<T>, Inbox<T>) {
    let shared = Arc::new(Shared { slot: Mutex::new(Slot { order: None, closed: false }), changed: Condvar::new() });
    (Sender(Arc::clone(&shared)), Inbox(shared))
}

impl<T> Sender<T> {
    /// Leaves the order in place of one that is still there. Never waits for it to be carried out.
    pub(crate) fn put(&self, order: T) {
        self.0.lock().order = Some(order);
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
impl<T> Inbox<T> {
    /// What lies there, taken out.
    pub(crate) fn look(&self) -> Option<T> {
        self.0.lock().order.take()
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_one();
    }
}

impl<T> Inbox<T> {
    /// Waits for the next order; `None` once the other end is closed, whatever still lay here.
    pub(crate) fn take(&self) -> Option<T> {
        let waiting = |slot: &mut Slot<T>| slot.order.is_none() && !slot.closed;
        let mut slot = self.0.changed.wait_while(self.0.lock(), waiting).unwrap_or_else(PoisonError::into_inner);
        slot.order.take().filter(|_| !slot.closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn the_newest_order_is_carried_out_and_the_older_ones_are_forgotten() {
        let (sender, inbox) = mailbox();
        sender.put("off");
        sender.put("full");
        assert_eq!(inbox.take(), Some("full"));
    }

    #[test]
    fn an_order_that_still_lies_there_is_not_carried_out_on_the_way_out() {
        let (sender, inbox) = mailbox();
        sender.put("off");
        drop(sender);
        assert_eq!(inbox.take(), None);
    }

    #[test]
    fn an_order_wakes_the_thread_that_waits() {
        let (sender, inbox) = mailbox();
        let thread = std::thread::spawn(move || inbox.take());
        sender.put("full");
        assert_eq!(thread.join().ok().flatten(), Some("full"));
    }
}
