//! The cells: which program dials with which options, and what has to come out.

use std::time::Duration;

use serde::Serialize;

/// Who dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// The node under test dials this peer.
    WeDial,
    /// This peer dials the node under test.
    ItDials,
}

/// What a cell does after the programs are started.
#[derive(Clone, Debug)]
pub enum Action {
    /// Runs the dialer to its end; the results with these names must be there.
    Dial {
        /// More options for the dialer.
        options: Vec<String>,
        /// The results that count.
        results: &'static [&'static str],
    },
    /// Runs the dialer so many times.
    Repeat(usize),
    /// The listener ends (asked to, or killed); the dialer has to notice.
    ListenerEnds {
        /// Whether it is killed without a goodbye.
        killed: bool,
    },
    /// The listener closes the connection; the dialer has to notice.
    ListenerCloses,
    /// The dialer ends; the listener has to notice.
    DialerEnds,
}

/// One cell.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Who dials.
    pub direction: Direction,
    /// The handshake version asked for.
    pub ice: &'static str,
    /// Its name.
    pub scenario: &'static str,
    /// What happens.
    pub action: Action,
}

/// What came out of a cell.
#[derive(Debug)]
pub struct Outcome {
    /// Whether it worked.
    pub ok: bool,
    /// How long it took: what the program measured, else the whole cell.
    pub took: Duration,
    /// What came out, or what went wrong.
    pub detail: String,
}

/// All cells.
pub fn all(idle: Duration) -> Vec<Cell> {
    let mut cells = Vec::new();
    for ice in ["v1", "auto"] {
        cells.extend(dials(Direction::WeDial, ice, idle));
    }
    // Pings of 200 ms apart, because `node dial` cannot rest.
    let pings = (idle.as_secs() * 5).max(1);
    cells.push(dial(
        Direction::WeDial,
        "v1",
        "a minute of pings",
        &["--pings", &pings.to_string()],
        &["ping"],
    ));
    cells.push(dial(
        Direction::WeDial,
        "v2",
        "connect",
        &[],
        &["connected"],
    ));
    cells.extend(dials(Direction::ItDials, "v1", idle));
    for (direction, scenario, action) in [
        (Direction::WeDial, "connect, 20 times", Action::Repeat(20)),
        (Direction::ItDials, "connect, 20 times", Action::Repeat(20)),
        (
            Direction::WeDial,
            "close, by the peer",
            Action::ListenerCloses,
        ),
        (
            Direction::WeDial,
            "close, the peer is killed",
            Action::ListenerEnds { killed: true },
        ),
        (Direction::WeDial, "close, by us", Action::DialerEnds),
        (
            Direction::ItDials,
            "close, by us",
            Action::ListenerEnds { killed: false },
        ),
        (
            Direction::ItDials,
            "close, we are killed",
            Action::ListenerEnds { killed: true },
        ),
        (Direction::ItDials, "close, by the peer", Action::DialerEnds),
    ] {
        cells.push(Cell {
            direction,
            ice: "v1",
            scenario,
            action,
        });
    }
    cells
}

/// The cells that are one run of a dialer.
fn dials(direction: Direction, ice: &'static str, idle: Duration) -> Vec<Cell> {
    let mut cells = vec![
        dial(direction, ice, "connect", &[], &["connected"]),
        dial(direction, ice, "identify", &[], &["identify"]),
        dial(direction, ice, "ping x20", &["--pings", "20"], &["ping"]),
        dial(
            direction,
            ice,
            "echo 1 MiB",
            &["--echo", "1048576"],
            &["echo"],
        ),
        dial(
            direction,
            ice,
            "echo 16 MiB",
            &["--echo", "16777216"],
            &["echo"],
        ),
    ];
    cells.extend(match direction {
        Direction::WeDial => node_streams(ice),
        Direction::ItDials => peer_streams(ice, idle),
    });
    cells
}

/// The options for a hundred streams in turn and a hundred at once.
const STREAMS: [&str; 2] = ["--streams", "100"];

/// What the node does with streams. `node dial --echo` closes its direction and reads to the end,
/// so a short echo is the half-close scenario.
fn node_streams(ice: &'static str) -> Vec<Cell> {
    let cell = |scenario, options: &[&str], results| {
        dial(Direction::WeDial, ice, scenario, options, results)
    };
    vec![
        cell("half-close", &["--echo", "1000"], &["echo"]),
        cell(
            "streams, 100 in turn and 100 parallel",
            &STREAMS,
            &["streams"],
        ),
    ]
}

/// What this peer does with streams, and without.
fn peer_streams(ice: &'static str, idle: Duration) -> Vec<Cell> {
    let cell = |scenario, options: &[&str], results| {
        dial(Direction::ItDials, ice, scenario, options, results)
    };
    let idle = idle.as_secs().to_string();
    vec![
        cell("half-close", &["--half-close"], &["half_close"]),
        cell("streams, 100 in turn", &STREAMS, &["streams_in_turn"]),
        cell("streams, 100 parallel", &STREAMS, &["streams_parallel"]),
        cell("idle", &["--pings", "0", "--idle", &idle], &["idle"]),
    ]
}

/// A cell that is one run of a dialer.
fn dial(
    direction: Direction,
    ice: &'static str,
    scenario: &'static str,
    options: &[&str],
    results: &'static [&'static str],
) -> Cell {
    let options = options.iter().map(ToString::to_string).collect();
    Cell {
        direction,
        ice,
        scenario,
        action: Action::Dial { options, results },
    }
}
