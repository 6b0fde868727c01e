//! Messages of the WebRTC Data Channel Establishment Protocol ([RFC 8832]): OPEN and ACK.
//!
//! Called by the connection for user messages with payload protocol id 50. Only the bytes are read and written here;
//! whether a channel may be opened (parity of its id, limits, reliability) is decided by the caller.
//!
//! [RFC 8832]: https://www.rfc-editor.org/rfc/rfc8832

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Message type of `DATA_CHANNEL_ACK`.
const ACK: u8 = 0x02;
/// Message type of `DATA_CHANNEL_OPEN`.
const OPEN: u8 = 0x03;
/// Bytes of an OPEN after the message type and before the label.
const OPEN_HEADER_LEN: usize = 11;
/// Channel type of an ordered channel that retransmits until everything has arrived.
const RELIABLE: u8 = 0x00;
/// Set in the channel type if messages may be delivered out of order.
const UNORDERED: u8 = 0x80;

/// A request to open the channel it arrived on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    /// Ordering and reliability (RFC 8832, section 8.2.2).
    pub(crate) channel_type: u8,
    /// Priority of the channel; libp2p has no use for it.
    pub(crate) priority: u16,
    /// Retransmission limit of channels that are not reliable.
    pub(crate) reliability: u32,
    /// Name of the channel. Empty in libp2p, but a receiver must not insist on it.
    pub(crate) label: Bytes,
    /// Sub-protocol of the channel. Empty in libp2p; litep2p puts the name of the libp2p protocol here.
    pub(crate) protocol: Bytes,
}

impl Open {
    /// Whether messages on the channel may overtake each other.
    pub(crate) const fn is_unordered(&self) -> bool {
        self.channel_type & UNORDERED != 0
    }

    /// Whether no message on the channel may get lost.
    pub(crate) const fn is_reliable(&self) -> bool {
        self.channel_type & !UNORDERED == RELIABLE
    }
}

/// A message of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dcep {
    /// The peer opens a channel.
    Open(Open),
    /// The peer confirms our channel.
    Ack,
}

/// Why a message is not one of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DcepError {
    /// The message has no bytes.
    #[error("empty channel establishment message")]
    Empty,
    /// The first byte is neither OPEN nor ACK.
    #[error("unknown channel establishment message {0:#04x}")]
    UnknownMessage(u8),
    /// The length of the message disagrees with its content.
    #[error("channel establishment message has a wrong length")]
    Length,
}

/// Reads one message; label and protocol share its memory.
pub(crate) fn parse(mut message: Bytes) -> Result<Dcep, DcepError> {
    if message.is_empty() {
        return Err(DcepError::Empty);
    }
    match message.get_u8() {
        ACK if message.is_empty() => Ok(Dcep::Ack),
        ACK => Err(DcepError::Length),
        OPEN => parse_open(message).map(Dcep::Open),
        other => Err(DcepError::UnknownMessage(other)),
    }
}

/// Reads what follows the message type of OPEN (RFC 8832, section 5.1).
fn parse_open(mut message: Bytes) -> Result<Open, DcepError> {
    if message.len() < OPEN_HEADER_LEN {
        return Err(DcepError::Length);
    }
    let channel_type = message.get_u8();
    let priority = message.get_u16();
    let reliability = message.get_u32();
    let label_len = usize::from(message.get_u16());
    let protocol_len = usize::from(message.get_u16());
    if message.len() != label_len + protocol_len {
        return Err(DcepError::Length);
    }
    let label = message.split_to(label_len);
    Ok(Open {
        channel_type,
        priority,
        reliability,
        label,
        protocol: message,
    })
}

/// Appends an OPEN for a reliable, ordered channel.
pub(crate) fn encode_open(label: &str, protocol: &str, out: &mut BytesMut) {
    let len = |text: &str| u16::try_from(text.len()).expect("our own channel names are short");
    out.reserve(1 + OPEN_HEADER_LEN + label.len() + protocol.len());
    out.put_u8(OPEN);
    out.put_u8(RELIABLE);
    out.put_u16(0);
    out.put_u32(0);
    out.put_u16(len(label));
    out.put_u16(len(protocol));
    out.put_slice(label.as_bytes());
    out.put_slice(protocol.as_bytes());
}

/// Appends an ACK.
pub(crate) fn encode_ack(out: &mut BytesMut) {
    out.put_u8(ACK);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn open(label: &str, protocol: &str) -> Bytes {
        let mut out = BytesMut::new();
        encode_open(label, protocol, &mut out);
        out.freeze()
    }

    #[test]
    fn open_of_a_libp2p_stream_has_twelve_bytes() {
        assert_eq!(open("", "")[..], [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn reads_all_fields_of_an_open() {
        let message = Bytes::from_static(b"\x03\x82\x01\x00\0\0\x01\x02\0\x02\0\x03hiabc");

        let Ok(Dcep::Open(open)) = parse(message) else {
            panic!("valid OPEN was refused");
        };

        assert_eq!(open.channel_type, 0x82);
        assert_eq!(open.priority, 256);
        assert_eq!(open.reliability, 258);
        assert_eq!(open.label, "hi");
        assert_eq!(open.protocol, "abc");
        assert!(open.is_unordered());
        assert!(!open.is_reliable());
    }

    #[test]
    fn knows_order_and_reliability_of_each_channel_type() {
        for (channel_type, unordered, reliable) in [
            (0x00, false, true),
            (0x80, true, true),
            (0x01, false, false),
            (0x81, true, false),
            (0x02, false, false),
            (0x82, true, false),
        ] {
            let open = Open {
                channel_type,
                priority: 0,
                reliability: 0,
                label: Bytes::new(),
                protocol: Bytes::new(),
            };
            assert_eq!(open.is_unordered(), unordered, "{channel_type:#04x}");
            assert_eq!(open.is_reliable(), reliable, "{channel_type:#04x}");
        }
    }

    #[test]
    fn ack_is_one_byte() {
        let mut out = BytesMut::new();
        encode_ack(&mut out);

        assert_eq!(out[..], [2]);
        assert_eq!(parse(out.freeze()), Ok(Dcep::Ack));
    }

    #[test]
    fn refuses_an_empty_message() {
        assert_eq!(parse(Bytes::new()), Err(DcepError::Empty));
    }

    #[test]
    fn refuses_an_unknown_message_type() {
        assert_eq!(
            parse(Bytes::from_static(&[1, 0, 0])),
            Err(DcepError::UnknownMessage(1))
        );
    }

    #[test]
    fn refuses_an_open_cut_at_any_byte() {
        let message = open("label", "protocol");

        for len in 1..message.len() {
            assert_eq!(parse(message.slice(..len)), Err(DcepError::Length));
        }
    }

    #[test]
    fn refuses_bytes_after_the_end() {
        let mut longer = BytesMut::from(&open("label", "protocol")[..]);
        longer.put_u8(0);

        assert_eq!(parse(longer.freeze()), Err(DcepError::Length));
        assert_eq!(parse(Bytes::from_static(&[2, 2])), Err(DcepError::Length));
    }

    proptest! {
        #[test]
        fn an_encoded_open_is_read_back(label in ".{0,40}", protocol in ".{0,40}") {
            let parsed = parse(open(&label, &protocol));

            prop_assert_eq!(parsed, Ok(Dcep::Open(Open {
                channel_type: 0,
                priority: 0,
                reliability: 0,
                label: Bytes::from(label),
                protocol: Bytes::from(protocol),
            })));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _result = parse(Bytes::from(bytes));
        }
    }
}
