//! `webrtc-rs dial`: a libp2p connection over WebRTC that is signaled over a WebSocket.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use libp2p_core::upgrade::InboundConnectionUpgrade as _;
use libp2p_identity::{Keypair, PeerId};
use serde_json::{Value, json};
use tokio::{
    sync::{
        mpsc::{Receiver, channel},
        oneshot,
    },
    task::JoinHandle,
    time::timeout,
};
use webrtc::{
    data_channel::{RTCDataChannel, data_channel_init::RTCDataChannelInit},
    peer_connection::RTCPeerConnection,
};

use crate::{
    Failure,
    address::Address,
    call::{Call, CallEvent, MAX_EVENTS, Told},
    checks::{self, Opener, Raw},
    frame::Frame,
    pipe::{self, Pipe},
    plain::Plain,
    report::Report,
    websocket::Socket,
};

/// WebRTC is there by then, or never.
const SETUP_LIMIT: Duration = Duration::from_secs(10);
/// No check takes longer.
const LIMIT: Duration = Duration::from_secs(30);
/// What is under the prologue of Noise.
const PROLOGUE: &[u8] = b"libp2p-webrtc-noise:";
/// Code and length of a SHA-256 multihash.
const SHA_256: [u8; 2] = [0x12, 0x20];

/// Options of `dial`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// /ip4/../tcp/../(tls/)ws/webrtc/p2p/ID
    address: Address,
    /// PEM file with the certificates that are believed for TLS.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Pings to send.
    #[arg(long, default_value_t = 20)]
    pings: usize,
    /// Bytes of an echo.
    #[arg(long, default_value_t = 1 << 20)]
    echo: u64,
    /// Streams at once.
    #[arg(long, default_value_t = 50)]
    streams: usize,
    /// Offer nothing: a byte stream in the frames of the WebSocket, with Noise and yamux.
    #[arg(long)]
    plain: bool,
    /// Claim another certificate than that of the connection, as somebody in the middle would; the node has to notice.
    #[arg(long)]
    forged: bool,
}

/// Runs all of it. `false` if anything was wrong.
pub(crate) async fn run(args: Args) -> Result<bool, Failure> {
    let mut report = Report::default();
    let key = Keypair::generate_ed25519();
    let outcome = match (args.plain, args.forged) {
        (true, _) => plain(&args, &key, &mut report).await,
        (false, true) => {
            let start = Instant::now();
            report.step("forged", start, forged(&args, &key).await)
        }
        (false, false) => over_webrtc(&args, &key, &mut report).await,
    };
    Ok(outcome.is_ok())
}

async fn plain(args: &Args, key: &Keypair, report: &mut Report) -> Result<(), Failure> {
    let start = Instant::now();
    let connecting = async {
        let socket = Socket::connect(&args.address.url, args.ca.as_deref()).await?;
        let (connection, peer) = Plain::connect(socket, key).await?;
        is_right(&args.address, peer)?;
        Ok((connection, peer))
    };
    let connected = within("the upgrade", SETUP_LIMIT, connecting).await;
    let (connection, _) = split(report, start, connected)?;
    check(args, &connection, report).await
}

/// Reports the outcome of connecting.
fn split<T>(
    report: &mut Report,
    start: Instant,
    connected: Result<(T, PeerId), Failure>,
) -> Result<(T, PeerId), Failure> {
    match connected {
        Ok((connection, peer)) => {
            report.step("connected", start, Ok(json!({ "peer": peer.to_base58() })))?;
            Ok((connection, peer))
        }
        Err(error) => {
            let text = error.to_string();
            report.step("connected", start, Err(error))?;
            Err(text.into())
        }
    }
}

fn is_right(address: &Address, peer: PeerId) -> Result<(), Failure> {
    match address.peer == peer {
        true => Ok(()),
        false => Err(format!("{peer} is there instead of {}", address.peer).into()),
    }
}

async fn within<T>(
    what: &str,
    limit: Duration,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    timeout(limit, work)
        .await
        .map_err(|_| format!("{what}: not within {limit:?}"))?
}

