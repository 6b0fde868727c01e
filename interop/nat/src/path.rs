//! `nat-lab path`: a path with delay and loss between two network namespaces.
//!
//! The kernel of a test machine may have no netem. So two TUN devices are made here, which whoever calls moves into the
//! namespaces it wants; the open descriptors stay with this process, which carries whole IP packets from one to the other.
//! TCP and UDP thus lose real packets, and the kernel's TCP repairs what it loses as it does on any network.
//!
//! One thread reads a device and throws packets away as chance has it, one writes the others when their time has come: timers
//! of an async runtime have a millisecond of grain, `sleep` has a twentieth of it.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tappers::{Interface, Tun};
use tokio::signal::unix::{SignalKind, signal};

use crate::{Failure, print};

/// Packets on their way in one direction: at 20 ms as much as 12 MiB of full packets, far above what is sent here.
const MAX_ON_THE_WAY: usize = 8192;
/// The largest packet of a TUN device.
const MAX_PACKET: usize = 65_535;

/// Options of `path`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of one device.
    left: String,
    /// Name of the other.
    right: String,
    /// Milliseconds that a packet takes in one direction.
    #[arg(long, default_value_t = 20.0)]
    delay: f64,
    /// Packets that are lost of a hundred, in each direction, by chance and one by one.
    #[arg(long, default_value_t = 2.0)]
    loss: f64,
    /// What chance begins with; printed, so that a run can be repeated.
    #[arg(long)]
    seed: Option<u64>,
}

/// Packets of one direction.
#[derive(Debug, Default)]
struct Counters {
    carried: AtomicU64,
    lost: AtomicU64,
    /// Thrown away because too many were on their way.
    overflowed: AtomicU64,
}

impl Counters {
    fn told(&self) -> Value {
        json!({
            "carried": self.carried.load(Ordering::Relaxed),
            "lost": self.lost.load(Ordering::Relaxed),
            "overflowed": self.overflowed.load(Ordering::Relaxed),
        })
    }
}

/// A packet and when it arrives.
type Late = (Instant, Vec<u8>);

/// What happens to the packets of one direction.
struct Fate {
    delay: Duration,
    /// Of one.
    loss: f64,
    chance: StdRng,
}

impl Fate {
    /// When a packet that leaves now arrives, if it does.
    fn arrival(&mut self, now: Instant) -> Option<Instant> {
        let lost = self.chance.random_bool(self.loss);
        (!lost).then(|| now + self.delay)
    }
}

/// Makes the devices, says so, and carries packets until SIGTERM or SIGINT. Gives the counters.
pub(crate) async fn run(args: Args) -> Result<Value, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    if !(0.0..=100.0).contains(&args.loss) {
        return Err("--loss is of a hundred".into());
    }
    let delay = Duration::try_from_secs_f64(args.delay / 1000.0)?;
    let seed = args
        .seed
        .unwrap_or_else(|| RandomState::new().build_hasher().finish());
    let (left, right) = (device(&args.left)?, device(&args.right)?);
    let fate = |stream| Fate {
        delay,
        loss: args.loss / 100.0,
        chance: StdRng::seed_from_u64(seed ^ stream),
    };
    let forth = carry(left.clone(), right.clone(), fate(0));
    let back = carry(right, left, fate(1));
    print(
        &json!({ "event": "ready", "seed": seed, "delay_ms": args.delay, "loss_percent": args.loss }),
    );
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(json!({ "left_to_right": forth.told(), "right_to_left": back.told() }))
}

fn device(name: &str) -> Result<Arc<Tun>, Failure> {
    let device = Tun::new_named(Interface::new(name)?)
        .map_err(|error| format!("cannot make the TUN device {name}: {error}"))?;
    Ok(Arc::new(device))
}

/// Starts the two threads of one direction. They end with the process.
fn carry(from: Arc<Tun>, to: Arc<Tun>, fate: Fate) -> Arc<Counters> {
    let counters = Arc::new(Counters::default());
    let (sender, receiver) = sync_channel(MAX_ON_THE_WAY);
    let counted = counters.clone();
    thread::spawn(move || end(take(&from, fate, &sender, &counted)));
    let counted = counters.clone();
    thread::spawn(move || end(give(&to, &receiver, &counted)));
    counters
}

/// A path that does not carry must not look like one that loses.
fn end(outcome: io::Result<()>) {
    if let Err(error) = outcome {
        eprintln!("nat-lab: a device failed: {error}");
        std::process::exit(1);
    }
}

/// Whether a device cannot be used just now, because it is being moved or is not up.
fn is_not_up(error: &io::Error) -> bool {
    // EIO on writing, EBADFD on reading; the latter has no name in the standard library.
    const EIO: i32 = 5;
    const EBADFD: i32 = 77;
    matches!(error.raw_os_error(), Some(EIO | EBADFD))
}

/// Takes packets off a device.
fn take(
    from: &Tun,
    mut fate: Fate,
    sender: &SyncSender<Late>,
    counters: &Counters,
) -> io::Result<()> {
    let mut buffer = vec![0; MAX_PACKET];
    loop {
        let count = match from.recv(&mut buffer) {
            Ok(count) => count,
            Err(error) if is_not_up(&error) || error.kind() == io::ErrorKind::Interrupted => {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some(arrival) = fate.arrival(Instant::now()) else {
            counters.lost.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        match sender.try_send((arrival, buffer[..count].to_vec())) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                counters.overflowed.fetch_add(1, Ordering::Relaxed);
            }
            Err(TrySendError::Disconnected(_)) => return Ok(()),
        }
    }
}

/// Puts packets onto a device when their time has come.
fn give(to: &Tun, receiver: &Receiver<Late>, counters: &Counters) -> io::Result<()> {
    while let Ok((arrival, packet)) = receiver.recv() {
        if let Some(early) = arrival.checked_duration_since(Instant::now()) {
            thread::sleep(early);
        }
        match to.send(&packet) {
            Ok(_) => {
                counters.carried.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if is_not_up(&error) => {
                counters.lost.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_packets_are_lost_as_was_asked_for_each_by_itself() {
        let (delay, count) = (Duration::from_millis(20), 100_000);
        let mut fate = Fate {
            delay,
            loss: 0.02,
            chance: StdRng::seed_from_u64(1),
        };
        let now = Instant::now();
        let fates: Vec<_> = (0..count).map(|_| fate.arrival(now)).collect();
        let lost = fates.iter().filter(|arrival| arrival.is_none()).count();
        assert!((1_800..2_200).contains(&lost), "{lost}");
        assert!(
            fates
                .iter()
                .flatten()
                .all(|arrival| *arrival == now + delay)
        );
        // Independent: two neighbours are lost as often as chance has it, 40 times in 100,000.
        let pairs = fates
            .windows(2)
            .filter(|pair| pair == &[None, None])
            .count();
        assert!((10..80).contains(&pairs), "{pairs}");
    }
}
