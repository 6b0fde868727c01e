//! A peer that speaks the protocol by hand: checks, DTLS and SCTP of the crate, everything above by the test.
//!
//! It dials. What it sends on its streams, and its SCTP packets if need be, are as right or wrong as the test wants;
//! what it receives it keeps.

use std::{net::SocketAddr, time::Instant};

use bytes::{BufMut, Bytes, BytesMut};

use super::secs;
use crate::proto::{
    engine::{
        dtls::{Dtls, DtlsContext, DtlsEvent, Path},
        sctp::{Message, Ppid, Sctp, SctpEvent, SctpLimits},
    },
    frame::{self, Flag, Frame, FrameDecoder},
    outbox::Outbox,
    stun::{self, IceRole, RequestParams, TransactionId},
};

/// Time between checks.
const CHECK_INTERVAL: std::time::Duration = secs(5);
/// Checks until one is answered.
const FIRST_INTERVAL: std::time::Duration = std::time::Duration::from_millis(200);

/// Writes a check with this USERNAME, right in all respects that are not given.
pub(super) fn check(username: &str, key: &str, role: IceRole, id: u64) -> Vec<u8> {
    let mut transaction_id = [7; 12];
    transaction_id[..8].copy_from_slice(&id.to_be_bytes());
    let mut datagram = Vec::new();
    stun::encode_binding_request(
        &RequestParams {
            transaction_id: TransactionId(transaction_id),
            username,
            key: key.as_bytes(),
            role,
            priority: 1,
            use_candidate: true,
        },
        &mut datagram,
    );
    datagram
}

/// A valid check of version 2 from a dialer whose credentials end in `name`.
pub(super) fn valid_check(name: &str) -> Vec<u8> {
    let server = format!("libp2p+webrtc+v2/passwordpasswordpassword{name}");
    let username = format!("{server}:ufrag{name}");
    check(&username, &server, IceRole::Controlling(1), 1)
}

/// The checksum of SCTP packets (RFC 9260 appendix A), bit by bit.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    };
    !bytes.iter().fold(!0, step)
}

#[test]
fn crc32c_matches_its_check_value() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}

/// Where the DATA chunks of a packet begin.
fn data_chunks(packet: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 12;
    while let Some(&[kind, _, high, low]) = packet.get(at..).and_then(<[u8]>::first_chunk) {
        if kind == 0 {
            found.push(at);
        }
        at += usize::from(u16::from_be_bytes([high, low]))
            .max(4)
            .next_multiple_of(4);
    }
    found
}

/// An SCTP packet with these chunks and a right checksum.
pub(super) fn packet(tag: u32, chunks: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x13, 0x88, 0x13, 0x88];
    packet.extend_from_slice(&tag.to_be_bytes());
    packet.extend_from_slice(&[0; 4]);
    packet.extend_from_slice(chunks);
    let sum = crc32c(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

/// One chunk, padded.
pub(super) fn chunk(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + body.len()).expect("a chunk fits its length field");
    let mut chunk = vec![kind, flags];
    chunk.extend_from_slice(&len.to_be_bytes());
    chunk.extend_from_slice(body);
    chunk.resize(chunk.len().next_multiple_of(4), 0);
    chunk
}

/// A DATA chunk with a whole binary message.
pub(super) fn data_chunk(tsn: u32, stream: u16, ssn: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut body = tsn.to_be_bytes().to_vec();
    body.extend_from_slice(&stream.to_be_bytes());
    body.extend_from_slice(&ssn.to_be_bytes());
    body.extend_from_slice(&53_u32.to_be_bytes());
    body.extend_from_slice(payload);
    chunk(0, flags, &body)
}

/// What a changed SCTP packet is to become.
pub(super) type Mangle = Box<dyn FnMut(&[u8]) -> Vec<Vec<u8>>>;

/// A hand-made dialer.
pub(super) struct RawPeer {
    remote: SocketAddr,
    server_ufrag: String,
    client_ufrag: String,
    dtls: Dtls,
    sctp: Option<Sctp>,
    outbox: Outbox,
    now: Instant,
    next_check: Instant,
    checks: u64,
    answered: bool,
    limits: SctpLimits,
    /// What the SCTP engine draws its first numbers from.
    pub(super) seed: [u8; 32],
    /// Whether to take packets and send checks; else it is dead without a word.
    pub(super) alive: bool,
    /// Changes SCTP packets before they are protected.
    pub(super) mangle: Option<Mangle>,
    /// Messages received, by stream.
    pub(super) messages: Vec<(u16, Ppid, Bytes)>,
    /// Streams of which both directions are reset.
    pub(super) resets: Vec<u16>,
    /// SCTP is up.
    pub(super) connected: bool,
    /// The other side said that it is over.
    pub(super) ended: bool,
    /// SCTP packets received.
    pub(super) packets: Vec<Bytes>,
    /// Verification tag that our packets carry.
    pub(super) tag: u32,
    /// TSN of the next DATA chunk.
    pub(super) next_tsn: u32,
}

