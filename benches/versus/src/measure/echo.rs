//! Round trips of 64 bytes on an open stream.

use super::{Cell, quantile};
use crate::{Failure, child::Listener, dialer::Dialer, exchange};

/// Bytes of a message.
const SIZE: u32 = 64;
/// Echoes before the clock counts.
const WARM_UP: usize = 50;

/// Sends messages one at a time and waits for each.
pub async fn run(cell: Cell) -> Result<(), Failure> {
    let listener = Listener::start(cell.listener(true)).await?;
    let dialer = Dialer::new(cell.kind, true).await?;
    let link = dialer.dial(listener.addr()).await?;
    let mut stream = link.open().await?;
    exchange::start_echo(&mut stream, SIZE).await?;
    let mut message = [0x33; SIZE as usize];
    let mut took = Vec::new();
    for round in 0..WARM_UP + cell.amounts.echoes {
        let one = exchange::echo(&mut stream, &mut message).await?;
        if round >= WARM_UP {
            took.push(one.as_secs_f64() * 1e6);
        }
    }
    let note = format!("{} echoes", took.len());
    cell.emit("echo of 64 bytes p50", quantile(&mut took, 0.5), "us", note);
    cell.emit("echo of 64 bytes p99", quantile(&mut took, 0.99), "us", "");
    Ok(())
}