/// What the connection is good for.
async fn check(args: &Args, opener: &impl Opener, report: &mut Report) -> Result<(), Failure> {
    let start = Instant::now();
    let outcome = within("pings", LIMIT, checks::ping(opener, args.pings)).await;
    report.step("ping", start, outcome)?;
    let start = Instant::now();
    let outcome = within("the echo", LIMIT, checks::echo(opener, args.echo)).await;
    report.step("echo", start, outcome)?;
    let start = Instant::now();
    let outcome = within("streams", LIMIT, checks::streams(opener, args.streams)).await;
    report.step("streams", start, outcome)?;
    let start = Instant::now();
    let outcome = within("a refusal", LIMIT, checks::no_such_protocol(opener)).await;
    report.step("no-such-protocol", start, outcome)
}

async fn over_webrtc(args: &Args, key: &Keypair, report: &mut Report) -> Result<(), Failure> {
    let start = Instant::now();
    let connecting = async {
        let dialed = Dialed::connect(args).await?;
        let peer = dialed.prove(key, false).await?;
        is_right(&args.address, peer)?;
        Ok((dialed, peer))
    };
    let connected = within("WebRTC", SETUP_LIMIT, connecting).await;
    let (dialed, _) = split(report, start, connected)?;
    check(args, &dialed, report).await?;
    // Signaling is gone with the WebSocket; the connection is not.
    let start = Instant::now();
    dialed.signaling.abort();
    let outcome = within("pings", LIMIT, checks::ping(&dialed, args.pings)).await;
    report.step("without-websocket", start, outcome)?;
    let start = Instant::now();
    let closed = dialed.connection.close().await;
    report.step(
        "close",
        start,
        closed.map(|()| Value::Null).map_err(Failure::from),
    )
}

/// The node has to refuse who does not own the certificate he claims.
async fn forged(args: &Args, key: &Keypair) -> Result<Value, Failure> {
    let dialed = within("WebRTC", SETUP_LIMIT, Dialed::connect(args)).await?;
    match timeout(LIMIT, dialed.prove(key, true)).await {
        Err(_) => Err("the node neither agrees nor refuses".into()),
        Ok(Ok(peer)) => Err(format!("{peer} believes a forged certificate").into()),
        Ok(Err(error)) => Ok(json!({ "refused": error.to_string() })),
    }
}

/// A peer connection whose handshake channel is open.
struct Dialed {
    connection: Arc<RTCPeerConnection>,
    handshake: std::sync::Mutex<Option<Pipe>>,
    /// What Noise left: as long as it is there, the handshake channel stays open.
    proven: std::sync::Mutex<Option<libp2p_noise::Output<Pipe>>>,
    fingerprints: [Vec<u8>; 2],
    signaling: JoinHandle<()>,
}

impl Dialed {
    async fn connect(args: &Args) -> Result<Self, Failure> {
        let mut socket = Socket::connect(&args.address.url, args.ca.as_deref()).await?;
        let mut call = Call::new(Vec::new()).await?;
        let (sender, events) = channel(MAX_EVENTS);
        call.watch(0, &sender);
        let connection = call.connection().clone();
        connection.on_data_channel(Box::new(|channel| {
            checks::serve(pipe::of_channel(&channel));
            Box::pin(std::future::ready(()))
        }));
        let options = RTCDataChannelInit {
            ordered: Some(true),
            negotiated: Some(0),
            ..RTCDataChannelInit::default()
        };
        let handshake = connection.create_data_channel("", Some(options)).await?;
        let opened = opening(&handshake);
        let handshake = pipe::of_channel(&handshake);
        let offer = call.offer(false).await?;
        let local = fingerprint(&offer)?;
        socket.send(&Frame::Offer(offer)).await?;
        let (told, mut answer) = oneshot::channel();
        let mut signaling = tokio::spawn(async move {
            let outcome = signal(socket, call, events, told).await;
            if let Err(error) = outcome {
                eprintln!("webrtc-rs: signaling ended: {error}");
            }
        });
        let remote = tokio::select! {
            answer = &mut answer => fingerprint(&answer?)?,
            _ = &mut signaling => return Err("signaling ended without an answer".into()),
        };
        opened.await?;
        Ok(Self {
            connection,
            handshake: std::sync::Mutex::new(Some(handshake)),
            proven: std::sync::Mutex::default(),
            fingerprints: [local, remote],
            signaling,
        })
    }

