//! A lossy path: a UDP forwarder for one dialer that drops one datagram in a hundred each way.
//!
//! Two threads copy datagrams between the socket the dialer sends to and the socket that talks to
//! the listener. No delay and no reordering is added. What the kernel drops on top is reported.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use socket2::SockRef;

use crate::{Failure, proc, rng::SplitMix};

/// One datagram in this many is dropped.
const DROP_ONE_IN: u64 = 100;
/// Asked of the kernel for each socket, so that only the generator drops.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// How often a thread looks whether it should end.
const POLL: Duration = Duration::from_millis(100);
/// Larger than any UDP payload.
const DATAGRAM: usize = 65_536;

/// What both threads share.
#[derive(Default)]
struct State {
    stop: AtomicBool,
    forwarded: AtomicU64,
    dropped: AtomicU64,
    dialer: Mutex<Option<SocketAddr>>,
}

/// A running forwarder; dropping it ends its threads.
pub struct Forwarder {
    state: Arc<State>,
    ports: [u16; 2],
    threads: Vec<JoinHandle<()>>,
}

/// What a forwarder did.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Datagrams passed on.
    pub forwarded: u64,
    /// Datagrams dropped on purpose.
    pub dropped: u64,
    /// Datagrams the kernel dropped at the forwarder's sockets.
    pub overflowed: u64,
}

impl Forwarder {
    /// Starts forwarding to the listener at `port` of the loopback interface.
    pub fn start(port: u16, seed: u64) -> Result<Self, Failure> {
        let front = Arc::new(socket()?);
        let back = Arc::new(socket()?);
        back.connect((Ipv4Addr::LOCALHOST, port))?;
        let ports = [front.local_addr()?.port(), back.local_addr()?.port()];
        let state = Arc::new(State::default());
        let there = {
            let (state, front, back) = (state.clone(), front.clone(), back.clone());
            thread::spawn(move || copy_to_listener(&state, &front, &back, SplitMix::new(seed)))
        };
        let here = {
            let state = state.clone();
            thread::spawn(move || copy_to_dialer(&state, &back, &front, SplitMix::new(!seed)))
        };
        Ok(Self {
            state,
            ports,
            threads: vec![there, here],
        })
    }

    /// The port a dialer must send to.
    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    /// What it did so far.
    pub fn report(&self) -> Result<Report, Failure> {
        Ok(Report {
            forwarded: self.state.forwarded.load(Ordering::Relaxed),
            dropped: self.state.dropped.load(Ordering::Relaxed),
            overflowed: proc::udp_drops(self.ports[0])? + proc::udp_drops(self.ports[1])?,
        })
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panicked copier has already shown itself as a dead path.
            drop(thread.join());
        }
    }
}

/// A loopback socket with large buffers and a read time-out.
fn socket() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(POLL))?;
    SockRef::from(&socket).set_recv_buffer_size(SOCKET_BUFFER)?;
    SockRef::from(&socket).set_send_buffer_size(SOCKET_BUFFER)?;
    Ok(socket)
}

/// Copies what dialers send to the listener.
fn copy_to_listener(state: &State, front: &UdpSocket, back: &UdpSocket, mut rng: SplitMix) {
    let mut buffer = vec![0; DATAGRAM];
    while !state.stop.load(Ordering::Relaxed) {
        let Ok((n, from)) = front.recv_from(&mut buffer) else {
            continue;
        };
        *state.dialer.lock().unwrap_or_else(PoisonError::into_inner) = Some(from);
        pass(state, &mut rng, || back.send(&buffer[..n]));
    }
}

/// Copies what the listener sends to the dialer seen last.
fn copy_to_dialer(state: &State, back: &UdpSocket, front: &UdpSocket, mut rng: SplitMix) {
    let mut buffer = vec![0; DATAGRAM];
    while !state.stop.load(Ordering::Relaxed) {
        let Ok(n) = back.recv(&mut buffer) else {
            continue;
        };
        let dialer = *state.dialer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dialer) = dialer {
            pass(state, &mut rng, || front.send_to(&buffer[..n], dialer));
        }
    }
}

/// Sends a datagram or drops it, and counts which.
fn pass(state: &State, rng: &mut SplitMix, send: impl FnOnce() -> io::Result<usize>) {
    let counter = if rng.one_in(DROP_ONE_IN) {
        &state.dropped
    } else {
        // A refused datagram is lost like any other.
        drop(send());
        &state.forwarded
    };
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_datagrams_both_ways() {
        let listener = socket().unwrap();
        let forwarder = Forwarder::start(listener.local_addr().unwrap().port(), 3).unwrap();
        let dialer = socket().unwrap();
        dialer
            .connect((Ipv4Addr::LOCALHOST, forwarder.port()))
            .unwrap();
        let mut buffer = [0; 16];
        // The seed drops none of the first datagrams.
        dialer.send(b"there").unwrap();
        let (n, from) = listener.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"there");
        listener.send_to(b"back", from).unwrap();
        let n = dialer.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"back");
        assert_eq!(forwarder.report().unwrap().overflowed, 0);
    }
}
