//! The scenarios: their names, and what a dialer is asked for.

use serde::Serialize;

/// Who dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// We dial the peer.
    WeDial,
    /// The peer dials us.
    ItDials,
}

impl Direction {
    /// Its name in the results.
    pub fn name(self) -> &'static str {
        match self {
            Self::WeDial => "we-dial",
            Self::ItDials => "it-dials",
        }
    }
}

/// A scenario that is a part of one run of a dialer.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What the dialer is told.
    pub options: &'static [&'static str],
    /// The result that counts.
    pub result: &'static str,
}

/// The scenario that all others need.
pub const CONNECT: &str = "connect";
/// The dialer closes the connection; the listener notices within a second.
pub const CLOSE_BY_DIALER: &str = "close-by-dialer";
/// The listener closes the connection; the dialer notices within a second.
pub const CLOSE_BY_LISTENER: &str = "close-by-listener";
/// The listener starts again and is dialed by its stored address.
pub const RESTART: &str = "restart";
/// Nothing is said for a while, and the connection is still good.
pub const IDLE: &str = "idle";
/// The listener is killed; the dialer notices.
pub const LISTENER_KILLED: &str = "listener-killed";
/// The dialer is killed; the listener notices.
pub const DIALER_KILLED: &str = "dialer-killed";
/// Our listener asks the dialer for a DTLS cookie first.
pub const COOKIE: &str = "connect-with-cookie";
/// Both sides announce the same certificate for the same key.
pub const SAME_CERTHASH: &str = "same-certhash";
/// Dials in turn, each by a fresh process.
pub const DIALS: &str = "connect-20-times";
/// Bulk data for a peer that cannot read large messages.
pub const SMALL_MESSAGES: &str = "echo-1MiB-in-8000-byte-messages";

/// On the first connection.
pub const FIRST_RUN: &[Scenario] = &[
    Scenario {
        name: CONNECT,
        options: &[],
        result: "connected",
    },
    Scenario {
        name: "identify",
        options: &[],
        result: "identify",
    },
    Scenario {
        name: "ping-x20",
        options: &["--pings", "20"],
        result: "ping",
    },
    Scenario {
        name: "echo-1MiB",
        options: &["--echo", "1048576"],
        result: "echo",
    },
    Scenario {
        name: "half-close",
        options: &["--half-close", "1048576"],
        result: "half-close",
    },
    Scenario {
        name: "streams-100-in-turn",
        options: &["--streams", "100"],
        result: "streams-in-turn",
    },
    Scenario {
        name: "streams-100-parallel",
        options: &["--streams", "100"],
        result: "streams-parallel",
    },
    Scenario {
        name: "reset",
        options: &["--reset"],
        result: "reset",
    },
];

/// On the second connection.
pub const SECOND_RUN: &[Scenario] = &[
    Scenario {
        name: "echo-16MiB",
        options: &["--echo", "16777216"],
        result: "echo",
    },
    Scenario {
        name: "streams-1000-in-turn",
        options: &["--in-turn", "1000"],
        result: "streams-in-turn",
    },
];

/// The rows of the report, in this order; others come behind.
pub const ORDER: &[&str] = &[
    CONNECT,
    COOKIE,
    "identify",
    "ping-x20",
    "echo-1MiB",
    "echo-16MiB",
    "half-close",
    "streams-100-in-turn",
    "streams-100-parallel",
    "streams-1000-in-turn",
    IDLE,
    CLOSE_BY_DIALER,
    CLOSE_BY_LISTENER,
    DIALER_KILLED,
    LISTENER_KILLED,
    "reset",
    RESTART,
];
