//! An association and a peer that writes its packets by hand.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::proto::engine::sctp::{
    Sctp, SctpEvent, SctpLimits, Verdict,
    wire::{Chunk, Chunks, Data, Init, Reconfig, Sack, Writer, flag, kind, read_reconfig},
};

/// The peer's tag.
pub(super) const TAG: u32 = 7;
/// The peer's first TSN and first request number.
pub(super) const FIRST: u32 = 1000;
pub(super) const WHOLE: u8 = flag::BEGIN | flag::END;

pub(super) struct Raw {
    pub(super) sctp: Sctp,
    pub(super) now: Instant,
    /// The tag of the association under test.
    pub(super) tag: u32,
    /// Our cookie, for another echo.
    pub(super) cookie: Bytes,
}

impl Raw {
    /// Nothing has happened.
    #[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
    pub(super) fn closed(limits: SctpLimits, initiate: bool) -> Self {
        let now = Instant::now();
        let mut seed = [3; 32];
        // Its first TSN is 1.
        seed[4..8].copy_from_slice(&[1, 0, 0, 0]);
        let sctp = Sctp::new(limits, initiate, seed, now);
        let tag = u32::from_le_bytes([3; 4]);
        Self {
            sctp,
            now,
            tag,
            cookie: Bytes::new(),
        }
    }

    /// The association is up, and that was reported.
    pub(super) fn established(limits: SctpLimits) -> Self {
        let mut raw = Self::closed(limits, false);
        raw.feed(|writer| writer.init(&init(Bytes::new())));
        let answer = raw.sent();
        raw.cookie = Init::read(&answer[0]).unwrap().cookie;
        let cookie = raw.cookie.clone();
        raw.feed(|writer| writer.plain(kind::COOKIE_ECHO, &cookie));
        assert_eq!(raw.sent()[0].kind, kind::COOKIE_ACK);
        assert_eq!(raw.events(), [SctpEvent::Connected]);
        raw
    }

    /// The association takes a packet.
    pub(super) fn feed(&mut self, write: impl FnOnce(&mut Writer)) -> bool {
        let mut writer = Writer::default();
        writer.begin(self.tag);
        write(&mut writer);
        let mut packet = writer.finish(true).to_vec();
        if packet[12] == kind::INIT {
            packet[4..12].fill(0);
        }
        self.sctp.handle_packet(self.now, packet.into()) == Verdict::Used
    }

    /// One DATA chunk in a packet of its own. `tsn` counts from zero.
    pub(super) fn data(
        &mut self,
        tsn: u32,
        stream: u16,
        ssn: u16,
        flags: u8,
        payload: &[u8],
    ) -> bool {
        self.feed(|writer| writer.data(&chunk(tsn, stream, ssn, flags, payload), false))
    }

    /// Everything the peer sent so far, up to this many chunks, arrived.
    pub(super) fn sack(&mut self, chunks: u32, window: u32, gaps: &[(u16, u16)]) -> bool {
        self.feed(|writer| writer.sack(chunks, window, gaps, &[]))
    }

    /// A reset request. Its number counts from zero; it comes behind `chunks` chunks.
    pub(super) fn request(&mut self, number: u32, chunks: u32, streams: &[u16]) -> bool {
        let request = Reconfig::OutgoingReset {
            sequence: FIRST.wrapping_add(number),
            last_tsn: FIRST.wrapping_add(chunks).wrapping_sub(1),
            streams: streams.to_vec(),
        };
        self.feed(|writer| writer.reconfig(&request, 0))
    }

    /// An answer to the request with this number.
    pub(super) fn response(&mut self, sequence: u32, result: u32) -> bool {
        self.feed(|writer| writer.reconfig(&Reconfig::Response { sequence, result }, 0))
    }

    /// Time passes; timers fire.
    pub(super) fn wait(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        self.sctp.handle_timeout(self.now);
    }

    /// The chunks of all packets that leave now.
    pub(super) fn sent(&mut self) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        self.sctp.poll_packets(self.now, |packet| {
            assert!(packet.len() <= 1160, "a packet of {} bytes", packet.len());
            chunks.extend(Chunks::new(&Bytes::copy_from_slice(packet)));
        });
        chunks
    }

    /// The TSNs that leave now.
    pub(super) fn sent_data(&mut self) -> Vec<u32> {
        self.sent()
            .iter()
            .filter(|chunk| chunk.kind == kind::DATA)
            .map(|chunk| Data::read(chunk).unwrap().tsn)
            .collect()
    }

    /// The resets, and answers to them, that leave now.
    pub(super) fn sent_resets(&mut self) -> Vec<Reconfig> {
        self.sent()
            .iter()
            .filter(|chunk| chunk.kind == kind::RECONFIG)
            .flat_map(read_reconfig)
            .collect()
    }

    /// The acknowledgement that leaves now.
    pub(super) fn sent_sack(&mut self) -> Option<Sack> {
        self.sent()
            .iter()
            .find(|chunk| chunk.kind == kind::SACK)
            .and_then(Sack::read)
    }

    pub(super) fn events(&mut self) -> Vec<SctpEvent> {
        std::iter::from_fn(|| self.sctp.poll_event()).collect()
    }
}

/// The peer's INIT or, with a cookie, INIT ACK.
pub(super) fn init(cookie: Bytes) -> Init {
    Init {
        tag: TAG,
        window: 1 << 20,
        inbound: u16::MAX,
        tsn: FIRST,
        zero_checksum: true,
        cookie,
    }
}

/// A DATA chunk whose TSN counts from zero.
pub(super) fn chunk(tsn: u32, stream: u16, ssn: u16, flags: u8, payload: &[u8]) -> Data {
    let payload = Bytes::copy_from_slice(payload);
    Data {
        tsn: FIRST.wrapping_add(tsn),
        stream,
        ssn,
        ppid: 53,
        flags,
        payload,
    }
}
