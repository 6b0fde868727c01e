//! Throughput of one stream in each direction, and the CPU time of both ends for it.

use std::time::Duration;

use super::{Cell, median};
use crate::{Failure, child::Listener, dialer::Dialer, dialer::Link, exchange, proc};

/// Which way the bytes go.
#[derive(Clone, Copy, Debug)]
enum Direction {
    /// Dialer to listener.
    Up,
    /// Listener to dialer.
    Down,
}

/// Transfers the bytes in each direction a few times and takes medians.
pub async fn run(cell: Cell) -> Result<(), Failure> {
    let mut listener = Listener::start(cell.listener(true)).await?;
    let dialer = Dialer::new(cell.kind, true).await?;
    let link = dialer.dial(listener.addr()).await?;
    let writes = cell.kind.writes();
    let flushed = if writes.flush { ", each flushed" } else { "" };
    let note = format!(
        "{} MiB x {}, writes of {} bytes{flushed}",
        cell.amounts.bulk_mib, cell.amounts.bulk_runs, writes.size
    );
    for (direction, name) in [
        (Direction::Up, "dialer to listener"),
        (Direction::Down, "listener to dialer"),
    ] {
        let mut speeds = Vec::new();
        let mut costs = Vec::new();
        for _ in 0..cell.amounts.bulk_runs {
            let before = cpu(&mut listener).await?;
            let took = transfer(cell, &link, direction).await?;
            let spent = cpu(&mut listener).await?.saturating_sub(before);
            let mib = cell.amounts.bulk_mib as f64;
            speeds.push(mib / took.as_secs_f64());
            costs.push(spent.as_secs_f64() * 1024.0 / mib);
        }
        let speed = median(&mut speeds);
        cell.emit(&format!("one stream, {name}"), speed, "MiB/s", note.clone());
        let cost = median(&mut costs);
        cell.emit(&format!("CPU of both ends, {name}"), cost, "s/GiB", "");
    }
    Ok(())
}

/// One transfer on a stream of its own.
async fn transfer(cell: Cell, link: &Link, direction: Direction) -> Result<Duration, Failure> {
    let amount = cell.amounts.bulk_mib * 1024 * 1024;
    let writes = cell.kind.writes();
    let mut stream = link.open().await?;
    match direction {
        Direction::Up => exchange::upload(&mut stream, amount, writes).await,
        Direction::Down => Ok(exchange::download(&mut stream, amount, writes).await?.took),
    }
}

/// CPU time used so far by this process and the listener's.
async fn cpu(listener: &mut Listener) -> Result<Duration, Failure> {
    let theirs = Duration::from_millis(listener.figures().await?.cpu_ms);
    Ok(theirs + proc::cpu(std::process::id())?)
}
