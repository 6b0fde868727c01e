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
    Behaviour, BehaviourEvent,
    command_line::Options,
    farewell::farewell,
    output::{chain, print, quote},
    protocols,
    stop::stop_signal,
    swarm,
};

/// Connecting, identify and the first ping together take no longer, or the peer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the peer's identity may still come after identify has reported an error. It does not say of which direction:
/// a peer that drops the stream with our identity as soon as it has read it is fine.
const GRACE: Duration = Duration::from_secs(2);

/// Added for each further ping.
const PATIENCE_PER_PING: Duration = Duration::from_secs(1);

/// What the swarm has to say to the one who waits for it.
enum News {
    Connected(PeerId),
    Identified(Box<identify::Info>),
    /// Identify failed, in whichever direction.
    Unidentified(String),
    Pinged(Duration),
    Failed(String),
    Closed(String),
}

#[expect(clippy::disallowed_methods, reason = "an example measures real time")]
pub(crate) async fn run(mut options: Options) -> Result<(), Box<dyn Error>> {
    let stop_signal = stop_signal()?;
    let mut swarm = swarm(&options)?;
    let control = swarm.behaviour().stream.new_control();
    let start = Instant::now();
    swarm.dial(options.addr.take().ok_or("there is no address to dial")?)?;
    let (sender, news) = mpsc::channel(64);
    let (stop, stopped) = oneshot::channel();
    let driver = tokio::spawn(drive(swarm, sender, stopped));
    let outcome = tokio::select! {
        outcome = check(&options, &control, news, start) => outcome,
        () = stop_signal => Err("stopped by a signal before everything was done".into()),
    };
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
    let pings = options.pings.unwrap_or(1);
    let patience =
        PATIENCE + PATIENCE_PER_PING.saturating_mul(u32::try_from(pings).unwrap_or(u32::MAX));
    let mut progress = Progress::default();
    let contact = first_contact(news, start, pings, &mut progress);
    let contact = tokio::time::timeout(patience, contact).await;
    let peer = match contact {
        Ok(peer) => peer?,
        Err(_) => return Err(progress.missing(pings, patience).into()),
    };
    try_streams(options, control, peer).await
}

/// How far the first contact has come.
#[derive(Default)]
struct Progress {
    peer: Option<PeerId>,
    identified: bool,
    pinged: usize,
    /// Why the peer may never be identified, and until when it has time.
    doubt: Option<(String, tokio::time::Instant)>,
}

impl Progress {
    /// What the peer still owes us.
    fn missing(&self, pings: usize, patience: Duration) -> String {
        let seconds = patience.as_secs();
        if self.peer.is_none() {
            format!("no connection after {seconds} s")
        } else if !self.identified {
            format!("the peer has not identified itself after {seconds} s")
        } else {
            let pinged = self.pinged;
            format!("--pings {pings}: the peer has answered {pinged} after {seconds} s")
        }
    }
}

/// Waits until the connection is up, the peer has identified itself and has answered `pings` pings.
async fn first_contact(
    mut news: mpsc::Receiver<News>,
    start: Instant,
    pings: usize,
    progress: &mut Progress,
) -> Result<PeerId, Box<dyn Error>> {
    loop {
        if let Some(peer) = progress.peer
            && progress.identified
            && progress.pinged >= pings
        {
            return Ok(peer);
        }
        let item = match &progress.doubt {
            Some((reason, until)) if !progress.identified => {
                let waited = tokio::time::timeout_at(*until, news.recv()).await;
                waited.map_err(|_| reason.clone())?
            }
            _ => news.recv().await,
        };
        match item {
            Some(News::Connected(id)) => {
                progress.peer = Some(id);
                print(&format!(
                    "{{\"result\":\"connected\",\"ms\":{:.1},\"peer\":\"{id}\"}}",
                    ms(start.elapsed())
                ))?;
            }
            Some(News::Identified(info)) if !progress.identified => {
                progress.identified = true;
                print(&format!(
                    "{{\"result\":\"identify\",\"agent\":{},\"protocols\":{}}}",
                    quote(&info.agent_version),
                    info.protocols.len()
                ))?;
            }
            Some(News::Pinged(rtt)) if progress.pinged < pings => {
                progress.pinged += 1;
                print(&format!(
                    "{{\"result\":\"ping\",\"rtt_ms\":{:.3}}}",
                    ms(rtt)
                ))?;
            }
            Some(News::Unidentified(reason)) => {
                let until = tokio::time::Instant::now() + GRACE;
                progress.doubt.get_or_insert((reason, until));
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
        let echo = protocols::check_echo(control.clone(), peer, options.echo).await;
        echo.map_err(|error| format!("--echo {}: {}", options.echo, chain(error.as_ref())))?;
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
        let streams = protocols::check_streams(control, peer, options.streams).await;
        streams
            .map_err(|error| format!("--streams {}: {}", options.streams, chain(error.as_ref())))?;
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
        SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Error {
            error, ..
        })) => Some(News::Unidentified(format!("identify: {}", chain(&error)))),
        SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => Some(match event.result {
            Ok(rtt) => News::Pinged(rtt),
            Err(error) => News::Failed(format!("ping: {}", chain(&error))),
        }),
        _ => None,
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
