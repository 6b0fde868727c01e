//! Paths that change, are lost and come back, over forwarders that stand for a network.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::net::UdpSocket;

use super::*;

/// Forwards datagrams to the addresses of candidates, as long as it is open. Each candidate gets an address of the
/// forwarder's in place of its own, so nothing goes past it.
#[derive(Default)]
pub(super) struct Network {
    /// Whether the forwarders that are made now pass anything on.
    open: Mutex<Arc<AtomicBool>>,
    /// What stands for an address.
    stand_ins: Mutex<HashMap<SocketAddr, SocketAddr>>,
}

impl Network {
    pub(super) fn new() -> Arc<Self> {
        let network = Self::default();
        network.set_open(true);
        Arc::new(network)
    }

    fn set_open(&self, open: bool) {
        self.open.lock().unwrap().store(open, Ordering::Relaxed);
    }

    /// The forwarders there are stay as they are for ever; candidates get new ones from now on.
    fn renew(&self) {
        *self.open.lock().unwrap() = Arc::new(AtomicBool::new(true));
        self.stand_ins.lock().unwrap().clear();
    }

    /// An address whose datagrams are passed on to `target`, each sender by a socket of its own as a NAT has it.
    pub(super) fn stand_in(&self, target: SocketAddr) -> SocketAddr {
        let mut known = self.stand_ins.lock().unwrap();
        *known.entry(target).or_insert_with(|| {
            let socket = std::net::UdpSocket::bind((LOOPBACK, 0)).unwrap();
            socket.set_nonblocking(true).unwrap();
            let address = socket.local_addr().unwrap();
            let socket = Arc::new(UdpSocket::from_std(socket).unwrap());
            let open = Arc::clone(&self.open.lock().unwrap());
            tokio::spawn(forward(socket, target, open));
            address
        })
    }

    fn tamper(self: &Arc<Self>) -> Tamper {
        let network = Arc::clone(self);
        Arc::new(move |signal| {
            Some(match signal {
                Signal::Offer(text) => Signal::Offer(network.rewrite(&text)),
                Signal::Answer(text) => Signal::Answer(network.rewrite(&text)),
                Signal::Candidate {
                    candidate,
                    mid,
                    index,
                } => Signal::Candidate {
                    candidate: network.replace(&candidate),
                    mid,
                    index,
                },
                other => other,
            })
        })
    }

    fn rewrite(&self, text: &str) -> String {
        let change = |line: &str| match line.strip_prefix("a=") {
            Some(candidate) if candidate.starts_with("candidate:") => {
                format!("a={}", self.replace(candidate))
            }
            _ => line.to_owned(),
        };
        text.lines().map(|line| change(line) + "\r\n").collect()
    }

    fn replace(&self, text: &str) -> String {
        let mut candidate = Candidate::parse(text).unwrap();
        let stand_in = self.stand_in(candidate.address().unwrap());
        candidate = candidate.resolved(stand_in.ip());
        candidate.port = stand_in.port();
        candidate.to_string()
    }
}

/// Passes datagrams of `socket` on to `target`, and back.
async fn forward(socket: Arc<UdpSocket>, target: SocketAddr, open: Arc<AtomicBool>) {
    let mut ways: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut buffer = [0; 2048];
    while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
        let way = match ways.get(&from) {
            Some(way) => Arc::clone(way),
            None => {
                let way = Arc::new(UdpSocket::bind((LOOPBACK, 0)).await.unwrap());
                way.connect(target).await.unwrap();
                ways.insert(from, Arc::clone(&way));
                let back = (Arc::clone(&socket), Arc::clone(&way), Arc::clone(&open));
                tokio::spawn(async move {
                    let (socket, way, open) = back;
                    let mut buffer = [0; 2048];
                    // Ports close at the end of a test.
                    while let Ok(len) = way.recv(&mut buffer).await {
                        if open.load(Ordering::Relaxed) {
                            socket.send_to(&buffer[..len], from).await.ok();
                        }
                    }
                });
                way
            }
        };
        if open.load(Ordering::Relaxed) {
            way.send(&buffer[..len]).await.ok();
        }
    }
}

async fn over(network: &Arc<Network>) -> ([End; 2], [MessageChannel; 2]) {
    let (a, b) = (Caller::new(config()), Caller::new(config()));
    let tampers = [network.tamper(), network.tamper()];
    let applications = [messages(true), messages(false)];
    let mut ends = connect(&a, &b, applications, tampers).await;
    let channels = [ends[0].channel().await, ends[1].channel().await];
    (ends, channels)
}

pub(super) async fn lost(end: &mut End) {
    end.until(|event| match event {
        CallEvent::PathLost => Ok(()),
        other => Err(other),
    })
    .await;
}

pub(super) async fn exchange([one, two]: &mut [MessageChannel; 2], text: &'static [u8]) {
    within(one.send(Bytes::from_static(text))).await.unwrap();
    assert_eq!(&within(two.next()).await.unwrap().unwrap()[..], text);
    within(two.send(Bytes::from_static(text))).await.unwrap();
    assert_eq!(&within(one.next()).await.unwrap().unwrap()[..], text);
}

#[tokio::test]
async fn a_path_that_is_cut_is_lost_and_comes_back_by_itself() {
    let network = Network::new();
    let (mut ends, mut channels) = over(&network).await;
    exchange(&mut channels, b"before").await;
    network.set_open(false);
    lost(&mut ends[0]).await;
    lost(&mut ends[1]).await;
    within(channels[0].send(Bytes::from_static(b"in between")))
        .await
        .unwrap();
    network.set_open(true);
    for end in &mut ends {
        end.path().await;
    }
    let between = within(channels[1].next()).await.unwrap().unwrap();
    assert_eq!(&between[..], b"in between");
    exchange(&mut channels, b"after").await;
}

#[tokio::test]
async fn a_restart_finds_another_path_where_the_old_one_is_gone() {
    let network = Network::new();
    let (mut ends, mut channels) = over(&network).await;
    exchange(&mut channels, b"before").await;
    let (old, _) = ends[0].path_so_far().expect("there is one");
    network.set_open(false);
    lost(&mut ends[0]).await;
    within(channels[1].send(Bytes::from_static(b"in between")))
        .await
        .unwrap();
    network.renew();
    ends[0].restart().await;
    let (new, relayed) = ends[0].path().await;
    assert!(new != old && !relayed, "{old} {new}");
    let between = within(channels[0].next()).await.unwrap().unwrap();
    assert_eq!(&between[..], b"in between");
    exchange(&mut channels, b"after").await;
}
