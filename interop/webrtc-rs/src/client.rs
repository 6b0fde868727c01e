//! A SocketPipe client: one session, its WebSocket, and the call that its DATA may move to.
//!
//! It does what the published text and the server's documentation say a client does, and complains of everything else. What
//! it does when is decided in `upgrade`.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use webrtc::{
    data_channel::RTCDataChannel, ice_transport::ice_connection_state::RTCIceConnectionState,
};

use crate::{
    Failure,
    call::{Call, CallEvent, MAX_EVENTS, Told},
    frame::{Frame, RESUME, WEBRTC},
    stream::{Stream, Way},
    websocket::Socket,
};

/// Frames of DATA sent between two looks at what came.
const BURST: usize = 8;

/// Where the session is.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) token: String,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// How far the current attempt to use WebRTC is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The server refused.
    pub(crate) refused: bool,
    /// WEBRTC_READY came.
    pub(crate) ready: bool,
    /// Our end of the channel is open.
    pub(crate) open: bool,
    /// It is closed, or its connection failed.
    pub(crate) closed: bool,
    /// ICE hears nothing any more.
    pub(crate) silent: bool,
    /// All our addresses are told.
    pub(crate) gathered: bool,
}

/// The call of a session.
pub(crate) struct Upgrade {
    pub(crate) call: Call,
    number: u32,
    channel: Arc<RTCDataChannel>,
    pub(crate) progress: Progress,
    /// We have sent something by the channel, so the server may.
    used: bool,
}

/// The client.
pub(crate) struct Client {
    server: Server,
    socket: Socket,
    id: Option<Bytes>,
    pub(crate) stream: Stream,
    /// Bytes shown before the stream begins; `None` once it has begun.
    greeting: Option<Vec<u8>>,
    pub(crate) upgrade: Option<Upgrade>,
    calls: u32,
    events: Receiver<Told>,
    sender: Sender<Told>,
    /// Where our DATA goes.
    pub(crate) way: Way,
    /// New bytes are sent.
    pub(crate) sending: bool,
    /// RESUME_REQUEST was sent and not answered.
    resuming: bool,
    /// PINGs of ours without answer.
    pings: Vec<(Way, Bytes)>,
    pinged: u8,
    /// The CLOSE that came.
    pub(crate) closed: Option<(bool, u16, String)>,
    /// The WebSocket ended.
    pub(crate) ended: bool,
    /// Candidates of the server.
    pub(crate) candidates: u32,
}

/// What one look brought.
enum Turn {
    Frame(Option<Frame>),
    Told(Told),
    Late,
}

impl Client {
    /// Opens a session with both extensions.
    pub(crate) async fn open(server: Server, seed: u64) -> Result<Self, Failure> {
        let mut socket = Socket::connect(&server.url, server.ca.as_deref()).await?;
        let request = Frame::HandshakeRequest {
            flags: RESUME | WEBRTC,
            host: server.host.clone(),
            port: server.port,
            token: server.token.clone(),
        };
        socket.send(&request).await?;
        match socket.receive().await? {
            Some(Frame::Accepted { flags, max_message }) => {
                if flags & (RESUME | WEBRTC) != RESUME | WEBRTC {
                    return Err(format!("the server agrees to {flags:#04x} only").into());
                }
                if max_message < 16_384 {
                    return Err(format!("the server takes {max_message} bytes at once").into());
                }
            }
            other => return Err(format!("the handshake is answered by {other:?}").into()),
        }
        let (sender, events) = channel(MAX_EVENTS);
        Ok(Self {
            server,
            socket,
            id: None,
            stream: Stream::new(seed),
            greeting: None,
            upgrade: None,
            calls: 0,
            events,
            sender,
            way: Way::WebSocket,
            sending: false,
            resuming: false,
            pings: Vec::new(),
            pinged: 0,
            closed: None,
            ended: false,
            candidates: 0,
        })
    }

