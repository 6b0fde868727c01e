//! Faults of upstream `libp2p-webrtc` 0.10.0-alpha that make a cell fail whatever the other side
//! does. A failure is only excused when it shows the symptom of the fault, not by its cell alone.
//! A fault that is a race excuses one lost dial, not a rate of lost dials that is ours to improve.

use crate::runner::cells::{Cell, Direction};

/// One known fault.
struct Fault {
    /// What the detail of the cell has to contain.
    symptoms: &'static [&'static str],
    /// The direction it shows in, if only one.
    direction: Option<Direction>,
    /// Words of which one must be in the scenario.
    scenarios: &'static [&'static str],
    /// A scenario it does not excuse.
    unless: Option<&'static str>,
    /// What is wrong, and where.
    what: &'static str,
}

/// All of them.
const FAULTS: &[Fault] = &[
    Fault {
        symptoms: &["Short buffer"],
        direction: None,
        scenarios: &["echo", "half-close", "streams"],
        unless: None,
        what: "cannot read a message over 8 KiB: libp2p_webrtc_utils::Stream::new works on a clone \
               of the PollDataChannel, and a clone falls back to a read buffer of 8192 bytes",
    },
    Fault {
        symptoms: &["enumeration value"],
        direction: None,
        scenarios: &["echo", "half-close", "streams"],
        unless: None,
        what: "takes FIN_ACK (flag 3 of the specification) for garbage: its protobuf knows the \
               flags 0 to 2 only, so a read that meets it fails with InvalidData",
    },
    Fault {
        symptoms: &["still connected after", "still counts the connection"],
        direction: None,
        scenarios: &["close"],
        unless: None,
        what: "never reports the end of a connection: StreamMuxer::poll of its Connection looks at \
               no state of the peer connection, so neither a close nor a failure reaches the swarm",
    },
    Fault {
        symptoms: &["already exists a stream with identifier"],
        direction: Some(Direction::ItDials),
        scenarios: &[""],
        unless: Some("20 times"),
        what: "opens its handshake channel too late: when the listener's first Noise message comes \
               right behind COOKIE-ACK, its SCTP makes a stream 0 for it, and opening channel 0 then \
               fails; about 1 dial in 100 to upstream itself, more to a faster listener",
    },
    Fault {
        symptoms: &["no result `connected`"],
        direction: Some(Direction::WeDial),
        scenarios: &["v2"],
        unless: None,
        what: "knows only the v1 handshake: it takes the last part of USERNAME for its own ufrag \
               and password, so its answers to a v2 check are signed with the wrong key",
    },
];

/// The fault that explains this failure.
pub fn explain(cell: &Cell, detail: &str) -> Option<&'static str> {
    let scenario = format!("{} {}", cell.scenario, cell.ice);
    FAULTS
        .iter()
        .find(|fault| {
            fault.direction.is_none_or(|only| only == cell.direction)
                && fault.scenarios.iter().any(|word| scenario.contains(word))
                && fault.unless.is_none_or(|word| !scenario.contains(word))
                && fault.symptoms.iter().any(|word| detail.contains(word))
        })
        .map(|fault| fault.what)
}
