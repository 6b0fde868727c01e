//! SCTP packets on the wire (RFC 9260 section 3): checked reading, writing into one buffer.
//!
//! Reading never allocates and never panics: [`Chunks`] stops at the first chunk that does not fit, and each accessor
//! returns `None` for what is too short. Knows sizes and numbers, not what they mean for an association.

use bytes::Bytes;

/// Source port, destination port, verification tag, checksum.
pub(super) const COMMON_HEADER: usize = 12;
/// Type, flags, length.
pub(super) const CHUNK_HEADER: usize = 4;
/// Chunk header, TSN, stream, stream sequence number, payload protocol.
pub(super) const DATA_HEADER: usize = 16;
/// Room for a packet, so that writing one allocates once.
const ROOM: usize = 1200;
/// The port of both ends (RFC 8841: the default of WebRTC).
const PORT: u16 = 5000;

/// Chunk types.
pub(super) mod kind {
    pub(in crate::proto::engine::sctp) const DATA: u8 = 0;
    pub(in crate::proto::engine::sctp) const INIT: u8 = 1;
    pub(in crate::proto::engine::sctp) const INIT_ACK: u8 = 2;
    pub(in crate::proto::engine::sctp) const SACK: u8 = 3;
    pub(in crate::proto::engine::sctp) const HEARTBEAT: u8 = 4;
    pub(in crate::proto::engine::sctp) const HEARTBEAT_ACK: u8 = 5;
    pub(in crate::proto::engine::sctp) const ABORT: u8 = 6;
    pub(in crate::proto::engine::sctp) const SHUTDOWN: u8 = 7;
    pub(in crate::proto::engine::sctp) const SHUTDOWN_ACK: u8 = 8;
    pub(in crate::proto::engine::sctp) const COOKIE_ECHO: u8 = 10;
    pub(in crate::proto::engine::sctp) const COOKIE_ACK: u8 = 11;
    pub(in crate::proto::engine::sctp) const SHUTDOWN_COMPLETE: u8 = 14;
    pub(in crate::proto::engine::sctp) const RECONFIG: u8 = 130;
}

/// Flags of a DATA chunk.
pub(super) mod flag {
    pub(in crate::proto::engine::sctp) const END: u8 = 1;
    pub(in crate::proto::engine::sctp) const BEGIN: u8 = 2;
    pub(in crate::proto::engine::sctp) const UNORDERED: u8 = 4;
    /// Acknowledge at once (RFC 7053).
    pub(in crate::proto::engine::sctp) const IMMEDIATE: u8 = 8;
}

/// Parameter types.
mod parameter {
    pub(super) const STATE_COOKIE: u16 = 7;
    pub(super) const OUTGOING_RESET: u16 = 13;
    pub(super) const RECONFIG_RESPONSE: u16 = 16;
    pub(super) const ZERO_CHECKSUM: u16 = 0x8001;
    pub(super) const SUPPORTED_EXTENSIONS: u16 = 0x8008;
}

/// Error detection method identifier of DTLS (RFC 9653 section 4).
const EDMID_DTLS: u32 = 1;

/// `a` comes before `b` in serial number arithmetic (RFC 1982).
pub(super) fn before(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < 1 << 31
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// The verification tag of a packet that is long enough and whose checksum is right, or zero, which RFC 9653 allows
/// inside DTLS.
pub(super) fn verification_tag(packet: &[u8]) -> Option<u32> {
    let tag = u32_at(packet, 4)?;
    let checksum = u32::from_le_bytes(packet.get(8..12)?.try_into().ok()?);
    (packet.len() > COMMON_HEADER && (checksum == 0 || checksum == checksum_of(packet)))
        .then_some(tag)
}

/// CRC32c with the checksum field taken as zero (RFC 9260 appendix A).
fn checksum_of(packet: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&packet[..8]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &packet[12..])
}

/// One chunk.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    /// Its type.
    pub(super) kind: u8,
    /// Its flags.
    pub(super) flags: u8,
    /// What follows its header, without padding.
    pub(super) body: Bytes,
}

/// The chunks of a packet, up to the first that does not fit.
#[derive(Debug)]
pub(super) struct Chunks {
    rest: Bytes,
    /// A chunk did not fit.
    pub(super) malformed: bool,
}

impl Chunks {
    /// Of a packet with a common header.
    pub(super) fn new(packet: &Bytes) -> Self {
        let malformed = packet.len() <= COMMON_HEADER;
        Self {
            rest: if malformed {
                Bytes::new()
            } else {
                packet.slice(COMMON_HEADER..)
            },
            malformed,
        }
    }
}

