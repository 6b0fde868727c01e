//! `rust-upstream dial`: dials, tries what the command line asks for, prints one line per result.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use libp2p::{Multiaddr, PeerId, Swarm, identify, multiaddr::Protocol, swarm::SwarmEvent};
use libp2p_stream::Control;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    Failure, chain,
    checks::{self, Writer},
    peer::{self, Behaviour, BehaviourEvent},
    print,
};

/// How long a connection, an identify message or a ping may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long any other scenario may take.
const AT_MOST: Duration = Duration::from_secs(90);
/// Bytes of the request in the half-close scenario.
const REQUEST: usize = 1000;

/// The options of `dial`.
#[derive(clap::Args, Clone, Debug)]
pub struct DialArgs {
    /// The address, with certhash and peer id.
    addr: Multiaddr,
    /// How many pings to wait for.
    #[arg(long, default_value_t = 1)]
    pings: usize,
    /// How many milliseconds pings are apart; 200 is what the node example uses.
    #[arg(long, default_value_t = 200)]
    ping_interval: u64,
    /// How many bytes to have echoed on one stream.
    #[arg(long, default_value_t = 0)]
    echo: usize,
    /// How many streams to open in turn, then at once.
    #[arg(long, default_value_t = 0)]
    streams: usize,
    /// Sends a request, closes, reads the answer to its end.
    #[arg(long)]
    half_close: bool,
    /// Rests so many seconds without own traffic, then makes an echo.
    #[arg(long, default_value_t = 0)]
    idle: u64,
    /// Waits so many seconds for the other side to close.
    #[arg(long, default_value_t = 0)]
    wait_close: u64,
    /// Keeps sent messages below 8 KiB, the most that upstream can read.
    #[arg(long)]
    small_frames: bool,
    /// Accepted for the sake of the common contract; upstream knows only v1.
    #[arg(long, hide = true)]
    ice: Option<String>,
}

/// News that wait to be read, about an hour of pings; those beyond are lost.
const MAX_NEWS: usize = 16 * 1024;

/// What the swarm reports.
enum News {
    /// The connection is up.
    Connected(PeerId),
    /// Agent and number of protocols of the other side.
    Identified(String, usize),
    /// A ping came back.
    Pinged(Duration),
    /// The connection is gone.
    Closed(String),
    /// The dial failed.
    Failed(String),
}

/// Runs the scenarios; false if any failed.
pub async fn run(args: DialArgs) -> Result<bool, Failure> {
    let mut swarm =
        peer::build((args.pings > 0).then(|| Duration::from_millis(args.ping_interval)))?;
    let control = swarm.behaviour().stream.new_control();
    listen_first(&mut swarm, &args.addr).await?;
    let start = Instant::now();
    swarm.dial(args.addr.clone())?;
    let (sender, news) = mpsc::channel(MAX_NEWS);
    let (hang_up, mut to_hang_up) = mpsc::channel::<PeerId>(1);
    let driver = tokio::spawn(async move {
        loop {
            tokio::select! {
                event = swarm.select_next_some() => {
                    if let Some(news) = interpret(event) {
                        // The swarm must not wait for a scenario that waits for it.
                        drop(sender.try_send(news));
                    }
                }
                Some(peer) = to_hang_up.recv() => {
                    // It fails only when the connection is gone already.
                    let _ = swarm.disconnect_peer_id(peer);
                }
            }
        }
    });
    let mut session = Session {
        args,
        news,
        control,
        all_good: true,
    };
    if let Some(peer) = session.connect(start).await {
        session.first_contact().await;
        session.streams(peer).await;
        session.rest(peer).await;
        session.wait_for_close().await;
        hang_up.send(peer).await?;
        let closed = async { while !matches!(session.news.recv().await, Some(News::Closed(_))) {} };
        // Leave the transport a moment to say goodbye.
        let _ = tokio::time::timeout(Duration::from_secs(3), closed).await;
    }
    driver.abort();
    Ok(session.all_good)
}

/// Upstream can only dial through a listener of its own.
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
            let cause = cause.map_or_else(|| "closed by us".to_owned(), |cause| chain(&cause));
            Some(News::Closed(cause))
        }
        SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
            info, ..
        })) => Some(News::Identified(info.agent_version, info.protocols.len())),
        SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => event.result.ok().map(News::Pinged),
        _ => None,
    }
}

/// One run of the scenarios over one connection.
struct Session {
    args: DialArgs,
    news: mpsc::Receiver<News>,
    control: Control,
    all_good: bool,
}

impl Session {
    /// Prints a result and remembers failures.
    fn report(&mut self, result: &str, start: Instant, outcome: Result<Value, Failure>) {
        let mut line = json!({
            "result": result,
            "ok": outcome.is_ok(),
            "ms": start.elapsed().as_secs_f64() * 1e3,
        });
        match outcome {
            Ok(detail) => line["detail"] = detail,
            Err(error) => {
                line["detail"] = json!(error.to_string());
                self.all_good = false;
            }
        }
        print(&line);
    }

