//! A look at SCTP packets (RFC 9260 section 3) before and after the engine.
//!
//! The engine underneath trusts its input more than a listener may: it closes the association on harmless chunks and
//! complains loudly about malformed ones. [`inspect`] decides what reaches it. The same walk over outgoing packets
//! feeds the round-trip and retransmission figures, which the engine does not give. Owns nothing; called by `sctp`.

const COMMON_HEADER: usize = 12;
const CHUNK_HEADER: usize = 4;
const DATA_HEADER: usize = 16;

const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const SACK: u8 = 3;
const HEARTBEAT: u8 = 4;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;
const RECONFIG: u8 = 130;
const FORWARD_TSN: u8 = 192;

/// Why a packet is kept from the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Defect {
    /// Not an SCTP packet, or a chunk that does not fit into it.
    Malformed,
    /// A chunk this endpoint has no use for (ERROR, HEARTBEAT ACK, unknown types).
    Useless,
}

/// What a well-formed packet holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    /// At least one DATA chunk.
    pub(super) data: bool,
    /// Cumulative TSN of the SACK, if there is one.
    pub(super) sack: Option<u32>,
    /// Highest TSN that the SACK speaks of.
    pub(super) sack_highest: Option<u32>,
    /// An ABORT.
    pub(super) abort: bool,
    /// A SHUTDOWN of any kind.
    pub(super) shutdown: bool,
    /// Initiate tag of an INIT.
    pub(super) init: Option<u32>,
}

/// One DATA chunk of an outgoing packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DataChunk {
    /// Its transmission sequence number.
    pub(super) tsn: u32,
    /// Bytes of user data.
    pub(super) len: u16,
}

struct Chunk<'a> {
    kind: u8,
    /// Header included, padding not.
    bytes: &'a [u8],
}

/// Chunks of a packet until the first that does not fit.
struct Chunks<'a> {
    rest: &'a [u8],
    malformed: bool,
}

impl<'a> Chunks<'a> {
    fn new(packet: &'a [u8]) -> Self {
        match packet.get(COMMON_HEADER..) {
            Some(rest) if !rest.is_empty() => Self { rest, malformed: false },
            _ => Self { rest: &[], malformed: true },
        }
    }
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Chunk<'a>;

    fn next(&mut self) -> Option<Chunk<'a>> {
        if self.rest.is_empty() || self.malformed {
            return None;
        }
        let len = self.rest.get(2..4).map_or(0, |len| usize::from(u16::from_be_bytes([len[0], len[1]])));
        if len < CHUNK_HEADER || len > self.rest.len() {
            self.malformed = true;
            return None;
        }
        let chunk = Chunk { kind: self.rest[0], bytes: &self.rest[..len] };
        self.rest = self.rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some(chunk)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Whether the engine may see `packet`, and what it holds.
pub(super) fn inspect(packet: &[u8]) -> Result<Summary, Defect> {
    let mut summary = Summary::default();
    let mut chunks = Chunks::new(packet);
    for chunk in chunks.by_ref() {
        inspect_chunk(&chunk, &mut summary)?;
    }
    if chunks.malformed { Err(Defect::Malformed) } else { Ok(summary) }
}

fn inspect_chunk(chunk: &Chunk<'_>, summary: &mut Summary) -> Result<(), Defect> {
    match chunk.kind {
        DATA if chunk.bytes.len() > DATA_HEADER => summary.data = true,
        INIT | INIT_ACK => inspect_init(chunk, summary)?,
        SACK => inspect_sack(chunk.bytes, summary)?,
        ABORT => summary.abort = true,
        SHUTDOWN if chunk.bytes.len() == 8 => summary.shutdown = true,
        SHUTDOWN_ACK | SHUTDOWN_COMPLETE => summary.shutdown = true,
        HEARTBEAT | COOKIE_ECHO | RECONFIG if chunk.bytes.len() > CHUNK_HEADER => {}
        COOKIE_ACK => {}
        FORWARD_TSN if chunk.bytes.len() >= 8 => {}
        DATA | SHUTDOWN | HEARTBEAT | COOKIE_ECHO | RECONFIG | FORWARD_TSN => return Err(Defect::Malformed),
        _ => return Err(Defect::Useless),
    }
    Ok(())
}

/// RFC 9260 section 3.3.2: tag and stream counts are not zero, the window is at least 1,500 bytes.
fn inspect_init(chunk: &Chunk<'_>, summary: &mut Summary) -> Result<(), Defect> {
    let tag = u32_at(chunk.bytes, 4).filter(|&tag| tag != 0);
    let window = u32_at(chunk.bytes, 8).filter(|&window| window >= 1500);
    let outbound = u16_at(chunk.bytes, 12).filter(|&count| count != 0);
    let inbound = u16_at(chunk.bytes, 14).filter(|&count| count != 0);
    let valid = window.is_some() && outbound.is_some() && inbound.is_some() && chunk.bytes.len() >= 20;
    match tag {
        Some(tag) if valid => {
            if chunk.kind == INIT {
                summary.init = Some(tag);
            }
            Ok(())
        }
        _ => Err(Defect::Malformed),
    }
}

fn inspect_sack(bytes: &[u8], summary: &mut Summary) -> Result<(), Defect> {
    let (Some(cumulative), Some(gaps), Some(duplicates)) = (u32_at(bytes, 4), u16_at(bytes, 12), u16_at(bytes, 14)) else {
        return Err(Defect::Malformed);
    };
    if bytes.len() != 16 + 4 * usize::from(gaps) + 4 * usize::from(duplicates) {
        return Err(Defect::Malformed);
    }
    let mut highest = cumulative;
    let mut previous_end = 0;
    for gap in 0..usize::from(gaps) {
        let start = u16_at(bytes, 16 + 4 * gap).unwrap_or(0);
        let end = u16_at(bytes, 18 + 4 * gap).unwrap_or(0);
        if start <= previous_end || end < start {
            return Err(Defect::Malformed);
        }
        previous_end = end;
        highest = cumulative.wrapping_add(u32::from(end));
    }
    summary.sack = Some(cumulative);
    summary.sack_highest = Some(highest);
    Ok(())
}

/// The DATA chunks of a packet that the engine made.
pub(super) fn data_chunks(packet: &[u8]) -> impl Iterator<Item = DataChunk> + '_ {
    Chunks::new(packet).filter(|chunk| chunk.kind == DATA).filter_map(|chunk| {
        let len = chunk.bytes.len().checked_sub(DATA_HEADER)?;
        Some(DataChunk { tsn: u32_at(chunk.bytes, 4)?, len: u16::try_from(len).ok()? })
    })
}

