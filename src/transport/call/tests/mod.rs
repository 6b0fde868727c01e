//! Calls over real sockets on loopback; signals travel in memory.

mod coturn;
mod hidden;
mod hostile;
mod lifecycle;
mod loopback;
mod paths;
mod servers;

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::future::{Either, select};
use libp2p_identity::Keypair;
use tokio::{sync::mpsc, time::timeout};

use super::{Application, Call, CallConfig, CallEvent, Caller, MessageChannel, Signal};
use crate::{
    proto::{CloseReason, candidate::Candidate},
    transport::{Config, dialer::SocketFactory},
};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it happens in time")
}

/// More than any test leaves lying.
const ROOM: usize = 256;

pub(super) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Offers loopback addresses and nothing else.
pub(super) fn config() -> CallConfig {
    CallConfig::new().with_announced(vec![LOOPBACK])
}

/// Calls that are not up in that time have failed.
pub(super) fn impatient(config: CallConfig, time: Duration) -> Caller {
    let settings = Config::new(&Keypair::generate_ed25519()).with_handshake_timeout(time);
    Caller::with_sockets(config, Arc::new(SocketFactory::new(settings)))
}

/// What messages carry, and who opens the channel.
pub(super) fn messages(open: bool) -> Application {
    Application::Messages {
        label: "socketpipe",
        protocol: "socketpipe/1.0",
        open,
    }
}

pub(super) async fn event(call: &mut Call) -> CallEvent {
    within(poll_fn(|cx| call.poll_event(cx))).await
}

/// The first event, which is a description.
pub(super) async fn description(call: &mut Call) -> String {
    match event(call).await {
        CallEvent::Signal(Signal::Offer(text) | Signal::Answer(text)) => text,
        other => panic!("{other:?} came before the description"),
    }
}

/// What the owner of an end does.
pub(super) enum Command {
    Restart,
    Signal(Signal),
}

