//! One stream over a path that drops 1 % of the datagrams each way and has no delay.

use std::time::{Duration, Instant};

use super::Cell;
use crate::{
    Failure,
    child::Listener,
    dialer::Dialer,
    exchange,
    forwarder::Forwarder,
    transports::{port_of, with_port},
};

/// The seed of the losses.
const SEED: u64 = 42;
/// How often the dial itself may be lost.
const DIALS: usize = 3;

/// Downloads over the lossy path.
pub async fn run(cell: Cell) -> Result<(), Failure> {
    let listener = Listener::start(cell.listener(true)).await?;
    let port = port_of(listener.addr()).ok_or("the listener has no UDP port")?;
    let forwarder = Forwarder::start(port, SEED)?;
    let addr = with_port(listener.addr(), forwarder.port());
    let dialer = Dialer::new(cell.kind, true).await?;
    let start = Instant::now();
    let mut attempts = 1;
    let link = loop {
        match dialer.dial(&addr).await {
            Ok(link) => break link,
            Err(error) if attempts == DIALS => return Err(error),
            Err(_) => attempts += 1,
        }
    };
    let dialed = start.elapsed();
    let mut stream = link.open().await?;
    let amount = cell.amounts.loss_mib * 1024 * 1024;
    let at_most = Duration::from_secs(70);
    let transfer = exchange::download(&mut stream, amount, cell.kind.writes());
    let transfer = tokio::time::timeout(at_most, transfer)
        .await
        .map_err(|_| format!("{} MiB did not arrive in 70 s", cell.amounts.loss_mib))??;
    let report = forwarder.report()?;
    let note = format!(
        "{} MiB, listener to dialer; dialed in {:.0} ms ({attempts} attempts); forwarder passed {}, \
         dropped {}, the kernel {} more",
        cell.amounts.loss_mib,
        dialed.as_secs_f64() * 1e3,
        report.forwarded,
        report.dropped,
        report.overflowed
    );
    let speed = cell.amounts.loss_mib as f64 / transfer.took.as_secs_f64();
    cell.emit("one stream, 1 % loss", speed, "MiB/s", note);
    let stall = transfer.stall.as_secs_f64() * 1e3;
    cell.emit("longest stall, 1 % loss", stall, "ms", "");
    Ok(())
}
