#![expect(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for virtual time"
)]

use super::*;
use crate::proto::{demux, tests::client_hello};

fn remote(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

#[test]
fn the_fixed_part_of_a_client_hello_is_read() {
    let datagram = client_hello();
    let hello = ClientHello::read(&datagram).unwrap();
    assert_eq!((hello.message_seq, hello.cookie), (0, &[][..]));
    assert_eq!(hello.random[..], datagram[27..59]);
}

#[test]
fn a_cut_client_hello_is_none_and_never_read_beyond_its_end() {
    let datagram = client_hello();
    for len in 0..datagram.len() {
        // The length of the record says more than there is.
        assert_eq!(ClientHello::read(&datagram[..len]), None);
    }
    for at in 0..80 {
        for value in [0, 1, 2, 40, 0x7f, 0xff] {
            let mut changed = datagram.clone();
            changed[at] = value;
            if let Some(hello) = ClientHello::read(&changed) {
                assert!(hello.message_seq <= MAX_MESSAGE_SEQ && hello.cookie.len() < 256);
            }
        }
    }
}

#[test]
fn later_fragments_other_messages_and_other_epochs_are_no_client_hello() {
    // Epoch, handshake type, number of the message, fragment offset.
    for at in [4, 13, 17, 21] {
        let mut datagram = client_hello();
        datagram[at] = 9;
        assert_eq!(ClientHello::read(&datagram), None, "byte {at}");
    }
}

#[test]
fn a_first_fragment_is_enough() {
    let whole = client_hello();
    let mut first = whole[..90].to_vec();
    first[11..13].copy_from_slice(&77_u16.to_be_bytes());
    first[22..25].copy_from_slice(&[0, 0, 65]);
    assert_eq!(ClientHello::read(&first), ClientHello::read(&whole));
}

/// The ClientHello a client sends when it was asked for a cookie.
fn with_cookie<'a>(hello: &ClientHello<'_>, cookie: &'a [u8]) -> ClientHello<'a> {
    ClientHello {
        message_seq: 1,
        cookie,
        random: hello.random,
    }
}

#[test]
fn a_cookie_is_good_for_its_address_and_a_while() {
    let now = Instant::now();
    let datagram = client_hello();
    let hello = ClientHello::read(&datagram).unwrap();
    let mut cookies = Cookies::new([1; 32]);
    let cookie = cookies.make(now, remote(1));
    let again = with_cookie(&hello, &cookie);
    assert_eq!(cookies.verify(now, remote(1), &again), Some(cookie));
    assert_eq!(
        cookies.verify(now + PERIOD, remote(1), &again),
        Some(cookie)
    );
    assert_eq!(cookies.verify(now + PERIOD * 2, remote(1), &again), None);
    assert_eq!(cookies.verify(now, remote(2), &again), None);
    let cut = with_cookie(&hello, &cookie[..31]);
    assert_eq!(cookies.verify(now, remote(1), &cut), None);
    assert_eq!(cookies.verify(now, remote(1), &hello), None);
    assert_eq!(
        Cookies::new([2; 32]).verify(now, remote(1), &again),
        None,
        "another endpoint's"
    );
}

#[test]
fn what_is_written_is_a_dtls_record_of_the_announced_length() {
    let datagram = client_hello();
    let hello = ClientHello::read(&datagram).unwrap();
    let request = verify_request(&hello, &[7; 32]);
    assert_eq!(request.len(), VERIFY_LEN);
    assert!(request.len() <= datagram.len(), "nothing is amplified");
    assert_eq!(
        demux::classify(&request),
        demux::Kind::Dtls {
            client_hello: false
        }
    );
    let earlier = earlier_hello(&hello, 0);
    assert_eq!(ClientHello::read(&earlier), Some(hello));
}
