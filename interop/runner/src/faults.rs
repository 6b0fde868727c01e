//! Faults of the peers that make a cell fail whatever we do. A failure is only excused when it shows the symptom of the
//! fault, not by its cell alone; every cell is tried again in each run. A fault that is a race excuses one lost dial, not
//! a rate of lost dials that is ours to improve.

use crate::line::{Line, text};

/// One known fault.
#[derive(Debug)]
pub struct Fault {
    /// How the names of the peers that have it start.
    pub peers: &'static str,
    /// What the detail of the cell has to contain one of.
    symptoms: &'static [&'static str],
    /// The direction it shows in, if only one.
    direction: Option<&'static str>,
    /// Words of which one must be in the scenario.
    scenarios: &'static [&'static str],
    /// The handshake it shows with, if only one.
    ice: Option<&'static str>,
    /// A scenario it does not excuse.
    unless: Option<&'static str>,
    /// What is wrong, and where.
    pub what: &'static str,
}

/// Scenarios that carry data on streams.
const DATA: &[&str] = &["echo", "half-close", "streams", "idle", "ping", "reset"];

/// All of them.
pub const FAULTS: &[Fault] = &[
    Fault {
        peers: "go-libp2p",
        symptoms: &["noticed after 4", "noticed after 5"],
        direction: None,
        scenarios: &["killed"],
        ice: None,
        unless: None,
        what: "notices the silence of a killed peer after 50 s: its ICE agent takes 20 s to call the connection \
               disconnected and another 30 s to call it failed (DefaultDisconnectedTimeout and DefaultFailedTimeout of its \
               WebRTC transport), and only that closes it",
    },
    Fault {
        peers: "go-libp2p-v0.47",
        symptoms: &["announces /ip4/127.0.0.1/udp/"],
        direction: Some("we-dial"),
        scenarios: &["restart"],
        ice: None,
        unless: None,
        what: "makes a new certificate at each start, so that its stored addresses are worth nothing after a restart; from \
               v0.49 on the certificate is derived from the identity",
    },
    Fault {
        peers: "litep2p",
        symptoms: &["a clean end of stream after"],
        direction: None,
        scenarios: &["reset"],
        ice: None,
        unless: None,
        what: "cannot reset a stream: Substream has no reset, and dropping it sends STOP_SENDING and FIN",
    },
    Fault {
        peers: "litep2p",
        symptoms: &["still connected after", "noticed after"],
        direction: Some("we-dial"),
        scenarios: &["close-by-listener"],
        ice: None,
        unless: None,
        what: "says nothing when it closes a connection: force_close drops its Rtc without SCTP ABORT, SHUTDOWN or DTLS \
               close_notify, and goes on to answer connectivity checks",
    },
    Fault {
        peers: "litep2p",
        symptoms: &[
            "the peer reset the stream",
            "max number of pending inbound messages",
        ],
        direction: Some("we-dial"),
        scenarios: &["echo", "half-close"],
        ice: None,
        unless: None,
        what: "resets a stream at its 257th unread message (MAX_INFLIGHT_MESSAGES) instead of slowing the sender down",
    },
    Fault {
        peers: "litep2p",
        symptoms: &["received non-stun packet without existing connection"],
        direction: Some("we-dial"),
        scenarios: &["echo", "half-close"],
        ice: None,
        unless: None,
        what: "loses a connection under load: an SCTP message of which a part is missing ends its association (\"receive \
               buffer exhausted during message reassembly\", sctp-proto 0.10.8), and it says nothing of that to the peer",
    },
    Fault {
        peers: "py-libp2p",
        symptoms: &["the stream ended after 0 of"],
        direction: Some("it-dials"),
        scenarios: &["half-close"],
        ice: None,
        unless: None,
        what: "has no half-close: WebRTCStream has no close_write, and close sends FIN and stops reading",
    },
    Fault {
        peers: "py-libp2p",
        symptoms: &["read buffer full, dropping message"],
        direction: None,
        scenarios: &["echo", "half-close"],
        ice: None,
        unless: None,
        what: "loses data: the 65th unread message of a stream is dropped and the stream goes on \
               (WebRTCStream._apply_batch_on_trio_thread)",
    },
    Fault {
        peers: "py-libp2p",
        symptoms: &["not done after 60 s"],
        direction: Some("it-dials"),
        scenarios: &["echo"],
        ice: None,
        unless: None,
        what: "gets stuck: a message that came early stays in the queue of aiortc 1.15 (InboundStream.pop_messages) when the \
               missing one arrives, until another comes on that stream",
    },
    Fault {
        peers: "py-libp2p",
        symptoms: &["a clean end of the stream after"],
        direction: Some("it-dials"),
        scenarios: &["reset"],
        ice: None,
        unless: None,
        what: "takes a reset for the end: a reader that waits when RESET comes gets \"Stream closed by remote\", as after FIN \
               (WebRTCStream._reset_locally)",
    },
    Fault {
        peers: "py-libp2p",
        symptoms: &["Stream limit reached"],
        direction: Some("it-dials"),
        scenarios: &["streams-1000"],
        ice: None,
        unless: None,
        what: "opens no more than 256 streams at once, and one that has ended counts until its data channel is closed, which \
               takes its time on a busy machine (WebRTCTransportConfig.max_concurrent_streams)",
    },
    Fault {
        peers: "py-libp2p",
        symptoms: &[
            "still connected after",
            "noticed after",
            "not done after 60 s",
        ],
        direction: None,
        scenarios: &["close", "killed"],
        ice: None,
        unless: None,
        what: "does not notice the end of a connection, whether it is closed or killed: wire_pc_to_connection watches nothing",
    },
    Fault {
        peers: "rust-upstream",
        symptoms: &["outbound packet larger than maximum message size"],
        direction: None,
        scenarios: DATA,
        ice: None,
        unless: None,
        what: "joins writes that are not flushed into one message of any size, up to more than the 64 KiB it can send",
    },
    Fault {
        peers: "rust-upstream",
        symptoms: &["Short buffer"],
        direction: None,
        scenarios: DATA,
        ice: None,
        unless: Some("8000-byte"),
        what: "cannot read a message over 8 KiB: libp2p_webrtc_utils::Stream::new works on a clone of the \
               PollDataChannel, and a clone falls back to a read buffer of 8192 bytes",
    },
    Fault {
        peers: "rust-upstream",
        symptoms: &["enumeration value"],
        direction: None,
        scenarios: DATA,
        ice: None,
        unless: None,
        what: "takes FIN_ACK (flag 3 of the specification) for garbage: its protobuf knows the flags 0 to 2 only, so a \
               read that meets it fails with InvalidData",
    },
    Fault {
        peers: "rust-upstream",
        symptoms: &["still connected after", "noticed after"],
        direction: None,
        scenarios: &["close", "killed"],
        ice: None,
        unless: None,
        what: "never reports the end of a connection: StreamMuxer::poll of its Connection looks at no state of the peer \
               connection, so neither a close nor a failure reaches the swarm; what ends such a connection, seconds later or \
               never, is an own stream that cannot be opened",
    },
    Fault {
        peers: "rust-upstream",
        symptoms: &["a clean end of stream after"],
        direction: Some("it-dials"),
        scenarios: &["reset"],
        ice: None,
        unless: None,
        what: "loses a RESET that is followed by the reset of its SCTP stream: Stream::read_sctp of webrtc-sctp 0.17 looks at \
               read_shutdown before its queue, so the reader sees an end of stream instead",
    },
    Fault {
        peers: "rust-upstream",
        symptoms: &["already exists a stream with identifier"],
        direction: Some("it-dials"),
        scenarios: &[""],
        ice: None,
        unless: Some("20-times"),
        what: "opens its handshake channel too late: when the listener's first Noise message comes right behind \
               COOKIE-ACK, its SCTP makes a stream 0 for it, and opening channel 0 then fails; about 1 dial in 100 to \
               upstream itself, more to a faster listener",
    },
    Fault {
        peers: "rust-upstream",
        symptoms: &["not set up in time", "not connected"],
        direction: Some("we-dial"),
        scenarios: &[""],
        ice: Some("v2"),
        unless: None,
        what: "knows only the v1 handshake: it takes the last part of USERNAME for its own ufrag and password, so its \
               answers to a v2 check are signed with the wrong key",
    },
];

