//! `nat-lab probe`: what a path does to datagrams.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::{
    net::UdpSocket,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::{Failure, figures};

/// What has not come back by then is lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// Options of `probe`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The echo.
    #[arg(value_name = "ADDRESS:PORT")]
    address: SocketAddr,
    /// Datagrams to send.
    #[arg(long, default_value_t = 1000)]
    count: u32,
    /// Milliseconds between two.
    #[arg(long, default_value_t = 2)]
    every: u64,
    /// Size of a datagram, at least 4.
    #[arg(long, default_value_t = 100)]
    size: usize,
}

/// Sends all, and tells what came back.
pub(crate) async fn run(args: Args) -> Result<Value, Failure> {
    let local: SocketAddr = match args.address {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(args.address).await?;
    let mut sent = Vec::new();
    let mut times = vec![None; usize::try_from(args.count)?];
    let mut ticks = interval(Duration::from_millis(args.every));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut buffer = vec![0; 65_535];
    while sent.len() < times.len() {
        tokio::select! {
            biased;
            received = socket.recv(&mut buffer) => note(&sent, &mut times, &buffer[..received?]),
            _ = ticks.tick() => {
                let mut datagram = u32::try_from(sent.len())?.to_be_bytes().to_vec();
                datagram.resize(args.size.max(datagram.len()), 0);
                sent.push(Instant::now());
                socket.send(&datagram).await?;
            }
        }
    }
    while times.contains(&None) {
        match timeout(PATIENCE, socket.recv(&mut buffer)).await {
            Ok(received) => note(&sent, &mut times, &buffer[..received?]),
            Err(_) => break,
        }
    }
    let mut arrived: Vec<_> = times.iter().copied().flatten().collect();
    let lost = times.len() - arrived.len();
    Ok(json!({
        "sent": times.len(),
        "lost": lost,
        "lost_percent": lost as f64 * 100.0 / times.len().max(1) as f64,
        "times": figures::of_times(&mut arrived),
    }))
}

/// One came back; doubled ones and strangers count once or not at all.
fn note(sent: &[Instant], times: &mut [Option<Duration>], datagram: &[u8]) {
    let number = datagram.first_chunk().copied().map(u32::from_be_bytes);
    let number = number.and_then(|number| usize::try_from(number).ok());
    if let Some(number) = number
        && let (Some(since), Some(time)) = (sent.get(number), times.get_mut(number))
    {
        time.get_or_insert_with(|| since.elapsed());
    }
}
