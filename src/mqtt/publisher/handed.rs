//! What the link has of us.

use crate::mqtt::outbox::Ticket;
use crate::wire::Kind;

/// A packet handed to the link, in order, to be matched with the id that it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handed {
    /// Retained state, sent again on each connect.
    State(Kind),
    /// A message of the outbox.
    Message(Ticket),
    /// An answer that nobody keeps.
    Said,
}

impl Handed {
    pub(super) const fn kind(self) -> Kind {
        match self {
            Self::State(kind) => kind,
            Self::Message(ticket) => ticket.lane.kind(),
            Self::Said => Kind::Ack,
        }
    }
}