/// The fault that explains this failure.
pub fn explain(line: &Line) -> Option<&'static Fault> {
    let detail = text(&line.detail);
    FAULTS.iter().find(|fault| {
        line.peer.starts_with(fault.peers)
            && fault.direction.is_none_or(|only| only == line.direction)
            && fault.ice.is_none_or(|only| only == line.ice)
            && fault
                .scenarios
                .iter()
                .any(|word| line.scenario.contains(word))
            && fault
                .unless
                .is_none_or(|word| !line.scenario.contains(word))
            && fault.symptoms.iter().any(|word| detail.contains(word))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn failed(peer: &str, direction: &str, scenario: &str, detail: &str) -> Line {
        Line {
            peer: peer.to_owned(),
            direction: direction.to_owned(),
            ice: "v1".to_owned(),
            scenario: scenario.to_owned(),
            ok: false,
            ms: 0.0,
            detail: json!(detail),
            peers_fault: None,
            first_failure: None,
        }
    }

    #[test]
    fn excuses_a_failure_that_shows_the_symptom() {
        let line = failed(
            "litep2p",
            "we-dial",
            "reset",
            "a clean end of stream after 1000 bytes",
        );
        assert!(explain(&line).is_some());
    }

    #[test]
    fn does_not_excuse_the_same_cell_without_the_symptom() {
        let line = failed("litep2p", "we-dial", "reset", "no end after 60 s");
        assert!(explain(&line).is_none());
    }

    #[test]
    fn does_not_excuse_another_peer() {
        let line = failed(
            "js-node",
            "we-dial",
            "reset",
            "a clean end of stream after 1000 bytes",
        );
        assert!(explain(&line).is_none());
    }

    #[test]
    fn does_not_excuse_a_rate_of_lost_dials() {
        let detail = "first failure: there already exists a stream with identifier 0";
        let repeated = failed("rust-upstream", "it-dials", crate::scenarios::DIALS, detail);
        assert!(explain(&repeated).is_none());
        let once = failed("rust-upstream", "it-dials", "connect", detail);
        assert!(explain(&once).is_some());
    }
}
