//! How long a dial takes until the connection is established and authenticated.

use super::{Cell, median, quantile};
use crate::{Failure, child::Listener, dialer::Dialer};

/// Dials one after the other, closing each connection before the next dial.
pub async fn run(cell: Cell) -> Result<(), Failure> {
    let listener = Listener::start(cell.listener(false)).await?;
    let dialer = Dialer::new(cell.kind, false).await?;
    let mut took = Vec::new();
    let mut failed = 0;
    // The first dial also pays for lazy set-up in both processes; it is not counted.
    for round in 0..=cell.amounts.dials {
        match dialer.dial(listener.addr()).await {
            Ok(link) => {
                if round > 0 {
                    took.push(link.took().as_secs_f64() * 1e3);
                }
                link.close().await?;
            }
            Err(_) => failed += 1,
        }
    }
    let p95 = quantile(&mut took, 0.95);
    let note = format!("{} dials, {failed} failed, p95 {p95:.2} ms", took.len());
    cell.emit("dial p50", median(&mut took), "ms", note);
    Ok(())
}
