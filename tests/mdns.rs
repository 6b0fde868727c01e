//! Candidates that hide their address behind a name of multicast DNS, as those of browsers do, between two hosts: the name is
//! asked for on the cable between them, and another program on the other host answers.
#![cfg(feature = "gateway")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod network_namespace;
mod websocket_proxy;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use futures::{
    AsyncReadExt as _, AsyncWriteExt as _, Sink, SinkExt as _, Stream, StreamExt as _, future, io,
};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, identity::Keypair, swarm::SwarmEvent,
};
use libp2p_rtc::{
    CallConfig, Caller,
    socketpipe::{Frame, FrameLimits, IceCandidate, decode_message, encode_message},
    websocket::{Config, Path, Paths, Transport},
};
use network_namespace::{Other, enter, ip, other_role, tell, wait_for_order};
use socket2::{Domain, Socket, Type};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::watch,
};
use tokio_tungstenite::tungstenite::{self, Message};

const TEST: &str = "a_name_that_a_program_of_the_other_host_answers_for_leads_there";
const LABEL: &[u8] = b"768527e2-58b4-45e7-8822-d3e36f19e808";
const ECHO: StreamProtocol = StreamProtocol::new("/echo/1.0.0");
const PATIENCE: Duration = Duration::from_secs(60);

/// Addresses for documentation (RFC 5737).
const NEAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// RFC 6762 section 3.
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const PORT: u16 = 5353;

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("took too long")
}

/// A node that tries WebRTC often. An attempt is longer than a name is asked for.
fn node() -> (Swarm<libp2p_stream::Behaviour>, Paths) {
    let key = Keypair::generate_ed25519();
    let config = Config::new(&key)
        .with_caller(Caller::new(CallConfig::new()))
        .with_fallback_after(Duration::from_millis(300))
        .with_webrtc_timeout(Duration::from_secs(4))
        .with_retry_after(Duration::from_millis(300));
    let transport = Transport::new(config);
    let paths = transport.paths();
    let swarm = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_other_transport(|_| transport)
        .unwrap()
        .with_behaviour(|_| libp2p_stream::Behaviour::new())
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
        .build();
    (swarm, paths)
}

/// Polls a swarm for ever.
async fn drive(mut swarm: Swarm<libp2p_stream::Behaviour>) {
    loop {
        swarm.select_next_some().await;
    }
}

/// The other host: a node with an echo.
async fn be_far() {
    wait_for_order();
    ip(&format!("address add {FAR}/24 dev far0"));
    ip("link set far0 up");
    let (mut swarm, _) = node();
    let mut streams = swarm.behaviour().new_control().accept(ECHO).unwrap();
    let addr = format!("/ip4/{FAR}/tcp/0/ws/webrtc");
    swarm.listen_on(addr.parse().unwrap()).unwrap();
    loop {
        tokio::select! {
            event = swarm.select_next_some() => if let SwarmEvent::NewListenAddr { address, .. } = event {
                tell(&format!("listening {address}"));
            },
            Some((_, stream)) = streams.next() => {
                tokio::spawn(async move {
                    let (reader, mut writer) = stream.split();
                    io::copy(reader, &mut writer).await.ok();
                });
            }
        }
    }
}

/// Beside it: answers for the name, as the process of a browser does.
async fn be_answering() {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_nonblocking(true).unwrap();
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
    socket.bind(&any.into()).unwrap();
    socket.join_multicast_v4(&GROUP, &FAR).unwrap();
    socket.set_multicast_if_v4(&FAR).unwrap();
    let socket = UdpSocket::from_std(socket.into()).unwrap();
    wait_for_order();
    tell("answering");
    let mut name = vec![u8::try_from(LABEL.len()).unwrap()];
    name.extend(LABEL);
    name.extend(b"\x05local\0");
    // A response with one answer: the name, type A, class IN and "replaces others", 120 s, four bytes.
    let mut answer = vec![0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    answer.extend(&name);
    answer.extend([0, 1, 0x80, 1, 0, 0, 0, 120, 0, 4]);
    answer.extend(FAR.octets());
    let mut buffer = [0; 1500];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        let question = &buffer[..length];
        let is_query = question.get(2).is_some_and(|flags| flags & 0x80 == 0);
        if is_query && question.windows(name.len()).any(|part| part == name) {
            assert_eq!(from.ip(), IpAddr::V4(NEAR));
            socket.send_to(&answer, (GROUP, PORT)).await.unwrap();
        }
    }
}

