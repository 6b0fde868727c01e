//! The perf suite: uploads, downloads and the smallest request, each on a stream of its own.
//!
//! Spec: <https://github.com/libp2p/specs/blob/master/perf/perf.md>. The Rust image of the suite sends two numbers in
//! front of its request instead of one; it understands only itself.

use std::time::{Duration, Instant};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::{PeerId, Stream, StreamProtocol};
use libp2p_stream::Control;

use crate::{
    Failure,
    board::Board,
    node,
    settings::Settings,
    statistics::{Statistics, Unit},
};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/perf/1.0.0");
const CHUNK: usize = 64 * 1024;
/// No ping shall disturb a measurement.
const PING_INTERVAL: Duration = Duration::from_secs(3600);

/// Serves until the container is stopped.
pub(crate) async fn listen(settings: &Settings) -> Result<(), Failure> {
    let mut swarm = node::build(PING_INTERVAL)?;
    let mut incoming = swarm.behaviour().stream.new_control().accept(PROTOCOL)?;
    let addr = node::listen(&mut swarm, settings).await?;
    eprintln!("listening on {addr}");
    Board::connect(settings).await?.set(&addr).await?;
    loop {
        tokio::select! {
            event = swarm.select_next_some() => eprintln!("{event:?}"),
            Some((peer, stream)) = incoming.next() => {
                tokio::spawn(async move {
                    if let Err(error) = serve(stream).await {
                        eprintln!("{peer}: {error}");
                    }
                });
            }
        }
    }
}

/// Reads a request to its end and answers with as many bytes as it asked for.
async fn serve(mut stream: Stream) -> Result<(), Failure> {
    let mut wanted = [0; 8];
    stream.read_exact(&mut wanted).await?;
    let mut buffer = vec![0; CHUNK];
    while stream.read(&mut buffer).await? > 0 {}
    write_zeros(&mut stream, u64::from_be_bytes(wanted)).await?;
    Ok(stream.close().await?)
}

/// Measures and prints the report.
pub(crate) async fn dial(settings: &Settings) -> Result<(), Failure> {
    let addr = Board::connect(settings).await?.get().await?;
    eprintln!("dialing {addr}");
    let mut swarm = node::build(PING_INTERVAL)?;
    let peer = node::dial(&mut swarm, &addr).await?;
    let mut control = swarm.behaviour().stream.new_control();
    let driver = tokio::spawn(async move {
        loop {
            eprintln!("{:?}", swarm.select_next_some().await);
        }
    });
    let Settings {
        upload_bytes,
        download_bytes,
        ..
    } = *settings;
    let gbps = |bytes: u64| move |took: Duration| bytes as f64 * 8.0 / took.as_secs_f64() / 1e9;
    for (name, unit, up, down, iterations) in [
        (
            "upload",
            Unit::Gbps,
            upload_bytes,
            0,
            settings.upload_iterations,
        ),
        (
            "download",
            Unit::Gbps,
            0,
            download_bytes,
            settings.download_iterations,
        ),
        (
            "latency",
            Unit::Milliseconds,
            1,
            1,
            settings.latency_iterations,
        ),
    ] {
        let mut samples = Vec::with_capacity(iterations);
        for _ in 0..iterations {
            let took = exchange(&mut control, peer, up, down).await?;
            samples.push(match unit {
                Unit::Gbps => gbps(up.max(down))(took),
                Unit::Milliseconds => took.as_secs_f64() * 1e3,
            });
        }
        let statistics =
            Statistics::new(samples).ok_or_else(|| format!("no {name} was asked for"))?;
        println!("{}", statistics.section(name, unit));
    }
    driver.abort();
    Ok(())
}

/// One request and its answer.
async fn exchange(
    control: &mut Control,
    peer: PeerId,
    up: u64,
    down: u64,
) -> Result<Duration, Failure> {
    let start = Instant::now();
    let mut stream = control.open_stream(peer, PROTOCOL).await?;
    stream.write_all(&down.to_be_bytes()).await?;
    write_zeros(&mut stream, up).await?;
    stream.close().await?;
    let mut buffer = vec![0; CHUNK];
    let mut received = 0;
    loop {
        match stream.read(&mut buffer).await? {
            0 if received == down => return Ok(start.elapsed()),
            0 => return Err(format!("{received} bytes came instead of {down}").into()),
            n => received += n as u64,
        }
    }
}

async fn write_zeros(stream: &mut Stream, count: u64) -> Result<(), Failure> {
    let zeros = vec![0; CHUNK];
    let mut left = count;
    while left > 0 {
        let n = left.min(CHUNK as u64);
        stream.write_all(&zeros[..n as usize]).await?;
        left -= n;
    }
    Ok(())
}
