//! Bodies of the fuzz targets in `fuzz/`: one function per parser that reads what a stranger sent.
//!
//! They live here, and not in the targets, so that they are compiled and refactored with the code they call and so
//! that the tests can replay the committed samples. A function panics if the parser breaks a promise; that bytes are
//! refused is no failure. Nothing else calls this module, it is no part of the API, and it is compiled for tests and with
//! the internal feature `__fuzzing` only.

#[cfg(test)]
mod corpus;
mod endpoint;
mod signaled;
#[cfg(feature = "socketpipe")]
mod socketpipe;

use bytes::{Bytes, BytesMut};
use libp2p_core::Multiaddr;

use crate::{
    proto::{
        candidate::Candidate,
        credentials, dcep,
        frame::{self, Frame, FrameDecoder, FrameError},
        hello::{self, ClientHello},
        mdns::Name,
        sdp::{Description, MAX_CANDIDATES},
        stun::{self, Message},
    },
    transport::addr,
};

/// Limit of the frame decoder under test: small, so that short inputs reach it.
const MAX_FRAME_LEN: usize = 4096;

/// Datagrams and calls into two endpoints with a live connection between them.
pub fn endpoint(data: &[u8]) {
    endpoint::run(data);
}

/// Descriptions, candidates, datagrams and what TURN servers say, for a connection that is set up through signaling.
pub fn signaled(data: &[u8]) {
    signaled::run(data);
}

/// A datagram that may be a STUN message.
pub fn stun(data: &[u8]) {
    let parsed = stun::parse(data);
    assert!(parsed.is_err() || stun::is_stun(data));
    match parsed {
        Ok(Message::BindingRequest(request)) => {
            let username = request.username().unwrap_or_default();
            let key = username.split(':').next().unwrap_or_default();
            let verified = request.verify(key.as_bytes());
            assert!(!verified || request.has_integrity());
        }
        Ok(Message::BindingSuccess(response) | Message::BindingError(response)) => {
            let mut echo = Vec::new();
            if let Some(address) = response.mapped_address() {
                stun::encode_binding_success(response.transaction_id(), address, b"key", &mut echo);
            } else if let Some(code) = response.error_code() {
                stun::encode_binding_error(response.transaction_id(), code, "", b"key", &mut echo);
            } else {
                return;
            }
            let Ok(Message::BindingSuccess(copy) | Message::BindingError(copy)) =
                stun::parse(&echo)
            else {
                panic!("our own response was refused");
            };
            assert!(copy.verify(b"key"));
            assert_eq!(copy.mapped_address(), response.mapped_address());
        }
        Ok(Message::Other) | Err(_) => {}
    }
}

/// The first DTLS datagram of an address.
pub fn client_hello(data: &[u8]) {
    let Some(hello) = ClientHello::read(data) else {
        return;
    };
    assert!(data.windows(32).any(|part| part == hello.random));
    let request = hello::verify_request(&hello, &[7; 32]);
    assert_eq!(request.len(), hello::VERIFY_LEN);
    let earlier = hello::earlier_hello(&hello, hello.message_seq);
    let again = ClientHello::read(&earlier).expect("our own is read");
    assert_eq!(
        (again.random, again.message_seq),
        (hello.random, hello.message_seq)
    );
    assert!(again.cookie.is_empty());
}

/// The USERNAME of a first packet.
pub fn username(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match credentials::parse_username(text) {
        Ok(parsed) => {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
            for half in [parsed.server_ufrag, parsed.client_ufrag] {
                assert!((4..=256).contains(&half.len()));
                assert!(half.bytes().all(allowed));
            }
            assert!((22..=256).contains(&parsed.client_pwd.len()));
        }
        Err(reason) => assert!(!reason.as_str().is_empty()),
    }
}

/// The byte stream of a channel; the first byte says into how long pieces the rest is cut.
pub fn frame(data: &[u8]) {
    let Some((&piece_len, stream)) = data.split_first() else {
        return;
    };
    let whole = decode([stream]);
    let pieces = decode(stream.chunks(usize::from(piece_len).max(1)));
    assert_eq!(whole, pieces, "frames depend on how they were cut");
    for frame in whole.0 {
        let mut encoded = BytesMut::new();
        frame::encode_data(&frame.message, &mut encoded);
        assert_eq!(
            encoded.len(),
            frame::encoded_len(frame.message.len(), false)
        );
    }
}

/// All frames up to the end or up to the first error, and that error.
fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<FrameError>) {
    let mut decoder = FrameDecoder::new(MAX_FRAME_LEN);
    let mut frames = Vec::new();
    for piece in pieces {
        decoder.push(Bytes::copy_from_slice(piece));
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(decoder.buffered() <= MAX_FRAME_LEN);
    }
    (frames, None)
}

/// A message of the data channel establishment protocol.
pub fn dcep(data: &[u8]) {
    let Ok(message) = dcep::parse(Bytes::copy_from_slice(data)) else {
        return;
    };
    match message {
        dcep::Dcep::Open(open) => {
            assert_eq!(data.len(), 12 + open.label.len() + open.protocol.len());
            assert_eq!(open.is_unordered(), data[1] >= 0x80);
        }
        dcep::Dcep::Ack => assert_eq!(data.len(), 1),
    }
}

/// A session description.
pub fn sdp(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(read) = Description::parse(text) else {
        return;
    };
    assert!(!read.fingerprints.is_empty() && read.candidates.len() <= MAX_CANDIDATES);
    let written = read.to_string();
    assert_eq!(Description::parse(&written).as_ref(), Ok(&read));
}

/// An ICE candidate as signaling carries it.
pub fn candidate(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(read) = Candidate::parse(text) {
        let written = read.to_string();
        assert!(!written.contains(['\r', '\n']));
        assert_eq!(Candidate::parse(&written).as_ref(), Ok(&read));
    }
}

/// A message of multicast DNS.
pub fn mdns(data: &[u8]) {
    let name = Name::parse("768527e2-58b4-45e7-8822-d3e36f19e808.local").expect("it is a name");
    if let Some(address) = name.answer(data) {
        let octets = match address {
            std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
            std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        assert!(data.windows(octets.len()).any(|part| part == octets));
    }
}

/// A multiaddr, as bytes or as text.
pub fn multiaddr(data: &[u8]) {
    let binary = Multiaddr::try_from(data.to_vec()).ok();
    let text = std::str::from_utf8(data)
        .ok()
        .and_then(|text| text.parse::<Multiaddr>().ok());
    for address in [binary, text].into_iter().flatten() {
        let listen = addr::parse_listen(&address);
        let Ok(dial) = addr::parse_dial(&address) else {
            continue;
        };
        assert_eq!(listen, Some(dial.socket));
        assert!(!dial.certhashes.is_empty());
        let announced = addr::listen_addr(dial.socket, &dial.certhashes);
        let again = addr::parse_dial(&announced).expect("an announced address can be dialed");
        assert_eq!(again.certhashes, dial.certhashes);
    }
}

/// Frames of SocketPipe on a byte stream.
#[cfg(feature = "socketpipe")]
pub fn socketpipe_frame(data: &[u8]) {
    socketpipe::codec(data);
}

/// A SocketPipe session whose peer may send anything at any time.
#[cfg(feature = "socketpipe")]
#[expect(
    clippy::disallowed_methods,
    reason = "virtual time needs a beginning, and there is no other way to make an instant"
)]
pub fn socketpipe_session(data: &[u8]) {
    socketpipe::session(data, std::time::Instant::now());
}
