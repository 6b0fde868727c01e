//! `node dial`: connects, tries what the command line asks for, and says goodbye.

use std::{
    convert::Infallible,
    error::Error,
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use libp2p::{PeerId, Swarm, identify, swarm::SwarmEvent};
use libp2p_stream::Control;
use tokio::sync::{mpsc, oneshot};

use crate::{
    Behaviour, BehaviourEvent, Options, USAGE, chain, farewell::farewell, print, protocols, quote,
    swarm,
};

/// A peer that answers no ping and no identify request for so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the swarm has to say to the one who waits for it.
enum News {
    Connected(PeerId),
    Identified(Box<identify::Info>),
    Pinged(Duration),
    Failed(String),
    Closed(String),
}

#[expect(clippy::disallowed_methods, reason = "an example measures real time")]
pub(crate) async fn run(mut options: Options) -> Result<(), Box<dyn Error>> {
    let mut swarm = swarm(&options)?;
    let control = swarm.behaviour().stream.new_control();
    let start = Instant::now();
    swarm.dial(options.addr.take().ok_or(USAGE)?)?;
    let (sender, news) = mpsc::channel(64);
    let (stop, stopped) = oneshot::channel();
    let driver = tokio::spawn(drive(swarm, sender, stopped));
    let outcome = check(&options, &control, news, start).await;
    drop(stop);
    farewell(driver.await?).await;
    outcome
}

/// Polls the swarm, until the other end of `stopped` is dropped.
async fn drive(
    mut swarm: Swarm<Behaviour>,
    news: mpsc::Sender<News>,
    mut stopped: oneshot::Receiver<Infallible>,
) -> Swarm<Behaviour> {
    loop {
        let event = tokio::select! {
            _ = &mut stopped => return swarm,
            event = swarm.select_next_some() => event,
        };
        if let Some(item) = interpret(event) {
            // After the first contact nobody wants to know.
            news.send(item).await.ok();
        }
    }
}

/// All that the command line asks for.
async fn check(
    options: &Options,
    control: &Control,
    news: mpsc::Receiver<News>,
    start: Instant,
) -> Result<(), Box<dyn Error>> {
    let peer = first_contact(news, start, options.pings.unwrap_or(1)).await?;
    try_streams(options, control, peer).await
}

/// Waits until the connection is up, the peer has identified itself and has answered `pings` pings.
async fn first_contact(
    mut news: mpsc::Receiver<News>,
    start: Instant,
    pings: usize,
) -> Result<PeerId, Box<dyn Error>> {
    let (mut peer, mut identified, mut pinged) = (None, false, 0);
    loop {
        if let Some(peer) = peer
            && identified
            && pinged >= pings
        {
            return Ok(peer);
        }
        let waited = tokio::time::timeout(PATIENCE, news.recv()).await;
        match waited.map_err(|_| "the peer does not answer")? {
            Some(News::Connected(id)) => {
                peer = Some(id);
                print(&format!(
                    "{{\"result\":\"connected\",\"ms\":{:.1},\"peer\":\"{id}\"}}",
                    ms(start.elapsed())
                ))?;
            }
            Some(News::Identified(info)) if !identified => {
                identified = true;
                print(&format!(
                    "{{\"result\":\"identify\",\"agent\":{},\"protocols\":{}}}",
                    quote(&info.agent_version),
                    info.protocols.len()
                ))?;
            }
            Some(News::Pinged(rtt)) if pinged < pings => {
                pinged += 1;
                print(&format!(
                    "{{\"result\":\"ping\",\"rtt_ms\":{:.3}}}",
                    ms(rtt)
                ))?;
            }
            Some(News::Identified(_) | News::Pinged(_)) => {}
            Some(News::Failed(reason) | News::Closed(reason)) => return Err(reason.into()),
            None => return Err("the swarm has ended".into()),
        }
    }
}

/// `--echo` and `--streams`.
#[expect(clippy::disallowed_methods, reason = "an example measures real time")]
async fn try_streams(
    options: &Options,
    control: &Control,
    peer: PeerId,
) -> Result<(), Box<dyn Error>> {
    if options.echo > 0 {
        let start = Instant::now();
        protocols::check_echo(control.clone(), peer, options.echo).await?;
        let took = start.elapsed();
        print(&format!(
            "{{\"result\":\"echo\",\"bytes\":{},\"ms\":{:.1},\"mib_per_s\":{:.1}}}",
            options.echo,
            ms(took),
            options.echo as f64 / (1024.0 * 1024.0) / took.as_secs_f64()
        ))?;
    }
    if options.streams > 0 {
        let start = Instant::now();
        protocols::check_streams(control, peer, options.streams).await?;
        print(&format!(
            "{{\"result\":\"streams\",\"in_turn\":{0},\"parallel\":{0},\"ms\":{1:.1}}}",
            options.streams,
            ms(start.elapsed())
        ))?;
    }
    Ok(())
}

/// The events that matter here.
fn interpret(event: SwarmEvent<BehaviourEvent>) -> Option<News> {
    match event {
        SwarmEvent::ConnectionEstablished { peer_id, .. } => Some(News::Connected(peer_id)),
        SwarmEvent::OutgoingConnectionError { error, .. } => Some(News::Failed(chain(&error))),
        SwarmEvent::ConnectionClosed { cause, .. } => Some(News::Closed(
            cause.map_or_else(|| "the peer closed".into(), |cause| chain(&cause)),
        )),
        SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
            info, ..
        })) => Some(News::Identified(Box::new(info))),
        SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => Some(match event.result {
            Ok(rtt) => News::Pinged(rtt),
            Err(error) => News::Failed(chain(&error)),
        }),
        _ => None,
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