impl Iterator for Chunks {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        if self.rest.is_empty() || self.malformed {
            return None;
        }
        let len = u16_at(&self.rest, 2).map_or(0, usize::from);
        if len < CHUNK_HEADER || len > self.rest.len() {
            self.malformed = true;
            return None;
        }
        let chunk = Chunk {
            kind: self.rest[0],
            flags: self.rest[1],
            body: self.rest.slice(CHUNK_HEADER..len),
        };
        let padded = len.next_multiple_of(4).min(self.rest.len());
        self.rest = self.rest.slice(padded..);
        Some(chunk)
    }
}

/// A DATA chunk.
#[derive(Clone, Debug)]
pub(super) struct Data {
    /// Transmission sequence number.
    pub(super) tsn: u32,
    /// Stream identifier.
    pub(super) stream: u16,
    /// Stream sequence number.
    pub(super) ssn: u16,
    /// Payload protocol identifier.
    pub(super) ppid: u32,
    /// BEGIN, END, UNORDERED, IMMEDIATE.
    pub(super) flags: u8,
    /// User data; never empty.
    pub(super) payload: Bytes,
}

impl Data {
    /// Reads a DATA chunk.
    pub(super) fn read(chunk: &Chunk) -> Option<Self> {
        let body = &chunk.body;
        let header = DATA_HEADER - CHUNK_HEADER;
        (body.len() > header).then_some(())?;
        Some(Self {
            tsn: u32_at(body, 0)?,
            stream: u16_at(body, 4)?,
            ssn: u16_at(body, 6)?,
            ppid: u32_at(body, 8)?,
            flags: chunk.flags,
            payload: body.slice(header..),
        })
    }

    /// Bytes it takes in a packet.
    pub(super) fn wire_len(&self) -> usize {
        (DATA_HEADER + self.payload.len()).next_multiple_of(4)
    }
}

/// INIT or INIT ACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Init {
    /// The verification tag the sender wants.
    pub(super) tag: u32,
    /// Its receive window.
    pub(super) window: u32,
    /// So many streams of ours it takes, from 0 on.
    pub(super) inbound: u16,
    /// Its first TSN.
    pub(super) tsn: u32,
    /// It takes packets without checksum inside DTLS.
    pub(super) zero_checksum: bool,
    /// State cookie, of an INIT ACK.
    pub(super) cookie: Bytes,
}

impl Init {
    /// Reads the fields and the parameters we know; others are skipped.
    pub(super) fn read(chunk: &Chunk) -> Option<Self> {
        let body = &chunk.body;
        let (outbound, inbound) = (u16_at(body, 8)?, u16_at(body, 10)?);
        let mut init = Self {
            tag: u32_at(body, 0)?,
            window: u32_at(body, 4)?,
            inbound,
            tsn: u32_at(body, 12)?,
            zero_checksum: false,
            cookie: Bytes::new(),
        };
        // RFC 9260 section 3.3.2: none of them may be zero, and the window is at least 1,500 bytes.
        if init.tag == 0 || outbound == 0 || inbound == 0 || init.window < 1500 {
            return None;
        }
        for (kind, value) in Parameters::new(body.slice(16..)) {
            match kind {
                parameter::STATE_COOKIE => init.cookie = value,
                parameter::ZERO_CHECKSUM => {
                    init.zero_checksum = u32_at(&value, 0) == Some(EDMID_DTLS)
                }
                _ => {}
            }
        }
        Some(init)
    }
}

/// Type and value of each parameter, up to the first that does not fit.
struct Parameters {
    rest: Bytes,
}

impl Parameters {
    fn new(rest: Bytes) -> Self {
        Self { rest }
    }
}

impl Iterator for Parameters {
    type Item = (u16, Bytes);

    fn next(&mut self) -> Option<(u16, Bytes)> {
        let kind = u16_at(&self.rest, 0)?;
        let len = usize::from(u16_at(&self.rest, 2)?);
        if len < 4 || len > self.rest.len() {
            return None;
        }
        let value = self.rest.slice(4..len);
        self.rest = self
            .rest
            .slice(len.next_multiple_of(4).min(self.rest.len())..);
        Some((kind, value))
    }
}

/// A SACK.
#[derive(Clone, Debug)]
pub(super) struct Sack {
    /// Everything up to this TSN has arrived.
    pub(super) cumulative: u32,
    /// The peer's receive window.
    pub(super) window: u32,
    gaps: Bytes,
}

