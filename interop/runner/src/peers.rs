//! The table of peers: how each is started, and which cells it has.

use std::path::{Path, PathBuf};

use crate::scenarios::Direction;

/// One peer program that follows the contract.
#[derive(Debug)]
pub struct Peer {
    /// Its name in the results.
    pub name: &'static str,
    /// The program and its first arguments, from the top of the repository.
    pub program: &'static [&'static str],
    /// What is missing when the program is not there.
    pub needs: &'static str,
    /// The handshakes with which we dial it.
    pub we_dial: &'static [&'static str],
    /// The handshakes with which it dials.
    pub it_dials: &'static [&'static str],
    /// Cells that try no more than to connect, because it is known that they cannot.
    pub connect_only: &'static [(Direction, &'static str)],
    /// Texts of a dial that got lost on the way through no one's fault; it is tried again.
    pub lost: &'static [&'static str],
    /// Whether its certificate for a seed has to be ours.
    pub same_certhash: bool,
    /// Whether it does not notice that a connection is closed, so that the wait for it is one of the slow cells.
    pub deaf: bool,
    /// Whether the cells for a peer that cannot read large messages, and that loses dials, are added.
    pub fragile: bool,
}

/// All peers of [`PEERS`] start from this one.
const PLAIN: Peer = Peer {
    name: "",
    program: &[],
    needs: "",
    we_dial: &[],
    it_dials: &[],
    connect_only: &[],
    lost: &[],
    same_certhash: false,
    deaf: false,
    fragile: false,
};

/// The peers.
pub const PEERS: &[Peer] = &[
    Peer {
        name: "self",
        program: OURS,
        needs: "cargo build --release -p interop-ours",
        we_dial: &["v1", "v2", "auto"],
        ..PLAIN
    },
    Peer {
        name: "go-libp2p",
        program: &["target/interop/go-libp2p"],
        needs: "Go (https://go.dev), to build interop/go",
        we_dial: &["v1", "v2", "auto"],
        it_dials: &["v1", "v2"],
        same_certhash: true,
        ..PLAIN
    },
    Peer {
        name: "go-libp2p-v0.47",
        program: &["target/interop/go-libp2p-v0.47"],
        needs: "Go (https://go.dev), to build interop/go/v47",
        we_dial: &["v1", "auto"],
        it_dials: &["v1"],
        ..PLAIN
    },
    Peer {
        name: "js-node",
        program: &["node", "interop/js/peer.mjs"],
        needs: "Node.js 20 with npm, and the packages of interop/js",
        we_dial: &["v1", "v2", "auto"],
        it_dials: &["v1", "v2"],
        ..PLAIN
    },
    Peer {
        name: "rust-upstream",
        program: &["target/release/rust-upstream"],
        needs: "cargo build --release -p rust-upstream",
        we_dial: &["v1", "auto", "v2"],
        it_dials: &["v1"],
        connect_only: &[(Direction::WeDial, "v2")],
        lost: &["not set up in time", "Timeout has been reached"],
        deaf: true,
        fragile: true,
        ..PLAIN
    },
    Peer {
        name: "litep2p",
        program: &["target/interop/litep2p-peer"],
        needs: "what interop/litep2p is built with, see there",
        we_dial: &["v1", "auto"],
        ..PLAIN
    },
    Peer {
        name: "py-libp2p",
        program: &["target/interop/py/bin/python", "interop/py/peer.py"],
        needs: "Python 3 with venv, and the packages of interop/py",
        we_dial: &["v1", "v2", "auto"],
        it_dials: &["v1", "v2"],
        deaf: true,
        ..PLAIN
    },
];

/// Our own peer program.
pub const OURS: &[&str] = &["target/release/interop-ours"];
/// The same, with a listener that asks everybody for a DTLS cookie.
pub const OURS_WITH_COOKIES: &[&str] = &["env", "INTEROP_COOKIES=1", "target/release/interop-ours"];

impl Peer {
    /// Whether `--only` means this peer.
    pub fn is_meant(&self, only: Option<&str>) -> bool {
        is_meant(self.name, only)
    }

    /// Whether the program is there.
    pub fn is_there(&self, root: &Path) -> bool {
        let words = command(root, self.program);
        words.iter().all(|word| {
            let path = Path::new(word);
            !path.is_absolute() || path.exists()
        })
    }
}

/// Whether `--only` means the peer of this name: it is the start of it.
pub fn is_meant(name: &str, only: Option<&str>) -> bool {
    only.is_none_or(|only| name.starts_with(only))
}

/// The words of a command, with the files below `root`.
pub fn command(root: &Path, words: &[&str]) -> Vec<String> {
    words
        .iter()
        .map(|word| {
            if word.contains('/') {
                root.join(PathBuf::from(word)).display().to_string()
            } else {
                (*word).to_owned()
            }
        })
        .collect()
}
