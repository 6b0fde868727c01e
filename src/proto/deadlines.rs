//! The set of instants at which connections want to be called.
//!
//! One entry a connection; taking what is due and changing an entry are logarithmic, so idle connections cost
//! nothing. Owned by the endpoint.

use std::{
    collections::{BTreeSet, HashMap},
    time::Instant,
};

use super::event::ConnectionId;

/// Instants by connection.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    order: BTreeSet<(Instant, ConnectionId)>,
    entries: HashMap<ConnectionId, Instant>,
}

impl Deadlines {
    /// Sets or clears a connection's deadline.
    pub(crate) fn set(&mut self, connection: ConnectionId, deadline: Option<Instant>) {
        let old = self.entries.get(&connection).copied();
        if old == deadline {
            return;
        }
        if let Some(old) = old {
            self.order.remove(&(old, connection));
            self.entries.remove(&connection);
        }
        if let Some(deadline) = deadline {
            self.order.insert((deadline, connection));
            self.entries.insert(connection, deadline);
        }
    }

    /// The earliest deadline and whose it is.
    pub(crate) fn first(&self) -> Option<(Instant, ConnectionId)> {
        self.order.first().copied()
    }

    /// Takes one connection that is due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<ConnectionId> {
        let &(deadline, connection) = self.order.first()?;
        if deadline > now {
            return None;
        }
        self.set(connection, None);
        Some(connection)
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for virtual time"
)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn due_connections_come_in_order_and_once() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut deadlines = Deadlines::default();
        deadlines.set(ConnectionId(1), Some(at(30)));
        deadlines.set(ConnectionId(2), Some(at(10)));
        deadlines.set(ConnectionId(3), Some(at(20)));
        deadlines.set(ConnectionId(3), None);
        deadlines.set(ConnectionId(1), Some(at(15)));
        assert_eq!(deadlines.first(), Some((at(10), ConnectionId(2))));
        assert_eq!(deadlines.pop_due(at(5)), None);
        assert_eq!(deadlines.pop_due(at(15)), Some(ConnectionId(2)));
        assert_eq!(deadlines.pop_due(at(15)), Some(ConnectionId(1)));
        assert_eq!((deadlines.pop_due(at(99)), deadlines.first()), (None, None));
    }
}
