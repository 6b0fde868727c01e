//! `nat-lab keys`: what somebody who types has to wait for.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, tcp::OwnedReadHalf},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::{Failure, figures};

/// No echo takes so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Options of `keys`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The echo.
    #[arg(value_name = "ADDRESS:PORT")]
    address: SocketAddr,
    /// Keys to press on each connection.
    #[arg(long, default_value_t = 200)]
    count: usize,
    /// Keys pressed before those, which are not counted: time to settle.
    #[arg(long, default_value_t = 0)]
    warm_up: usize,
    /// Milliseconds between two on one connection. The next is pressed whether or not the last is shown.
    #[arg(long, default_value_t = 100)]
    every: u64,
    /// Connections at once.
    #[arg(long, default_value_t = 1)]
    connections: usize,
}

/// Types on all connections, and tells how long the echoes took.
pub(crate) async fn run(args: Args) -> Result<Value, Failure> {
    let typists = (0..args.connections).map(|index| {
        // Not all in the same moment.
        let offset = args.every * u64::try_from(index)? / u64::try_from(args.connections)?;
        Ok::<_, Failure>(tokio::spawn(connection(
            args.address,
            args.warm_up + args.count,
            Duration::from_millis(args.every),
            Duration::from_millis(offset),
        )))
    });
    let typists = typists.collect::<Result<Vec<_>, _>>()?;
    let mut times = Vec::new();
    for typist in typists {
        times.extend(typist.await??.into_iter().skip(args.warm_up));
    }
    Ok(figures::of_times(&mut times))
}

/// One who types.
async fn connection(
    address: SocketAddr,
    count: usize,
    every: Duration,
    offset: Duration,
) -> Result<Vec<Duration>, Failure> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.into_split();
    // The way there is made by the first byte; it is not measured.
    writer.write_all(&[key(0)]).await?;
    hear(&mut reader, 0).await?;
    tokio::time::sleep(offset).await;
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pressed = Vec::new();
    let mut times = Vec::new();
    while times.len() < count {
        tokio::select! {
            biased;
            heard = hear(&mut reader, times.len() + 1) => {
                heard?;
                let since = pressed.get(times.len()).copied().ok_or("an echo of nothing")?;
                times.push(Instant::now() - since);
            }
            _ = ticks.tick(), if pressed.len() < count => {
                pressed.push(Instant::now());
                writer.write_all(&[key(pressed.len())]).await?;
            }
        }
    }
    Ok(times)
}

/// The key with this number.
fn key(number: usize) -> u8 {
    number.to_le_bytes()[0]
}

/// Waits for this key.
async fn hear(reader: &mut OwnedReadHalf, number: usize) -> Result<(), Failure> {
    let shown = timeout(PATIENCE, reader.read_u8()).await;
    let shown = shown.map_err(|_| format!("no echo of key {number} in {PATIENCE:?}"))??;
    match shown == key(number) {
        true => Ok(()),
        false => Err(format!("key {number} was shown as {shown:#04x}").into()),
    }
}