impl RawPeer {
    /// A dialer with these credentials, towards `remote`.
    pub(super) fn new(
        now: Instant,
        remote: SocketAddr,
        server_ufrag: &str,
        client_ufrag: &str,
    ) -> Self {
        let context = DtlsContext::new(super::identity(), secs(10)).unwrap();
        Self {
            remote,
            server_ufrag: server_ufrag.to_owned(),
            client_ufrag: client_ufrag.to_owned(),
            dtls: Dtls::dialer(&context, now),
            sctp: None,
            outbox: Outbox::default(),
            now,
            next_check: now,
            checks: 0,
            answered: false,
            limits: SctpLimits {
                receive_window: 1 << 20,
                max_receive_message: 300_000,
                max_streams: 65_536,
            },
            seed: [3; 32],
            alive: true,
            mangle: None,
            messages: Vec::new(),
            resets: Vec::new(),
            connected: false,
            ended: false,
            packets: Vec::new(),
            tag: 0,
            next_tsn: 0,
        }
    }

    /// With credentials of version 2.
    pub(super) fn v2(now: Instant, remote: SocketAddr) -> Self {
        Self::new(
            now,
            remote,
            "libp2p+webrtc+v2/passwordpasswordpassword",
            "ufrag",
        )
    }

    fn path(&self) -> Path {
        Path {
            remote: self.remote,
            local_ip: None,
        }
    }

    pub(super) fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        self.now = now;
        if !self.alive || from != self.remote {
            return;
        }
        if stun::is_stun(datagram) {
            if !self.answered {
                self.answered = true;
                self.next_check = now + CHECK_INTERVAL;
                let path = self.path();
                self.dtls
                    .handle_timeout(now, path, &mut self.outbox)
                    .unwrap();
            }
            return;
        }
        let path = self.path();
        let result = self
            .dtls
            .handle_datagram(now, datagram, path, &mut self.outbox);
        self.ended |= result.is_err();
        while let Some(event) = self.dtls.poll_event() {
            match event {
                DtlsEvent::PeerCertificate(_) => {}
                DtlsEvent::Connected => {
                    self.sctp = Some(Sctp::new(self.limits, true, self.seed, now))
                }
                DtlsEvent::Data(packet) => {
                    self.packets.push(packet.clone());
                    if let Some(sctp) = &mut self.sctp {
                        sctp.handle_packet(now, packet);
                    }
                }
                DtlsEvent::Closed => self.ended = true,
            }
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        let path = self.path();
        if self.dtls.poll_timeout().is_some_and(|at| at <= now) {
            let result = self.dtls.handle_timeout(now, path, &mut self.outbox);
            self.ended |= result.is_err();
        }
        if let Some(sctp) = &mut self.sctp
            && sctp.poll_timeout().is_some_and(|at| at <= now)
        {
            sctp.handle_timeout(now);
        }
    }

    pub(super) fn turn(&mut self, now: Instant) -> (Vec<(SocketAddr, Vec<u8>)>, Option<Instant>) {
        self.now = now;
        if !self.alive {
            return (Vec::new(), None);
        }
        self.take_messages();
        self.send_check();
        self.send_packets();
        let mut datagrams = Vec::new();
        while let Some(transmit) = self.outbox.pop() {
            let size = transmit.segment_size.unwrap_or(transmit.contents.len());
            for datagram in transmit.contents.chunks(size) {
                datagrams.push((transmit.destination, datagram.to_vec()));
            }
        }
        let dtls = self.dtls.poll_timeout().filter(|_| self.answered);
        let sctp = self.sctp.as_ref().and_then(Sctp::poll_timeout);
        let deadline = dtls.into_iter().chain(sctp).chain([self.next_check]).min();
        (datagrams, deadline.filter(|_| !self.ended))
    }

    fn send_check(&mut self) {
        if self.now < self.next_check || self.ended {
            return;
        }
        let interval = if self.answered {
            CHECK_INTERVAL
        } else {
            FIRST_INTERVAL
        };
        self.next_check = self.now + interval;
        self.checks += 1;
        let username = format!("{}:{}", self.server_ufrag, self.client_ufrag);
        let check = check(
            &username,
            &self.server_ufrag,
            IceRole::Controlling(9),
            self.checks,
        );
        self.outbox.push(self.remote, None, &check);
    }

    fn take_messages(&mut self) {
        let Some(sctp) = &mut self.sctp else { return };
        while let Some(event) = sctp.poll_event() {
            match event {
                SctpEvent::Connected => {
                    self.connected = true;
                    // As the endpoint does: fails only if the stream is there already.
                    let _there = sctp.open(0);
                }
                SctpEvent::Opened(stream) | SctpEvent::Readable(stream) => {
                    while let Some(Message { ppid, data }) = sctp.read(stream) {
                        self.messages.push((stream, ppid, data));
                    }
                }
                SctpEvent::Reset(_) => {}
                SctpEvent::ResetComplete(stream) => self.resets.push(stream),
                SctpEvent::ClosedByPeer | SctpEvent::ResetDenied | SctpEvent::Failed(_) => {
                    self.ended = true;
                }
            }
        }
    }