    /// Waits for the connection.
    async fn connect(&mut self, start: Instant) -> Option<PeerId> {
        let outcome = match tokio::time::timeout(PATIENCE, self.news.recv()).await {
            Ok(Some(News::Connected(peer))) => Ok(peer),
            Ok(Some(News::Failed(error) | News::Closed(error))) => Err(error),
            Ok(_) => Err("the swarm reported something else first".to_owned()),
            Err(_) => Err(format!("not connected after {} s", PATIENCE.as_secs())),
        };
        let peer = outcome.as_ref().ok().copied();
        let detail = outcome.map(|peer| json!(peer.to_string()));
        self.report("connected", start, detail.map_err(Into::into));
        peer
    }

    /// Identify and the pings.
    async fn first_contact(&mut self) {
        let start = Instant::now();
        let mut identified = None;
        let mut pings: Vec<f64> = Vec::new();
        let mut trouble = None;
        while identified.is_none() || pings.len() < self.args.pings {
            match tokio::time::timeout(PATIENCE, self.news.recv()).await {
                Ok(Some(News::Identified(agent, protocols))) => {
                    identified = Some(json!({ "agent": agent, "protocols": protocols }));
                }
                Ok(Some(News::Pinged(took))) => pings.push(took.as_secs_f64() * 1e3),
                Ok(Some(News::Closed(cause))) => {
                    trouble = Some(format!("the connection closed: {cause}"));
                    break;
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    trouble = Some("nothing came for 30 s".to_owned());
                    break;
                }
            }
        }
        let trouble = trouble.unwrap_or_default();
        let outcome = identified.ok_or_else(|| trouble.clone().into());
        self.report("identify", start, outcome);
        if self.args.pings > 0 {
            let got = pings.len();
            let outcome = if got >= self.args.pings {
                Ok(json!({ "pings": got, "rtt_ms": pings }))
            } else {
                Err(format!("{got} of {} pings: {trouble}", self.args.pings).into())
            };
            self.report("ping", start, outcome);
        }
    }

    /// The scenarios on streams.
    async fn streams(&mut self, peer: PeerId) {
        let args = self.args.clone();
        let mut control = self.control.clone();
        let writer = Writer {
            small_frames: args.small_frames,
        };
        if args.echo > 0 {
            let work = checks::bulk(&mut control, peer, args.echo, writer);
            self.timed("echo", work).await;
        }
        if args.streams > 0 {
            let work = checks::in_turn(&mut control, peer, args.streams);
            let good = self.timed("streams_in_turn", work).await;
            let work = checks::in_parallel(&control, peer, args.streams);
            if self.timed("streams_parallel", work).await && good {
                print(&json!({ "result": "streams", "ok": true }));
            }
        }
        if args.half_close {
            let work = checks::half_close(&mut control, peer, REQUEST);
            self.timed("half_close", work).await;
        }
    }

    /// Runs a scenario against the clock.
    async fn timed(
        &mut self,
        result: &str,
        work: impl Future<Output = Result<(), Failure>>,
    ) -> bool {
        let start = Instant::now();
        let outcome = match tokio::time::timeout(AT_MOST, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no end after {} s", AT_MOST.as_secs()).into()),
        };
        let good = outcome.is_ok();
        self.report(result, start, outcome.map(|()| Value::Null));
        good
    }

    /// The idle scenario.
    async fn rest(&mut self, peer: PeerId) {
        if self.args.idle == 0 {
            return;
        }
        let start = Instant::now();
        let rest = Duration::from_secs(self.args.idle);
        let outcome = match tokio::time::timeout(rest, self.closed()).await {
            Ok(cause) => Err(format!("the connection closed: {cause}").into()),
            Err(_) => checks::in_turn(&mut self.control.clone(), peer, 1).await,
        };
        self.report("idle", start, outcome.map(|()| Value::Null));
    }

    /// The scenario in which the other side closes.
    async fn wait_for_close(&mut self) {
        if self.args.wait_close == 0 {
            return;
        }
        print(&json!({ "event": "waiting-for-close" }));
        let start = Instant::now();
        let at_most = Duration::from_secs(self.args.wait_close);
        let outcome = match tokio::time::timeout(at_most, self.closed()).await {
            Ok(cause) => Ok(json!(cause)),
            Err(_) => Err(format!("still connected after {} s", self.args.wait_close).into()),
        };
        self.report("remote_close", start, outcome);
    }

    /// Waits until the connection is closed.
    async fn closed(&mut self) -> String {
        loop {
            match self.news.recv().await {
                Some(News::Closed(cause)) => return cause,
                Some(_) => {}
                None => return "the swarm ended".to_owned(),
            }
        }
    }
}
