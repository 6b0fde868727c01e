//! What a listener still holds after connections were opened and closed, in three rounds.

use std::time::Duration;

use super::{Cell, mib};
use crate::{Failure, child::Listener, dialer::Dialer};

/// Rounds of opening and closing.
const ROUNDS: usize = 3;
/// How long the listener has to notice, in the rounds before the last.
const NOTICE: Duration = Duration::from_secs(5);
/// How long it has after the last one: longer than any idle or ICE time-out in use.
const LAST_NOTICE: Duration = Duration::from_secs(35);

/// Opens a round of connections, closes them at the dialer, looks at the listener.
pub async fn run(cell: Cell) -> Result<(), Failure> {
    let mut listener = Listener::start(cell.listener(false)).await?;
    let dialer = Dialer::new(cell.kind, false).await?;
    dialer.dial(listener.addr()).await?.close().await?;
    listener.wait_for_connections(0, NOTICE).await?;
    let before = listener.settled().await?;
    for round in 1..=ROUNDS {
        let (links, again) = dialer
            .dial_many(listener.addr(), cell.amounts.closes)
            .await?;
        for link in links {
            link.close().await?;
        }
        let wait = if round == ROUNDS { LAST_NOTICE } else { NOTICE };
        listener.wait_for_connections(0, wait).await?;
        let now = listener.settled().await?;
        let kept = now.rss_kib as f64 - before.rss_kib as f64;
        let note = format!(
            "{} connections opened and closed, {again} dials repeated",
            round * cell.amounts.closes
        );
        cell.emit(
            &format!("memory above the start, round {round}"),
            mib(kept),
            "MiB",
            note,
        );
    }
    let after = listener.figures().await?;
    let left = |now: usize, then: usize| now as f64 - then as f64;
    let total = cell.amounts.closes * ROUNDS;
    let note = format!("after {total}");
    cell.emit("connections left open", after.connections as f64, "", note);
    cell.emit("tasks left", left(after.tasks, before.tasks), "", "");
    cell.emit("file descriptors left", left(after.fds, before.fds), "", "");
    Ok(())
}
