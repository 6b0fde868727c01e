//! What a key press costs.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm, multiaddr::Protocol, swarm::SwarmEvent,
};
use libp2p_rtc::socketpipe::{
    Access, Gate, Policy, PtyDefault, RemoteSession, Server, SessionOptions, ShellConfig,
    session::{Mode, ServerConfig},
};

use crate::{Behaviour, median, percentile, swarm};

const ECHO: StreamProtocol = StreamProtocol::new("/gateway-figures/echo");
/// Round trips before any is counted.
const WARM_UP: usize = 50;
/// Round trips of each kind that are counted.
const ROUNDS: usize = 500;
/// A key press may cost so many round trips of the bare stream.
const BOUND: f64 = 2.0;

pub(crate) async fn run() -> Result<bool, Box<dyn Error>> {
    let (peer, address, allow) = serve().await?;
    let client = swarm()?;
    allow.allow_peer(*client.local_peer_id());
    let mut streams = client.behaviour().stream.new_control();
    let control = client.behaviour().socketpipe.control();
    tokio::spawn(drive(client));
    let options = SessionOptions::new(Mode::Pty);
    let mut session = control.open_at(peer, vec![address], options).await?;
    let mut bare = streams.open_stream(peer, ECHO).await?;
    let (mut keys, mut plain) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + ROUNDS {
        let (key, other) = (press(&mut session).await?, bounce(&mut bare).await?);
        if round >= WARM_UP {
            keys.push(key);
            plain.push(other);
        }
    }
    let (key, bare) = (median(&mut keys), median(&mut plain));
    let ratio = key / bare;
    println!(
        "{{\"figure\":\"key_echo\",\"key_ms\":{key:.3},\"key_p99_ms\":{:.3},\"bare_64_bytes_ms\":{bare:.3},\
         \"ratio\":{ratio:.2},\"bound\":{BOUND},\"ok\":{}}}",
        percentile(&mut keys, 99),
        ratio <= BOUND
    );
    Ok(ratio <= BOUND)
}

/// A node that echoes on a bare stream and in a terminal: `cat`, whose terminal echoes what is typed.
async fn serve() -> Result<(PeerId, Multiaddr, Access), Box<dyn Error>> {
    let mut node = swarm()?;
    let peer = *node.local_peer_id();
    node.listen_on("/ip4/127.0.0.1/udp/0/webrtc-direct".parse()?)?;
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = node.select_next_some().await {
            break address.with(Protocol::P2p(peer));
        }
    };
    let access = Access::new(Policy::Peers, Policy::Peers);
    let mut gate = Gate::new(access.clone());
    gate.pty.default = Some(PtyDefault::Shell(ShellConfig::new().program("cat")));
    let server = Server::new(ServerConfig::default(), gate);
    let incoming = node
        .behaviour()
        .socketpipe
        .control()
        .accept()
        .ok_or("accepted twice")?;
    tokio::spawn(incoming.serve(server));
    let mut echoes = node.behaviour().stream.new_control().accept(ECHO)?;
    tokio::spawn(async move {
        while let Some((_, stream)) = echoes.next().await {
            tokio::spawn(echo(stream));
        }
    });
    tokio::spawn(drive(node));
    Ok((peer, address, access))
}

async fn drive(mut swarm: Swarm<Behaviour>) {
    loop {
        swarm.select_next_some().await;
    }
}

async fn echo(mut stream: Stream) -> std::io::Result<()> {
    let mut bytes = [0; 64];
    loop {
        stream.read_exact(&mut bytes).await?;
        stream.write_all(&bytes).await?;
        stream.flush().await?;
    }
}

/// One key there and back.
#[expect(clippy::disallowed_methods, reason = "real time is measured")]
async fn press(session: &mut RemoteSession) -> Result<Duration, Box<dyn Error>> {
    let start = Instant::now();
    session.write_all(b"x").await?;
    session.flush().await?;
    session.read_exact(&mut [0]).await?;
    Ok(start.elapsed())
}

/// 64 bytes there and back.
#[expect(clippy::disallowed_methods, reason = "real time is measured")]
async fn bounce(stream: &mut Stream) -> Result<Duration, Box<dyn Error>> {
    let start = Instant::now();
    stream.write_all(&[7; 64]).await?;
    stream.flush().await?;
    stream.read_exact(&mut [0; 64]).await?;
    Ok(start.elapsed())
}