/// The signaling between the nodes: the near one is told a name in place of the far one's address, and the far one is told
/// nothing, so that there is no other way than by that name. Gives its address, and how often something was offered there.
async fn hide(far: SocketAddr) -> (Multiaddr, watch::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (counter, offers) = watch::channel(0);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let near = websocket_proxy::accept(stream).await.unwrap();
            let far = websocket_proxy::websocket(far).await;
            let counter = counter.clone();
            tokio::spawn(async move {
                let ((to_near, from_near), (to_far, from_far)) = (near.split(), far.split());
                let up = pass(from_near, to_far, |frame| {
                    let is_offer = matches!(frame, Frame::WebRtcOffer(_));
                    counter.send_modify(|offers| *offers += usize::from(is_offer));
                    without(&frame, |_| None)
                });
                let down = pass(from_far, to_near, |frame| without(&frame, named));
                future::join(up, down).await;
            });
        }
    });
    let addr = format!("/ip4/127.0.0.1/tcp/{port}/ws/webrtc");
    (addr.parse().unwrap(), offers)
}

async fn pass(
    mut from: impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin,
    mut to: impl Sink<Message> + Unpin,
    change: impl Fn(Frame) -> Option<Frame>,
) {
    while let Some(Ok(message)) = from.next().await {
        let message = match message {
            Message::Binary(bytes) => {
                let frame = decode_message(bytes, &FrameLimits::default()).unwrap();
                match change(frame) {
                    Some(frame) => Message::Binary(encode_message(&frame).unwrap()),
                    None => continue,
                }
            }
            other => other,
        };
        if to.send(message).await.is_err() {
            return;
        }
    }
}

/// The candidate by name, if it is of the far host.
fn named(candidate: &str) -> Option<String> {
    let address = format!(" {FAR} ");
    let name = format!(" {}.local ", std::str::from_utf8(LABEL).unwrap());
    candidate
        .contains(&address)
        .then(|| candidate.replace(&address, &name))
}

/// A frame whose candidates are what this makes of them. `None` is for one that has nothing else.
fn without(frame: &Frame, change: impl Fn(&str) -> Option<String>) -> Option<Frame> {
    let description = |sdp: &str| -> String {
        let lines = sdp
            .lines()
            .filter_map(|line| match line.starts_with("a=candidate:") {
                true => change(line),
                false => Some(line.to_owned()),
            });
        lines.map(|line| format!("{line}\r\n")).collect()
    };
    Some(match frame {
        Frame::WebRtcOffer(sdp) => Frame::WebRtcOffer(description(sdp)),
        Frame::WebRtcAnswer(sdp) => Frame::WebRtcAnswer(description(sdp)),
        Frame::IceCandidate(candidate) if !candidate.candidate.is_empty() => {
            Frame::IceCandidate(IceCandidate {
                candidate: change(&candidate.candidate)?,
                ..candidate.clone()
            })
        }
        other => other.clone(),
    })
}

/// Waits until the only connection goes a way like this.
async fn goes(paths: &mut Paths, wanted: impl Fn(Path) -> bool) -> Path {
    soon(async {
        loop {
            let found = paths.all().into_iter().find(|known| wanted(known.path));
            match found {
                Some(known) => return known.path,
                None => paths.changed().await,
            }
        }
    })
    .await
}

async fn connected(swarm: &mut Swarm<libp2p_stream::Behaviour>) -> PeerId {
    loop {
        match soon(swarm.select_next_some()).await {
            SwarmEvent::ConnectionEstablished { peer_id, .. } => return peer_id,
            SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error:?}"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_a_program_of_the_other_host_answers_for_leads_there() {
    if !enter(TEST) {
        return;
    }
    match other_role().as_deref() {
        Some("far") => return be_far().await,
        Some(_) => return be_answering().await,
        None => {}
    }
    ip("link add near0 type veth peer name far0");
    ip(&format!("address add {NEAR}/24 dev near0"));
    ip("link set near0 up");
    let mut far = Other::in_new_namespace(TEST, "far");
    far.line("running");
    far.take_interface("far0");
    far.order();
    let addr: Multiaddr = far.line("listening ").parse().unwrap();
    let (hidden, mut offers) = hide(websocket_proxy::socket_of(&addr)).await;
    let (mut swarm, mut paths) = node();
    swarm.dial(hidden).unwrap();
    let peer = connected(&mut swarm).await;
    let mut control = swarm.behaviour().new_control();
    tokio::spawn(drive(swarm));
    // Nobody answers: an attempt fails, and another one begins.
    soon(offers.wait_for(|offers| *offers >= 2)).await.unwrap();
    assert_eq!(paths.of(&peer), [Path::WebSocket]);
    let mut answering = far.beside(TEST, "answering");
    answering.order();
    answering.line("answering");
    let path = goes(&mut paths, |path| path != Path::WebSocket).await;
    let Path::WebRtc { remote, relayed } = path else {
        panic!("{path}");
    };
    assert_eq!((remote.ip(), relayed), (IpAddr::V4(FAR), false));
    let mut stream = soon(control.open_stream(peer, ECHO)).await.unwrap();
    let sent = vec![7; 20_000];
    stream.write_all(&sent).await.unwrap();
    stream.flush().await.unwrap();
    let mut back = vec![0; sent.len()];
    soon(stream.read_exact(&mut back)).await.unwrap();
    assert!(back == sent);
}