/// One end of a call: a task owns it and carries its signals.
pub(super) struct End {
    events: mpsc::Receiver<CallEvent>,
    commands: mpsc::Sender<Command>,
    /// Passed over on the way to what is waited for.
    pub(super) passed: VecDeque<CallEvent>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl End {
    pub(super) async fn restart(&self) {
        let sent = self.commands.send(Command::Restart).await;
        assert!(sent.is_ok(), "the end lives");
    }

    pub(super) async fn signal(&self, signal: Signal) {
        let sent = self.commands.send(Command::Signal(signal)).await;
        assert!(sent.is_ok(), "the end lives");
    }

    /// The next event that `wanted` takes.
    pub(super) async fn until<T>(
        &mut self,
        mut wanted: impl FnMut(CallEvent) -> Result<T, CallEvent>,
    ) -> T {
        loop {
            let event = within(self.events.recv()).await.expect("the end lives");
            match wanted(event) {
                Ok(found) => return found,
                Err(CallEvent::Closed(reason)) => panic!("closed: {reason}"),
                Err(other) => self.passed.push_back(other),
            }
        }
    }

    pub(super) async fn channel(&mut self) -> MessageChannel {
        self.until(|event| match event {
            CallEvent::Channel(channel) => Ok(channel),
            other => Err(other),
        })
        .await
    }

    pub(super) async fn path(&mut self) -> (SocketAddr, bool) {
        self.until(|event| match event {
            CallEvent::Path { remote, relayed } => Ok((remote, relayed)),
            other => Err(other),
        })
        .await
    }

    /// The last path that was passed over.
    pub(super) fn path_so_far(&self) -> Option<(SocketAddr, bool)> {
        let mut passed = self.passed.iter().rev();
        passed.find_map(|event| match event {
            CallEvent::Path { remote, relayed } => Some((*remote, *relayed)),
            _ => None,
        })
    }

    pub(super) async fn closed(&mut self) -> CloseReason {
        self.until(|event| match event {
            CallEvent::Closed(reason) => Ok(reason),
            other => Err(other),
        })
        .await
    }
}

/// Changes signals on their way; those that it gives nothing for do not arrive.
pub(super) type Tamper = Arc<dyn Fn(Signal) -> Option<Signal> + Send + Sync>;

pub(super) fn honest() -> Tamper {
    Arc::new(Some)
}

/// A task that carries the signals of `call` to `to` and those of `from` to it.
fn carry(
    mut call: Call,
    to: mpsc::Sender<Signal>,
    mut from: mpsc::Receiver<Signal>,
    tamper: Tamper,
) -> End {
    let (told, events) = mpsc::channel(ROOM);
    let (commands, mut asked) = mpsc::channel(ROOM);
    let task = tokio::spawn(async move {
        loop {
            let turn = {
                let event = poll_fn(|cx| call.poll_event(cx));
                let heard = std::pin::pin!(async {
                    match select(std::pin::pin!(from.recv()), std::pin::pin!(asked.recv())).await {
                        Either::Left((signal, _)) => signal.map(Command::Signal),
                        Either::Right((command, _)) => command,
                    }
                });
                match select(event, heard).await {
                    Either::Left((event, _)) => Either::Left(event),
                    Either::Right((command, _)) => Either::Right(command),
                }
            };
            match turn {
                Either::Left(CallEvent::Signal(signal)) => {
                    if let Some(signal) = tamper(signal) {
                        // The other end may be gone.
                        to.send(signal).await.ok();
                    }
                }
                Either::Left(event) => {
                    told.send(event).await.ok();
                }
                Either::Right(Some(Command::Restart)) => call.restart(),
                Either::Right(Some(Command::Signal(signal))) => {
                    call.handle(signal).expect("the signal makes sense");
                }
                // The other end is gone; what is left are the events.
                Either::Right(None) => loop {
                    let event = poll_fn(|cx| call.poll_event(cx)).await;
                    told.send(event).await.ok();
                },
            }
        }
    });
    End {
        events,
        commands,
        passed: VecDeque::new(),
        task,
    }
}

/// Two ends whose signals reach each other.
pub(super) async fn connect(
    offerer: &Caller,
    answerer: &Caller,
    applications: [Application; 2],
    tampers: [Tamper; 2],
) -> [End; 2] {
    let [ours, theirs] = applications;
    let mut offering = offerer.offer(ours).expect("it can be offered");
    let offer = Signal::Offer(description(&mut offering).await);
    let Some(Signal::Offer(offer)) = tampers[0](offer) else {
        panic!("there is nothing to be connected without an offer");
    };
    let answering = answerer.answer(theirs, &offer).expect("it can be answered");
    let (to_answerer, from_offerer) = mpsc::channel(ROOM);
    let (to_offerer, from_answerer) = mpsc::channel(ROOM);
    let [tamper, other] = tampers;
    [
        carry(offering, to_answerer, from_answerer, tamper),
        carry(answering, to_offerer, from_offerer, other),
    ]
}

/// Two ends with a channel of messages between them, which the offerer opens.
pub(super) async fn channels(
    offerer: &Caller,
    answerer: &Caller,
) -> ([End; 2], [MessageChannel; 2]) {
    let applications = [messages(true), messages(false)];
    let tampers = [honest(), honest()];
    let mut ends = connect(offerer, answerer, applications, tampers).await;
    let channels = [ends[0].channel().await, ends[1].channel().await];
    (ends, channels)
}

/// The address of a candidate.
pub(super) fn address(signal: &Signal) -> Option<SocketAddr> {
    match signal {
        Signal::Candidate { candidate, .. } => Candidate::parse(candidate).ok()?.address(),
        _ => None,
    }
}

/// Waits until all tasks of this runtime but the test's own have ended.
pub(super) async fn nothing_is_left() {
    nothing_but(0).await;
}

/// Waits until so many of them are left.
pub(super) async fn nothing_but(tasks: usize) {
    let metrics = tokio::runtime::Handle::current().metrics();
    within(async {
        while metrics.num_alive_tasks() > tasks {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
