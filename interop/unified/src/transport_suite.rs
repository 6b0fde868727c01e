//! The transport suite: one connection, one ping.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use libp2p::{ping, swarm::SwarmEvent};
use tokio::time;

use crate::{
    Failure,
    board::Board,
    node::{self, BehaviourEvent},
    settings::Settings,
};

/// The suite gives up after 180 s; a person is told before.
const PATIENCE: Duration = Duration::from_secs(60);
/// The first ping goes out at once whatever this is.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Serves until the container is stopped.
pub(crate) async fn listen(settings: &Settings) -> Result<(), Failure> {
    let mut swarm = node::build(PING_INTERVAL)?;
    let addr = node::listen(&mut swarm, settings).await?;
    eprintln!("listening on {addr}");
    Board::connect(settings).await?.push(&addr).await?;
    loop {
        eprintln!("{:?}", swarm.select_next_some().await);
    }
}

/// Dials, pings, prints both times.
pub(crate) async fn dial(settings: &Settings) -> Result<(), Failure> {
    let addr = Board::connect(settings).await?.pop().await?;
    eprintln!("dialing {addr}");
    let mut swarm = node::build(PING_INTERVAL)?;
    let start = Instant::now();
    let pinged = async {
        node::dial(&mut swarm, &addr).await?;
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event { result, .. })) => {
                    return Ok::<_, Failure>(result?);
                }
                SwarmEvent::ConnectionClosed { cause, .. } => {
                    return Err(format!("the connection has closed: {cause:?}").into());
                }
                event => eprintln!("{event:?}"),
            }
        }
    };
    let ping = time::timeout(PATIENCE, pinged)
        .await
        .map_err(|_| "the listener does not answer")??;
    println!("{}", report(start.elapsed(), ping));
    Ok(())
}

/// The suite finds these lines by their words and their two spaces.
fn report(handshake: Duration, ping: Duration) -> String {
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    format!(
        "latency:\n  handshake_plus_one_rtt: {:.3}\n  ping_rtt: {:.3}\n  unit: ms",
        ms(handshake),
        ms(ping)
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn the_report_has_the_lines_that_the_suite_looks_for() {
        let text = super::report(Duration::from_micros(12_345), Duration::from_micros(250));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "latency:",
                "  handshake_plus_one_rtt: 12.345",
                "  ping_rtt: 0.250",
                "  unit: ms"
            ]
        );
    }
}
