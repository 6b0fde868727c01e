//! How many dials started at the same moment succeed.

use std::time::{Duration, Instant};

use futures::future;

use super::Cell;
use crate::{
    Failure,
    child::Listener,
    dialer::{Dialer, Link},
};

/// The longest a dial of the burst may take.
const AT_MOST: Duration = Duration::from_secs(30);
/// How long the listener has to count the same connections as the dialer.
const NOTICE: Duration = Duration::from_secs(5);

/// Starts all dials at once and counts the established connections.
pub async fn run(cell: Cell) -> Result<(), Failure> {
    let mut listener = Listener::start(cell.listener(false)).await?;
    let dialer = Dialer::new(cell.kind, false).await?;
    let mut nodes = Vec::new();
    for _ in 0..cell.amounts.burst {
        nodes.push(dialer.node().await?);
    }
    let start = Instant::now();
    let dials = nodes.into_iter().map(|node| async {
        let link = Link::dial(node, listener.addr(), AT_MOST).await;
        (link, start.elapsed())
    });
    let outcomes = future::join_all(dials).await;
    let good = outcomes.iter().filter(|(link, _)| link.is_ok());
    let last = good.clone().map(|(_, at)| *at).max().unwrap_or_default();
    let good = good.count();
    let fault = outcomes
        .iter()
        .find_map(|(link, _)| link.as_ref().err().map(ToString::to_string));
    let open = listener.wait_for_connections(good, NOTICE).await?;
    let mut note = format!(
        "{good} of {} within {} s; the listener counts {open}",
        cell.amounts.burst,
        AT_MOST.as_secs()
    );
    if let Some(fault) = fault {
        note = format!("{note}; first failure: {fault}");
    }
    cell.emit("dials at once that succeed", good as f64, "dials", note);
    cell.emit(
        "dials at once, until the last succeeded",
        last.as_secs_f64(),
        "s",
        "",
    );
    Ok(())
}
