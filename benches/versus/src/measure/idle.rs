//! Memory the listener needs for a connection that does nothing.

use super::Cell;
use crate::{Failure, child::Listener, dialer::Dialer};

/// Opens connections, lets them rest, and divides the growth of the listener by their number.
pub async fn run(cell: Cell) -> Result<(), Failure> {
    let mut listener = Listener::start(cell.listener(false)).await?;
    let dialer = Dialer::new(cell.kind, false).await?;
    // One connection first, so that one-time set-up is not counted.
    let first = dialer.dial(listener.addr()).await?;
    let before = listener.settled().await?;
    let (links, again) = dialer.dial_many(listener.addr(), cell.amounts.idle).await?;
    let after = listener.settled().await?;
    let count = after.connections.saturating_sub(before.connections);
    let growth = after.rss_kib.saturating_sub(before.rss_kib);
    let tasks = after.tasks.saturating_sub(before.tasks) as f64 / count.max(1) as f64;
    let note = format!("{count} connections, {again} dials had to be repeated");
    cell.emit(
        "listener memory per idle connection",
        growth as f64 / count.max(1) as f64,
        "KiB",
        note,
    );
    cell.emit(
        "listener tasks per idle connection",
        tasks,
        "tasks",
        "the swarm itself uses one",
    );
    drop((first, links));
    Ok(())
}
