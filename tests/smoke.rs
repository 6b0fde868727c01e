//! Many connections with many streams each, as chance has it: every byte comes back.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{DIAL, LOOPBACK, Node, accept, close, open, soon};
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p_core::{Multiaddr, StreamMuxer as _};
use libp2p_identity::PeerId;
use libp2p_rtc::{Connection, Stream};
use proptest::{
    collection::vec,
    prelude::{Strategy, any},
    test_runner::{Config, RngSeed, TestRunner},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use std::{future::poll_fn, pin::Pin};
use tokio::task::JoinSet;

const LOOPBACK_V6: &str = "/ip6/::1/udp/0/webrtc-direct";

/// One listener, and what is sent to it.
#[derive(Clone, Debug)]
struct Target {
    ipv6: bool,
    /// The length of the message on each stream.
    messages: Vec<usize>,
}

fn targets() -> impl Strategy<Value = Vec<Target>> {
    let target = (any::<bool>(), vec(1..=64 * 1024_usize, 1..=8))
        .prop_map(|(ipv6, messages)| Target { ipv6, messages });
    vec(target, 1..=4)
}

/// The seed is drawn anew for every run and named when the test fails; `PROPTEST_RNG_SEED` sets it.
#[test]
fn every_byte_comes_back_on_every_stream_of_every_connection() {
    let default = Config::default();
    let seed = match default.rng_seed {
        RngSeed::Random => rand::random(),
        RngSeed::Fixed(seed) => seed,
    };
    let mut runner = TestRunner::new(Config {
        cases: 6,
        // A case that fails may take as long as a time limit.
        max_shrink_iters: 4,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        ..default
    });
    let has_ipv6 = std::net::UdpSocket::bind("[::1]:0").is_ok();
    if !has_ipv6 {
        eprintln!("IPv4 only: this machine has no IPv6");
    }
    let result = runner.run(&targets(), |mut targets| {
        for target in &mut targets {
            target.ipv6 &= has_ipv6;
        }
        tokio::runtime::Runtime::new()
            .unwrap()
            .block_on(soon(run(targets)));
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}\nrun again with PROPTEST_RNG_SEED={seed}");
    }
}

/// One dialer, connected to all targets at the same time.
async fn run(targets: Vec<Target>) {
    let mut dialer = Node::new();
    let (mut listeners, mut dialers) = (JoinSet::new(), JoinSet::new());
    for (number, target) in targets.into_iter().enumerate() {
        let mut listener = Node::new();
        let addr = if target.ipv6 { LOOPBACK_V6 } else { LOOPBACK };
        let (_, addr) = listener.listen(addr).await;
        let dialing = dialer.dial(&addr, DIAL);
        let peer = listener.peer;
        listeners.spawn(serve(listener, dialer.peer, target.messages.len()));
        dialers.spawn(async move {
            let (actual, connection) = dialing.await.unwrap();
            assert_eq!(actual, peer);
            talk(connection, number, target.messages).await;
        });
    }
    finish(dialers).await;
    finish(listeners).await;
}

/// Waits for all tasks; a panic in one of them goes on in the test.
async fn finish(mut tasks: JoinSet<()>) {
    while let Some(result) = tasks.join_next().await {
        if let Err(error) = result {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// Echoes the streams of one connection until the dialer closes it.
async fn serve(mut listener: Node, dialer: PeerId, streams: usize) {
    let (connecting, _): (_, Multiaddr) = listener.incoming().await;
    let (peer, mut connection) = connecting.await.unwrap();
    assert_eq!(peer, dialer);
    let mut echoes = JoinSet::new();
    for _ in 0..streams {
        echoes.spawn(echo(accept(&mut connection).await));
    }
    let end = poll_fn(|cx| Pin::new(&mut connection).poll_inbound(cx))
        .await
        .expect_err("the dialer opens no stream besides");
    assert!(end.is_remote(), "{end:?}");
    finish(echoes).await;
}

/// Sends back what comes as it comes, and the end after its end.
async fn echo(mut stream: Stream) {
    let mut buffer = [0; 5000];
    loop {
        let len = stream.read(&mut buffer).await.unwrap();
        if len == 0 {
            break;
        }
        stream.write_all(&buffer[..len]).await.unwrap();
    }
    stream.close().await.unwrap();
}

/// Opens a stream for each message and compares what comes back.
async fn talk(mut connection: Connection, target: usize, messages: Vec<usize>) {
    let mut exchanges = JoinSet::new();
    for (number, len) in messages.into_iter().enumerate() {
        let stream = open(&mut connection).await;
        exchanges.spawn(exchange(stream, message(target, number, len)));
    }
    finish(exchanges).await;
    close(connection).await;
}

async fn exchange(mut stream: Stream, sent: Vec<u8>) {
    stream.write_all(&sent).await.unwrap();
    stream.close().await.unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    let same = sent.iter().zip(&got).take_while(|(a, b)| a == b).count();
    assert!(
        got == sent,
        "sent {}, got {} bytes, of which {same} were right",
        sent.len(),
        got.len()
    );
}

/// Bytes that no other stream carries.
fn message(target: usize, number: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64((target * 8 + number) as u64).fill_bytes(&mut bytes);
    bytes
}