    /// Runs Noise over the handshake channel: the listener begins. Gives who is there.
    async fn prove(&self, key: &Keypair, forged: bool) -> Result<PeerId, Failure> {
        let [local, remote] = &self.fingerprints;
        let mut prologue = PROLOGUE.to_vec();
        prologue.extend_from_slice(&SHA_256);
        prologue.extend_from_slice(local);
        if forged {
            *prologue.last_mut().ok_or("no fingerprint")? ^= 1;
        }
        prologue.extend_from_slice(&SHA_256);
        prologue.extend_from_slice(remote);
        let handshake = lock(&self.handshake).take().ok_or("proven twice")?;
        let noise = libp2p_noise::Config::new(key)?.with_prologue(prologue);
        let (peer, output) = noise.upgrade_inbound(handshake, "/noise").await?;
        *lock(&self.proven) = Some(output);
        Ok(peer)
    }
}

impl Opener for Dialed {
    async fn open(&self) -> Result<Raw, Failure> {
        let channel = self.connection.create_data_channel("", None).await?;
        let opened = opening(&channel);
        let pipe = pipe::of_channel(&channel);
        opened.await?;
        Ok(Box::new(pipe))
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Tells when the channel is open.
fn opening(channel: &Arc<RTCDataChannel>) -> oneshot::Receiver<()> {
    let (sender, opened) = oneshot::channel();
    channel.on_open(Box::new(move || {
        // An error: nobody waits any more, because the dial was given up.
        sender.send(()).ok();
        Box::pin(std::future::ready(()))
    }));
    opened
}

/// Carries signaling as long as there is any.
async fn signal(
    mut socket: Socket,
    mut call: Call,
    mut events: Receiver<Told>,
    told: oneshot::Sender<String>,
) -> Result<(), Failure> {
    let mut told = Some(told);
    loop {
        tokio::select! {
            frame = socket.receive() => match frame? {
                Some(Frame::Answer(sdp)) if sdp.is_empty() => return Err("WebRTC was refused".into()),
                Some(Frame::Answer(sdp)) => {
                    let told = told.take().ok_or("two answers came")?;
                    call.answer(sdp.clone()).await?;
                    // Nobody waits any more when the dial was given up.
                    drop(told.send(sdp));
                }
                Some(Frame::Candidate { candidate, .. }) if candidate.is_empty() => {}
                Some(Frame::Candidate { candidate, mid, index }) => {
                    call.candidate(candidate, mid, index).await?;
                }
                Some(Frame::Ping(payload)) => socket.send(&Frame::Pong(payload)).await?,
                Some(Frame::Close { .. }) | None => return Ok(()),
                Some(other) => return Err(format!("{other:?} came out of turn").into()),
            },
            told = events.recv() => {
                if let Some((_, CallEvent::Candidate(candidate))) = told {
                    let candidate = candidate.unwrap_or_default();
                    socket.send(&Frame::Candidate {
                        candidate: candidate.candidate,
                        mid: candidate.sdp_mid.unwrap_or_default(),
                        index: candidate.sdp_mline_index.unwrap_or_default(),
                    })
                    .await?;
                }
            }
        }
    }
}

/// The SHA-256 of the certificate that a description names; webrtc-rs holds the other end to it.
fn fingerprint(sdp: &str) -> Result<Vec<u8>, Failure> {
    let line = sdp
        .lines()
        .find_map(|line| line.strip_prefix("a=fingerprint:sha-256 "))
        .ok_or("a description without a SHA-256 fingerprint")?;
    let bytes = line
        .trim()
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16));
    let bytes = bytes.collect::<Result<Vec<_>, _>>()?;
    match bytes.len() {
        32 => Ok(bytes),
        other => Err(format!("a fingerprint of {other} bytes").into()),
    }
}