/// The window that a SACK in this packet grants the peer.
pub(super) fn advertised_window(packet: &[u8]) -> Option<u32> {
    Chunks::new(packet).filter(|chunk| chunk.kind == SACK).find_map(|chunk| u32_at(chunk.bytes, 8))
}

/// `a` is not after `b` in serial arithmetic (RFC 1982).
pub(super) fn tsn_at_most(a: u32, b: u32) -> bool {
    b.wrapping_sub(a) < 1 << 31
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(chunks: &[&[u8]]) -> Vec<u8> {
        let mut packet = vec![0; COMMON_HEADER];
        for chunk in chunks {
            packet.extend_from_slice(chunk);
            packet.resize(packet.len().next_multiple_of(4), 0);
        }
        packet
    }

    fn sack(cumulative: u32, gaps: &[(u16, u16)]) -> Vec<u8> {
        let mut chunk = vec![SACK, 0, 0, (16 + 4 * gaps.len()) as u8];
        chunk.extend_from_slice(&cumulative.to_be_bytes());
        chunk.extend_from_slice(&[0, 1, 0, 0, 0, gaps.len() as u8, 0, 0]);
        for (start, end) in gaps {
            chunk.extend_from_slice(&start.to_be_bytes());
            chunk.extend_from_slice(&end.to_be_bytes());
        }
        chunk
    }

    #[test]
    fn a_sack_tells_what_it_acknowledges() {
        let summary = inspect(&packet(&[&sack(7, &[(2, 3), (5, 9)])])).unwrap();
        assert_eq!((summary.sack, summary.sack_highest), (Some(7), Some(16)));
    }

    #[test]
    fn sacks_with_overlapping_or_backward_gaps_are_malformed() {
        for gaps in [&[(3, 2)][..], &[(0, 1)], &[(2, 5), (5, 6)]] {
            assert_eq!(inspect(&packet(&[&sack(7, gaps)])), Err(Defect::Malformed));
        }
    }

    #[test]
    fn chunks_that_do_not_fit_are_malformed() {
        for bytes in [&[][..], &[DATA, 3, 0, 16], &[DATA, 3, 0, 40, 0, 0, 0, 0], &[DATA, 3, 0, 2], &[7, 0]] {
            assert_eq!(inspect(&packet(&[bytes])), Err(Defect::Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn error_and_unknown_chunks_are_useless() {
        for kind in [5, 9, 63, 194, 255] {
            assert_eq!(inspect(&packet(&[&[kind, 0, 0, 8, 0, 0, 0, 0]])), Err(Defect::Useless), "{kind}");
        }
    }

    #[test]
    fn an_init_with_zero_tag_or_streams_is_malformed() {
        let good = [1, 0, 0, 20, 0, 0, 0, 9, 0, 0, 16, 0, 0, 1, 0, 1, 0, 0, 0, 5];
        assert_eq!(inspect(&packet(&[&good])).unwrap().init, Some(9));
        for (at, len) in [(4, 4), (8, 4), (12, 2), (14, 2)] {
            let mut bad = good;
            bad[at..at + len].fill(0);
            assert_eq!(inspect(&packet(&[&bad])), Err(Defect::Malformed), "at {at}");
        }
    }

    #[test]
    fn data_chunks_are_listed_with_their_sizes() {
        let mut chunk = vec![DATA, 3, 0, 19, 0, 0, 0, 5];
        chunk.extend_from_slice(&[0; 11]);
        let packet = packet(&[&[COOKIE_ACK, 0, 0, 4], &chunk, &chunk]);
        let expected = DataChunk { tsn: 5, len: 3 };
        assert_eq!(data_chunks(&packet).collect::<Vec<_>>(), [expected, expected]);
    }

    #[test]
    fn serial_arithmetic_wraps() {
        assert!(tsn_at_most(u32::MAX, 3) && tsn_at_most(3, 3) && !tsn_at_most(3, u32::MAX));
    }

    proptest! {
        #[test]
        fn any_bytes_are_inspected_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = inspect(&bytes);
            prop_assert!(data_chunks(&bytes).count() < 60);
        }
    }
}