impl Sack {
    /// Reads a SACK; `None` also if its gap blocks are out of order or begin where there is no gap.
    pub(super) fn read(chunk: &Chunk) -> Option<Self> {
        let body = &chunk.body;
        let gaps = usize::from(u16_at(body, 8)?) * 4;
        let duplicates = usize::from(u16_at(body, 10)?) * 4;
        if body.len() != 12 + gaps + duplicates {
            return None;
        }
        let sack = Self {
            cumulative: u32_at(body, 0)?,
            window: u32_at(body, 4)?,
            gaps: body.slice(12..12 + gaps),
        };
        let mut previous = 1;
        for (start, end) in sack.gaps() {
            if start <= previous || end < start {
                return None;
            }
            previous = end;
        }
        Some(sack)
    }

    /// Ranges of TSNs that have arrived, as offsets from the cumulative one, inclusive and ascending.
    pub(super) fn gaps(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        self.gaps.chunks_exact(4).map(|gap| {
            (
                u16::from_be_bytes([gap[0], gap[1]]),
                u16::from_be_bytes([gap[2], gap[3]]),
            )
        })
    }

    /// The highest TSN it speaks of.
    pub(super) fn highest(&self) -> u32 {
        let offset = self.gaps().last().map_or(0, |(_, end)| u32::from(end));
        self.cumulative.wrapping_add(offset)
    }
}

/// A parameter of a RE-CONFIG chunk (RFC 6525 section 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reconfig {
    /// The peer resets streams that it sends on.
    OutgoingReset {
        /// Number of this request.
        sequence: u32,
        /// The last TSN before the reset.
        last_tsn: u32,
        /// Which streams; none means all.
        streams: Vec<u16>,
    },
    /// An answer to a request of ours.
    Response {
        /// Number of the request.
        sequence: u32,
        /// What became of it.
        result: u32,
    },
}

/// The parameters of a RE-CONFIG chunk that we know.
pub(super) fn read_reconfig(chunk: &Chunk) -> Vec<Reconfig> {
    Parameters::new(chunk.body.clone())
        .take(2)
        .filter_map(|(kind, value)| read_reconfig_parameter(kind, &value))
        .collect()
}

fn read_reconfig_parameter(kind: u16, value: &Bytes) -> Option<Reconfig> {
    match kind {
        parameter::OUTGOING_RESET => Some(Reconfig::OutgoingReset {
            sequence: u32_at(value, 0)?,
            last_tsn: u32_at(value, 8)?,
            streams: value
                .get(12..)?
                .chunks_exact(2)
                .map(|id| u16::from_be_bytes([id[0], id[1]]))
                .collect(),
        }),
        parameter::RECONFIG_RESPONSE => Some(Reconfig::Response {
            sequence: u32_at(value, 0)?,
            result: u32_at(value, 4)?,
        }),
        _ => None,
    }
}

/// Writes one packet.
#[derive(Debug, Default)]
pub(super) struct Writer {
    buffer: Vec<u8>,
}

impl Writer {
    /// Begins a packet.
    pub(super) fn begin(&mut self, tag: u32) {
        self.buffer.clear();
        self.buffer.reserve(ROOM);
        self.buffer.extend_from_slice(&PORT.to_be_bytes());
        self.buffer.extend_from_slice(&PORT.to_be_bytes());
        self.buffer.extend_from_slice(&tag.to_be_bytes());
        self.buffer.extend_from_slice(&[0; 4]);
    }

