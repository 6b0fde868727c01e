//! A flood of correctly signed first contacts, each from an address never seen before, and
//! honest dials in between.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use super::{Cell, mib};
use crate::{
    Failure,
    child::Listener,
    dialer::Dialer,
    rng::SplitMix,
    stun::{self, Version},
    transports::port_of,
};

/// Requests in flight before their answers are looked at.
const BATCH: usize = 128;
/// How long a batch waits for its answers.
const PATIENCE: Duration = Duration::from_millis(20);
/// One honest dial is made after this many requests.
const DIAL_EVERY: usize = 10_000;
/// The flood stops when the listener is larger than this, in KiB.
const TOO_LARGE_KIB: u64 = 2 * 1024 * 1024;
/// The flood also stops after this time.
const AT_MOST: Duration = Duration::from_secs(60);
/// A growth above this, in KiB, is looked at again after [`REST`].
const LARGE_KIB: f64 = 64.0 * 1024.0;
/// Longer than upstream waits for a handshake to finish.
const REST: Duration = Duration::from_secs(15);
/// The amount the growth is scaled to.
const SCALE: f64 = 100_000.0;

/// What the flood did.
#[derive(Default)]
struct Tally {
    sent: usize,
    answered: usize,
    dials: usize,
    good_dials: usize,
    fault: Option<String>,
}

/// Floods the listener and looks at its memory before and after.
pub async fn run(cell: Cell) -> Result<(), Failure> {
    let mut listener = Listener::start(cell.listener(false)).await?;
    let dialer = Dialer::new(cell.kind, false).await?;
    dialer.dial(listener.addr()).await?.close().await?;
    let before = listener.settled().await?;
    let start = Instant::now();
    let tally = flood(cell, &mut listener, &dialer).await?;
    let took = start.elapsed();
    let after = listener.figures().await?;
    let growth = after.rss_kib.saturating_sub(before.rss_kib) as f64;
    // Small growth is one-time set-up; only what grows with the requests may be scaled.
    let scaled = if growth > LARGE_KIB {
        growth * SCALE / tally.sent.max(1) as f64
    } else {
        growth
    };
    let mut note = format!(
        "{} requests in {:.1} s, {} answered at once; growth {:.1} MiB before scaling, peak {:.1} MiB above the start, {} tasks more",
        tally.sent,
        took.as_secs_f64(),
        tally.answered,
        mib(growth),
        mib(after.peak_kib.saturating_sub(before.rss_kib) as f64),
        after.tasks.saturating_sub(before.tasks),
    );
    if growth > LARGE_KIB {
        tokio::time::sleep(REST).await;
        let rested = listener.figures().await?.rss_kib;
        let kept = mib(rested.saturating_sub(before.rss_kib) as f64);
        let rest = REST.as_secs();
        note = format!("{note}; {kept:.1} MiB are still held {rest} s later");
    }
    cell.emit(
        "listener growth per 100,000 STUN requests",
        mib(scaled),
        "MiB",
        note,
    );
    let share = tally.good_dials as f64 * 100.0 / tally.dials.max(1) as f64;
    let mut note = format!("{} of {} dials", tally.good_dials, tally.dials);
    if let Some(fault) = tally.fault {
        note = format!("{note}; first failure: {fault}");
    }
    cell.emit("honest dials during the flood that work", share, "%", note);
    Ok(())
}

/// Sends the requests batch by batch.
async fn flood(cell: Cell, listener: &mut Listener, dialer: &Dialer) -> Result<Tally, Failure> {
    let port = port_of(listener.addr()).ok_or("the listener has no UDP port")?;
    let every = DIAL_EVERY.min(cell.amounts.checks / 4).max(BATCH);
    let mut rng = SplitMix::new(1);
    let mut tally = Tally::default();
    let mut next_dial = every;
    let start = Instant::now();
    while tally.sent < cell.amounts.checks && start.elapsed() < AT_MOST {
        batch(port, &mut rng, &mut tally).await?;
        if tally.sent >= next_dial {
            next_dial += every;
            honest_dial(listener, dialer, &mut tally).await;
            if listener.figures().await?.rss_kib > TOO_LARGE_KIB {
                break;
            }
        }
    }
    Ok(tally)
}

/// Sends a batch, half of it v1 and half v2, each request from a fresh socket, and counts the
/// answers.
async fn batch(port: u16, rng: &mut SplitMix, tally: &mut Tally) -> Result<(), Failure> {
    let mut waiting = VecDeque::new();
    for i in 0..BATCH {
        let version = if i % 2 == 0 { Version::V1 } else { Version::V2 };
        let socket = UdpSocket::bind((source(tally.sent), 0))?;
        socket.set_nonblocking(true)?;
        let request = stun::check(version, rng);
        socket.send_to(&request, (Ipv4Addr::LOCALHOST, port))?;
        waiting.push_back((socket, request));
        tally.sent += 1;
    }
    let start = Instant::now();
    let mut buffer = [0; 2048];
    while !waiting.is_empty() && start.elapsed() < PATIENCE {
        waiting.retain(|(socket, request)| {
            let answered = socket
                .recv(&mut buffer)
                .is_ok_and(|n| stun::answers(&buffer[..n], request));
            tally.answered += usize::from(answered);
            !answered
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// The source address of a request: a different one each time, all of 127.0.0.0/8 but 127.0.0.x.
fn source(number: usize) -> Ipv4Addr {
    let [_, a, b, c] = (number as u32).to_be_bytes();
    Ipv4Addr::new(127, a, b, c.max(1)).max(Ipv4Addr::new(127, 0, 1, 1))
}

/// One dial of an honest peer.
async fn honest_dial(listener: &Listener, dialer: &Dialer, tally: &mut Tally) {
    tally.dials += 1;
    let outcome = match dialer.dial(listener.addr()).await {
        Ok(link) => link.close().await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => tally.good_dials += 1,
        Err(error) => tally.fault = tally.fault.take().or(Some(error.to_string())),
    }
}