    /// Goes on until `done`; an error if that takes too long.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        limit: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<(), Failure> {
        let until = Instant::now() + limit;
        while !done(self) {
            self.send_data().await?;
            if done(self) {
                break;
            }
            match self.turn(until).await? {
                Turn::Frame(Some(frame)) => self.on_frame(frame, Way::WebSocket).await?,
                Turn::Frame(None) if self.closed.is_some() => self.ended = true,
                Turn::Frame(None) => return Err("the server ended the WebSocket".into()),
                Turn::Told((number, event)) => self.on_told(number, event).await?,
                Turn::Late => {
                    return Err(format!("{what}: not within {limit:?}, {}", self.state()).into());
                }
            }
        }
        Ok(())
    }

    /// Where things stand, for who has to find out what went wrong.
    fn state(&self) -> String {
        format!(
            "by {:?}, {} bytes back, last DATA {}, {} to repeat, resuming {}, {:?}",
            self.way,
            self.stream.received(),
            self.stream.last(),
            self.stream.to_repeat(),
            self.resuming,
            self.upgrade.as_ref().map(|upgrade| upgrade.progress),
        )
    }

    async fn turn(&mut self, until: Instant) -> Result<Turn, Failure> {
        // More can be sent at once: only look whether something came.
        let now = Instant::now();
        let limit = until.saturating_duration_since(now);
        if limit.is_zero() {
            return Ok(Turn::Late);
        }
        Ok(tokio::select! {
            frame = self.socket.receive(), if !self.ended => Turn::Frame(frame?),
            told = self.events.recv() => Turn::Told(told.ok_or("no events")?),
            () = tokio::time::sleep(limit) => Turn::Late,
        })
    }

    /// Sends as much DATA as there is room for.
    async fn send_data(&mut self) -> Result<(), Failure> {
        if self.resuming || self.ended {
            return Ok(());
        }
        for _ in 0..BURST {
            let Some(frame) = self.stream.next_frame(self.way, self.sending) else {
                return Ok(());
            };
            self.send(self.way, &frame).await?;
        }
        Ok(())
    }

    /// Sends a frame this way. On a channel that is gone it is lost, as it would be a moment later.
    async fn send(&mut self, way: Way, frame: &Frame) -> Result<(), Failure> {
        match (way, &mut self.upgrade) {
            (Way::WebSocket, _) => self.socket.send(frame).await,
            (Way::Channel, Some(upgrade)) => {
                upgrade.used = true;
                if let Err(error) = upgrade.channel.send(&frame.encode()?).await {
                    upgrade.progress.closed = true;
                    eprintln!("webrtc-rs: the channel takes nothing any more: {error}");
                }
                Ok(())
            }
            (Way::Channel, None) => Err("there is no channel".into()),
        }
    }

    /// Sends a control frame on the WebSocket.
    pub(crate) async fn control(&mut self, frame: &Frame) -> Result<(), Failure> {
        self.send(Way::WebSocket, frame).await
    }

    /// Sends a frame by the channel, whatever it is.
    pub(crate) async fn on_channel(&mut self, frame: &Frame) -> Result<(), Failure> {
        self.send(Way::Channel, frame).await
    }

    /// Sends a PING, whose answer [`Self::is_pinging`] waits for.
    pub(crate) async fn ping(&mut self, way: Way) -> Result<(), Failure> {
        self.pinged = self.pinged.wrapping_add(1);
        let payload = Bytes::from(vec![self.pinged; 16]);
        self.pings.push((way, payload.clone()));
        self.send(way, &Frame::Ping(payload)).await
    }

    /// Whether a PING is not answered yet.
    pub(crate) fn is_pinging(&self) -> bool {
        !self.pings.is_empty()
    }

    /// Whether the session can be resumed.
    pub(crate) fn has_id(&self) -> bool {
        self.id.is_some()
    }

    async fn on_frame(&mut self, frame: Frame, way: Way) -> Result<(), Failure> {
        match frame {
            Frame::Data { number, bytes } => self.on_data(way, number, bytes),
            // Behind DATA that was sent before.
            Frame::Ping(payload) => self.send(way, &Frame::Pong(payload)).await,
            Frame::Pong(payload) => {
                let ours = self
                    .pings
                    .iter()
                    .position(|ping| *ping == (way, payload.clone()));
                self.pings
                    .remove(ours.ok_or("PONG without PING, or on another way")?);
                Ok(())
            }
            Frame::Close {
                by_client,
                code,
                message,
            } => {
                self.closed = Some((by_client, code, message));
                Ok(())
            }
            frame if way == Way::Channel => Err(format!("{frame:?} came by the channel").into()),
            frame => self.on_websocket_frame(frame).await,
        }
    }

    /// A frame that belongs on the WebSocket.
    async fn on_websocket_frame(&mut self, frame: Frame) -> Result<(), Failure> {
        match frame {
            Frame::SessionId { id } if self.id.is_none() => {
                self.id = Some(id);
                Ok(())
            }
            Frame::Resumed {
                start, received, ..
            } if self.resuming => {
                self.resuming = false;
                self.stream.resume(start, received)
            }
            Frame::Answer(sdp) if sdp.is_empty() => {
                self.waiting()?.progress.refused = true;
                Ok(())
            }
            Frame::Answer(sdp) => self.waiting()?.call.answer(sdp).await,
            Frame::Candidate {
                candidate,
                mid,
                index,
            } => {
                self.candidates += u32::from(!candidate.is_empty());
                match &mut self.upgrade {
                    Some(upgrade) if !candidate.is_empty() => {
                        upgrade.call.candidate(candidate, mid, index).await
                    }
                    // The end, or one of an attempt that is over.
                    _ => Ok(()),
                }
            }
            Frame::Ready => {
                let progress = &mut self.waiting()?.progress;
                match std::mem::replace(&mut progress.ready, true) {
                    false => Ok(()),
                    true => Err("WEBRTC_READY came twice".into()),
                }
            }
            Frame::Error { code, message } => Err(format!("ERROR {code}: {message}").into()),
            frame => Err(format!("{frame:?} came out of turn").into()),
        }
    }

    /// The attempt that an answer is for.
    fn waiting(&mut self) -> Result<&mut Upgrade, Failure> {
        let upgrade = self.upgrade.as_mut();
        Ok(upgrade.ok_or("an answer to no offer of ours")?)
    }

    fn on_data(&mut self, way: Way, number: u64, bytes: Bytes) -> Result<(), Failure> {
        match &mut self.greeting {
            // The terminal's own words, by number like everything.
            Some(greeting) => {
                greeting.extend_from_slice(&bytes);
                self.stream.skip(number)
            }
            None => self.stream.take(way, number, bytes),
        }
    }

    async fn on_told(&mut self, number: u32, event: CallEvent) -> Result<(), Failure> {
        let Some(upgrade) = self
            .upgrade
            .as_mut()
            .filter(|upgrade| upgrade.number == number)
        else {
            return Ok(());
        };
        match event {
            CallEvent::Candidate(candidate) => {
                upgrade.progress.gathered = candidate.is_none();
                let candidate = candidate.unwrap_or_default();
                let frame = Frame::Candidate {
                    candidate: candidate.candidate,
                    mid: candidate.sdp_mid.unwrap_or_default(),
                    index: candidate.sdp_mline_index.unwrap_or_default(),
                };
                return self.control(&frame).await;
            }
            CallEvent::Ice(state) => match state {
                RTCIceConnectionState::Disconnected => upgrade.progress.silent = true,
                RTCIceConnectionState::Connected | RTCIceConnectionState::Completed => {
                    upgrade.progress.silent = false;
                }
                RTCIceConnectionState::Failed | RTCIceConnectionState::Closed => {
                    upgrade.progress.closed = true;
                }
                _ => {}
            },
            CallEvent::Open => upgrade.progress.open = true,
            CallEvent::Closed => upgrade.progress.closed = true,
            CallEvent::Message(message) if message.is_text => {
                return Err("a text message came by the channel".into());
            }
            CallEvent::Message(message) => {
                if !upgrade.used {
                    return Err("the server used the channel before the client did".into());
                }
                let frame = Frame::decode(&message.bytes)?;
                return self.on_frame(frame, Way::Channel).await;
            }
        }
        Ok(())
    }

    /// Begins an attempt: a new peer connection with the channel, and its offer, which `change` may spoil.
    pub(crate) async fn offer(
        &mut self,
        change: impl FnOnce(String) -> String,
    ) -> Result<(), Failure> {
        self.calls += 1;
        let mut call = Call::new(Vec::new()).await?;
        call.watch(self.calls, &self.sender);
        let channel = call.open_channel(self.calls, &self.sender).await?;
        let sdp = call.offer(false).await?;
        self.upgrade = Some(Upgrade {
            call,
            number: self.calls,
            channel,
            progress: Progress::default(),
            used: false,
        });
        self.control(&Frame::Offer(change(sdp))).await
    }

    /// Begins an ICE restart of the call there is.
    pub(crate) async fn restart(&mut self) -> Result<(), Failure> {
        let sdp = self.waiting()?.call.offer(true).await?;
        self.control(&Frame::Offer(sdp)).await
    }

    /// How far the attempt is.
    pub(crate) fn progress(&self) -> Progress {
        let upgrade = self.upgrade.as_ref();
        upgrade.map_or_else(Progress::default, |upgrade| upgrade.progress)
    }

    /// Leaves the call. What our end still had to say goes as far as its gate lets it.
    pub(crate) fn leave_call(&mut self) {
        self.way = Way::WebSocket;
        self.pings.retain(|(way, _)| *way != Way::Channel);
        if let Some(upgrade) = self.upgrade.take() {
            upgrade.call.close();
        }
    }

    /// Asks on the WebSocket from where to go on.
    pub(crate) async fn ask_to_resume(&mut self) -> Result<(), Failure> {
        let frame = Frame::ResumeRequest {
            id: self.id.clone().ok_or("the session has no id")?,
            last: self.stream.last(),
        };
        self.resuming = true;
        self.control(&frame).await
    }

    /// Whether the answer to that is not here yet.
    pub(crate) fn is_resuming(&self) -> bool {
        self.resuming
    }

    /// Cuts the WebSocket without a word, and opens another one.
    pub(crate) async fn reconnect(&mut self) -> Result<(), Failure> {
        let socket = Socket::connect(&self.server.url, self.server.ca.as_deref()).await?;
        self.pings.clear();
        self.socket = socket;
        Ok(())
    }

    /// Waits for these last words of what is shown before the stream begins.
    pub(crate) async fn greeted(&mut self, marker: &str) -> Result<(), Failure> {
        self.greeting = Some(Vec::new());
        let what = format!("the words {marker:?}");
        let until = Duration::from_secs(20);
        let greeted = |client: &Self| {
            let greeting = client.greeting.as_ref();
            greeting.is_some_and(|greeting| greeting.ends_with(marker.as_bytes()))
        };
        self.until(&what, until, greeted).await?;
        self.greeting = None;
        Ok(())
    }
}