    /// Bytes written.
    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Nothing but the header.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.len() <= COMMON_HEADER
    }

    /// The packet; with its checksum unless the peer can do without.
    pub(super) fn finish(&mut self, checksum: bool) -> &[u8] {
        if checksum {
            let checksum = checksum_of(&self.buffer);
            self.buffer[8..12].copy_from_slice(&checksum.to_le_bytes());
        }
        &self.buffer
    }

    fn chunk(&mut self, kind: u8, flags: u8, body: &[&[u8]]) {
        let len = CHUNK_HEADER + body.iter().map(|part| part.len()).sum::<usize>();
        self.buffer.extend_from_slice(&[kind, flags]);
        self.buffer
            .extend_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
        for part in body {
            self.buffer.extend_from_slice(part);
        }
        self.buffer.resize(self.buffer.len().next_multiple_of(4), 0);
    }

    /// A chunk without body or with an opaque one.
    pub(super) fn plain(&mut self, kind: u8, body: &[u8]) {
        self.chunk(kind, 0, &[body]);
    }

    /// A DATA chunk.
    pub(super) fn data(&mut self, data: &Data, immediate: bool) {
        let flags = data.flags | if immediate { flag::IMMEDIATE } else { 0 };
        let mut header = [0; DATA_HEADER - CHUNK_HEADER];
        header[..4].copy_from_slice(&data.tsn.to_be_bytes());
        header[4..6].copy_from_slice(&data.stream.to_be_bytes());
        header[6..8].copy_from_slice(&data.ssn.to_be_bytes());
        header[8..].copy_from_slice(&data.ppid.to_be_bytes());
        self.chunk(kind::DATA, flags, &[&header, &data.payload]);
    }

    /// INIT, or INIT ACK when there is a cookie in it.
    pub(super) fn init(&mut self, init: &Init) {
        let mut body = Vec::with_capacity(64);
        body.extend_from_slice(&init.tag.to_be_bytes());
        body.extend_from_slice(&init.window.to_be_bytes());
        // As many streams as there are ids (RFC 8831 section 6.2).
        body.extend_from_slice(&u16::MAX.to_be_bytes());
        body.extend_from_slice(&init.inbound.to_be_bytes());
        body.extend_from_slice(&init.tsn.to_be_bytes());
        push_parameter(
            &mut body,
            parameter::SUPPORTED_EXTENSIONS,
            &[kind::RECONFIG],
        );
        push_parameter(
            &mut body,
            parameter::ZERO_CHECKSUM,
            &EDMID_DTLS.to_be_bytes(),
        );
        let kind = if init.cookie.is_empty() {
            kind::INIT
        } else {
            push_parameter(&mut body, parameter::STATE_COOKIE, &init.cookie);
            kind::INIT_ACK
        };
        self.chunk(kind, 0, &[&body]);
    }

    /// A SACK; `gaps` are offsets from the cumulative TSN.
    pub(super) fn sack(
        &mut self,
        cumulative: u32,
        window: u32,
        gaps: &[(u16, u16)],
        duplicates: &[u32],
    ) {
        let mut body = Vec::with_capacity(12 + 4 * (gaps.len() + duplicates.len()));
        body.extend_from_slice(&cumulative.to_be_bytes());
        body.extend_from_slice(&window.to_be_bytes());
        body.extend_from_slice(&u16::try_from(gaps.len()).unwrap_or(0).to_be_bytes());
        body.extend_from_slice(&u16::try_from(duplicates.len()).unwrap_or(0).to_be_bytes());
        for (start, end) in gaps {
            body.extend_from_slice(&start.to_be_bytes());
            body.extend_from_slice(&end.to_be_bytes());
        }
        for duplicate in duplicates {
            body.extend_from_slice(&duplicate.to_be_bytes());
        }
        self.chunk(kind::SACK, 0, &[&body]);
    }

    /// A RE-CONFIG chunk with one parameter. `answered` is the number of the peer's last request.
    pub(super) fn reconfig(&mut self, reconfig: &Reconfig, answered: u32) {
        let mut value = Vec::new();
        let kind = match reconfig {
            Reconfig::OutgoingReset {
                sequence,
                last_tsn,
                streams,
            } => {
                value.extend_from_slice(&sequence.to_be_bytes());
                value.extend_from_slice(&answered.to_be_bytes());
                value.extend_from_slice(&last_tsn.to_be_bytes());
                streams
                    .iter()
                    .for_each(|stream| value.extend_from_slice(&stream.to_be_bytes()));
                parameter::OUTGOING_RESET
            }
            Reconfig::Response { sequence, result } => {
                value.extend_from_slice(&sequence.to_be_bytes());
                value.extend_from_slice(&result.to_be_bytes());
                parameter::RECONFIG_RESPONSE
            }
        };
        let mut body = Vec::new();
        push_parameter(&mut body, kind, &value);
        self.chunk(kind::RECONFIG, 0, &[&body]);
    }
}

fn push_parameter(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.resize(body.len().next_multiple_of(4), 0);
    body.extend_from_slice(&kind.to_be_bytes());
    body.extend_from_slice(
        &u16::try_from(4 + value.len())
            .unwrap_or(u16::MAX)
            .to_be_bytes(),
    );
    body.extend_from_slice(value);
}

#[cfg(test)]
#[path = "tests/wire.rs"]
mod tests;