    fn send_packets(&mut self) {
        let path = self.path();
        let Self {
            sctp: Some(sctp),
            dtls,
            outbox,
            mangle,
            now,
            ended,
            tag,
            next_tsn,
            ..
        } = self
        else {
            return;
        };
        sctp.poll_packets(*now, |packet| {
            let word = |at: usize| {
                packet[at..at + 4]
                    .iter()
                    .fold(0, |word, byte| word << 8 | u32::from(*byte))
            };
            *tag = word(4);
            for at in data_chunks(packet) {
                *next_tsn = word(at + 4).wrapping_add(1);
            }
            let changed = match mangle {
                Some(mangle) => mangle(packet),
                None => vec![packet.to_vec()],
            };
            for packet in changed {
                *ended |= dtls.send(*now, &packet, path, outbox).is_err();
            }
        });
    }

    /// Sends bytes as an SCTP packet, whatever they are.
    pub(super) fn send_packet(&mut self, packet: &[u8]) {
        let path = self.path();
        self.ended |= self
            .dtls
            .send(self.now, packet, path, &mut self.outbox)
            .is_err();
    }

    /// Opens a stream in SCTP without telling the peer.
    pub(super) fn make_stream(&mut self, stream: u16) {
        let sctp = self.sctp.as_mut().expect("SCTP is there");
        sctp.open(stream).expect("the stream is free");
    }

    /// Sends one message.
    pub(super) fn send(&mut self, stream: u16, ppid: Ppid, message: &[u8]) {
        let sctp = self.sctp.as_mut().expect("SCTP is there");
        sctp.write(stream, ppid, &Bytes::copy_from_slice(message))
            .expect("the stream is there");
    }

    /// Sends OPEN if the stream is free.
    pub(super) fn try_open(&mut self, stream: u16) -> bool {
        let free = self
            .sctp
            .as_mut()
            .is_some_and(|sctp| sctp.open(stream).is_ok());
        if free {
            self.send(stream, Ppid::Dcep, &[3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
        free
    }

    /// Sends OPEN with this channel type on a new stream.
    pub(super) fn send_open(&mut self, stream: u16, channel_type: u8) {
        self.make_stream(stream);
        let open = [3, channel_type, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        self.send(stream, Ppid::Dcep, &open);
    }

    /// Sends a frame with data.
    pub(super) fn send_data(&mut self, stream: u16, data: &[u8]) {
        let mut message = BytesMut::new();
        frame::encode_data(data, &mut message);
        self.send(stream, Ppid::Binary, &message);
    }

    /// Sends a frame with a flag.
    pub(super) fn send_flag(&mut self, stream: u16, flag: Flag) {
        let mut message = BytesMut::new();
        frame::encode_flag(flag, None, &mut message);
        self.send(stream, Ppid::Binary, &message);
    }

    /// Sends data and FIN in one frame, as go and js do.
    pub(super) fn send_last_data(&mut self, stream: u16, data: &[u8]) {
        let mut message = BytesMut::new();
        let len = u8::try_from(data.len()).expect("short");
        message.put_slice(&[4 + len, 0x08, 0, 0x12, len]);
        message.put_slice(data);
        self.send(stream, Ppid::Binary, &message);
    }

    /// Resets the outgoing side of a stream, if it is there.
    pub(super) fn try_reset(&mut self, stream: u16) {
        let _gone = self.sctp.as_mut().map(|sctp| sctp.reset(stream));
    }

    /// Resets the outgoing side of a stream.
    pub(super) fn reset_stream(&mut self, stream: u16) {
        let sctp = self.sctp.as_mut().expect("SCTP is there");
        sctp.reset(stream).expect("the stream is there");
    }

    /// Frames received on a stream, DCEP left out.
    pub(super) fn frames(&self, stream: u16) -> Vec<Frame> {
        let mut decoder = FrameDecoder::new(1 << 20);
        let mut frames = Vec::new();
        for (_, _, data) in self
            .messages
            .iter()
            .filter(|(on, ppid, _)| *on == stream && *ppid == Ppid::Binary)
        {
            decoder.push(data.clone());
            while let Some(frame) = decoder
                .next_frame()
                .expect("the endpoint sends valid frames")
            {
                frames.push(frame);
            }
        }
        frames
    }

    /// Sizes of the binary messages received on a stream.
    pub(super) fn messages(&self, stream: u16) -> Vec<usize> {
        self.messages
            .iter()
            .filter(|(on, ppid, _)| *on == stream && *ppid == Ppid::Binary)
            .map(|(_, _, data)| data.len())
            .collect()
    }

    /// Flags received on a stream.
    pub(super) fn flags(&self, stream: u16) -> Vec<Flag> {
        self.frames(stream)
            .into_iter()
            .filter_map(|frame| frame.flag)
            .collect()
    }

    /// Whether our OPEN of a stream was acknowledged.
    pub(super) fn is_acknowledged(&self, stream: u16) -> bool {
        self.messages
            .iter()
            .any(|(on, ppid, data)| *on == stream && *ppid == Ppid::Dcep && data[..] == [2])
    }
}
