//! The protocol core stays pure: no input or output, no clock, no randomness of its own, nothing unsafe.
//!
//! Reads the sources of `src/proto`, of the frames and the session engine of SocketPipe, and of the signaling of
//! `/ws/webrtc`, and looks for what must not be named there; tests are exempt. Also keeps the files small enough to be read.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Words that must not appear in code of the core, and why.
const FORBIDDEN: [(&str, &str); 18] = [
    ("tokio", "no runtime"),
    ("libp2p", "no libp2p types"),
    ("futures", "no futures"),
    ("async fn", "no futures"),
    ("std::thread", "no threads"),
    ("UdpSocket", "no sockets"),
    ("TcpStream", "no sockets"),
    ("TcpListener", "no sockets"),
    ("quinn_udp", "no sockets"),
    ("socket2", "no sockets"),
    ("Instant::now", "time is an argument"),
    ("SystemTime", "time is an argument"),
    ("rand::rng(", "randomness is seeded"),
    ("rng()", "randomness is seeded"),
    ("rand::random", "randomness is seeded"),
    ("thread_rng", "randomness is seeded"),
    ("OsRng", "randomness is seeded"),
    ("unsafe", "no unsafe code"),
];

/// Longest file, without the tests at its end.
const MAX_LINES: usize = 600;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder is readable") {
        let path = entry.expect("the entry is readable").path();
        let is_tests = path.file_stem().is_some_and(|name| name == "tests");
        if path.is_dir() && !is_tests {
            sources(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") && !is_tests {
            found.push(path);
        }
    }
}

/// What has to be pure: folders or single files.
const CORE: [&str; 5] = [
    "src/proto",
    "src/frames",
    "src/socketpipe/session",
    "src/websocket/conversation",
    "src/websocket/conversation.rs",
];

fn sources_of(place: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(place);
    if path.is_file() {
        found.push(path);
    } else {
        sources(&path, &mut found);
    }
    assert!(!found.is_empty(), "{place} has sources");
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a source is text");
        (path, text)
    };
    found.into_iter().map(read).collect()
}

/// The file without the tests at its end.
fn without_tests(text: &str) -> &str {
    text.split("\nmod tests {").next().unwrap_or(text)
}

/// Lines of code with their numbers: comments and documentation may name anything.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    without_tests(text)
        .lines()
        .enumerate()
        .map(|(number, line)| (number + 1, line.split("//").next().unwrap_or(line)))
}

#[test]
fn the_core_names_no_runtime_socket_clock_or_dice() {
    let mut faults = Vec::new();
    for (path, text) in CORE.into_iter().flat_map(sources_of) {
        for (number, line) in code(&text) {
            // The names of the protocol on the wire are not the crate.
            let line = line
                .replace("libp2p+webrtc", "")
                .replace("libp2p-webrtc", "");
            for (word, reason) in FORBIDDEN {
                if line.contains(word) {
                    faults.push(format!("{}:{number}: {word} ({reason})", path.display()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_core_uses_nothing_of_the_shell() {
    let mut faults = Vec::new();
    for (path, text) in sources_of("src/proto") {
        for (number, line) in code(&text) {
            if line.contains("crate::") && !line.contains("crate::proto") {
                faults.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_session_engine_uses_nothing_of_its_drivers() {
    let parts = ["code", "codec", "frame", "session"];
    let mut faults = Vec::new();
    let engine = ["src/frames", "src/socketpipe/session"];
    for (path, text) in engine.into_iter().flat_map(sources_of) {
        for (number, line) in code(&text) {
            let mut uses = line
                .match_indices("crate::")
                .map(|(at, word)| &line[at + word.len()..]);
            let allowed = |used: &str| {
                used.starts_with("frames::")
                    || used.strip_prefix("socketpipe::").is_some_and(|used| {
                        used.starts_with('{') || parts.iter().any(|part| used.starts_with(part))
                    })
            };
            if !uses.all(allowed) {
                faults.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn source_files_are_short() {
    let long: Vec<_> = sources_of("src")
        .into_iter()
        .map(|(path, text)| (path, without_tests(&text).lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .collect();
    assert!(long.is_empty(), "more than {MAX_LINES} lines: {long:?}");
}

#[test]
fn the_search_would_find_what_it_looks_for() {
    let text = "use tokio::net;\n// tokio is named in a comment\n\n#[cfg(test)]\nmod tests {\n use tokio;\n}\n";
    let found: Vec<_> = code(text)
        .filter(|(_, line)| line.contains("tokio"))
        .collect();
    assert_eq!(found, [(1, "use tokio::net;")]);
}
