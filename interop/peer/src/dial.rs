//! `dial`: connects, tries what the command line asks for, prints one line per result, says goodbye.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use libp2p::{Multiaddr, Swarm, identify, multiaddr::Protocol, swarm::SwarmEvent};
use tokio::sync::{mpsc, oneshot};

use crate::{
    Failure, Ice, Implementation,
    behaviour::{self, Behaviour, BehaviourEvent, Plan},
    chain,
    farewell::farewell,
    protocols::Writer,
    session::{News, Session},
};

/// The options of `dial`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct DialArgs {
    /// The address, with certhash and peer id.
    pub(crate) addr: Multiaddr,
    /// The handshake; ignored by implementations that know one only.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) ice: Ice,
    /// How many pings to make. They go on, one every 10 ms, as long as the connection lasts.
    #[arg(long, default_value_t = 0)]
    pub(crate) pings: usize,
    /// How many bytes to have echoed on one stream.
    #[arg(long, default_value_t = 0)]
    pub(crate) echo: usize,
    /// How many bytes to send, close, and ask back.
    #[arg(long, default_value_t = 0)]
    pub(crate) half_close: usize,
    /// How many streams to open in turn, then at once.
    #[arg(long, default_value_t = 0)]
    pub(crate) streams: usize,
    /// How many streams to open in turn only.
    #[arg(long, default_value_t = 0)]
    pub(crate) in_turn: usize,
    /// Rests so many seconds, then makes an echo.
    #[arg(long, default_value_t = 0)]
    pub(crate) idle: u64,
    /// Has the other side reset a stream.
    #[arg(long)]
    pub(crate) reset: bool,
    /// Has the other side close the connection.
    #[arg(long)]
    pub(crate) remote_close: bool,
    /// Waits so many seconds for the connection to end.
    #[arg(long, default_value_t = 0)]
    pub(crate) wait_close: u64,
    /// Keeps sent messages below 8 KiB.
    #[arg(long)]
    pub(crate) small_frames: bool,
    /// How many milliseconds the pings of the swarm itself are apart, see `listen`.
    #[arg(long, default_value_t = 1000)]
    ping_interval: u64,
    /// Always the same identity for the same number.
    #[arg(long)]
    seed: Option<u64>,
}

/// The pause between the pings of the ping scenario: libp2p-ping knows no shorter one worth the name.
const FAST_PINGS: Duration = Duration::from_millis(10);
/// News that wait to be read.
const MAX_NEWS: usize = 1024;

/// Runs the scenarios; false if any failed.
pub(crate) async fn run(implementation: &Implementation, args: DialArgs) -> Result<bool, Failure> {
    let mut swarm = behaviour::build(
        implementation,
        &Plan {
            seed: args.seed,
            ice: args.ice,
            ping_interval: if args.pings > 0 {
                FAST_PINGS
            } else {
                Duration::from_millis(args.ping_interval)
            },
            writer: Writer {
                small_frames: args.small_frames,
            },
        },
    )?;
    let control = swarm.behaviour().stream.new_control();
    if implementation.listens_to_dial {
        listen_first(&mut swarm, &args.addr).await?;
    }
    let start = Instant::now();
    swarm.dial(args.addr.clone())?;
    let (sender, news) = mpsc::channel(MAX_NEWS);
    let (stop, stopped) = oneshot::channel();
    let driver = tokio::spawn(drive(swarm, sender, stopped, args.pings));
    let good = Session::new(args, news, control).run(start).await;
    drop(stop);
    farewell(driver.await?).await;
    Ok(good)
}

/// Polls the swarm, until the other end of `stopped` is dropped. Tells of no more than the first `pings` pings.
async fn drive(
    mut swarm: Swarm<Behaviour>,
    news: mpsc::Sender<News>,
    mut stopped: oneshot::Receiver<Infallible>,
    mut pings: usize,
) -> Swarm<Behaviour> {
    loop {
        let event = tokio::select! {
            _ = &mut stopped => return swarm,
            event = swarm.select_next_some() => event,
        };
        let item = interpret(event);
        if matches!(item, Some(News::Pinged(_))) {
            if pings == 0 {
                continue;
            }
            pings -= 1;
        }
        if let Some(item) = item {
            // The swarm must not wait for a scenario that waits for it.
            drop(news.try_send(item));
        }
    }
}

/// A listener of our own, for transports that dial through one.
async fn listen_first(swarm: &mut Swarm<Behaviour>, to: &Multiaddr) -> Result<(), Failure> {
    let v6 = matches!(to.iter().next(), Some(Protocol::Ip6(_)));
    let ip = if v6 { "/ip6/::1" } else { "/ip4/127.0.0.1" };
    swarm.listen_on(format!("{ip}/udp/0/webrtc-direct").parse()?)?;
    while !matches!(
        swarm.select_next_some().await,
        SwarmEvent::NewListenAddr { .. }
    ) {}
    Ok(())
}

/// The events that matter to a scenario.
fn interpret(event: SwarmEvent<BehaviourEvent>) -> Option<News> {
    match event {
        SwarmEvent::ConnectionEstablished { peer_id, .. } => Some(News::Connected(peer_id)),
        SwarmEvent::OutgoingConnectionError { error, .. } => Some(News::Failed(chain(&error))),
        SwarmEvent::ConnectionClosed { cause, .. } => {
            let cause = cause.map_or_else(|| "closed".to_owned(), |cause| chain(&cause));
            Some(News::Closed(cause))
        }
        SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
            info, ..
        })) => Some(News::Identified(Box::new(info))),
        SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => {
            Some(News::Pinged(event.result.map_err(|error| chain(&error))))
        }
        _ => None,
    }
}
