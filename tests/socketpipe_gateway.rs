//! The program `socketpipe` as people use it: terminals, forwardings, invitations.
#![cfg(all(feature = "gateway", unix))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::disallowed_methods,
    reason = "what the tests wait for takes real time"
)]

mod socketpipe_gateway_common;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use libp2p_rtc::socketpipe::invitation::Invitation;
use serde_json::Value;

use crate::socketpipe_gateway_common::{
    AtTerminal, Directory, Forward, PATIENCE, Serve, Sshd, has_network, run,
};

const MIB: usize = 1024 * 1024;

/// Bytes of the file that is copied: 64 MiB, unless the long run asks for more.
fn copy_size() -> usize {
    let wished = std::env::var("SOCKETPIPE_COPY_MIB").ok();
    wished.map_or(64, |mib| mib.parse().unwrap()) * MIB
}

/// The address of this transport in an invitation.
fn address(invitation: &Invitation, transport: &str) -> String {
    let found = invitation
        .addresses
        .iter()
        .map(ToString::to_string)
        .find(|address| address.contains(transport));
    found.unwrap_or_else(|| panic!("no {transport} in {invitation:?}"))
}

/// An invitation to any number of forwardings.
fn tunnels(serve: &Serve) -> Invitation {
    serve.invite(&["--mode", "tunnel", "--uses", "0"])
}

/// A service that answers what it gets, and ends when its client has.
fn echo_service() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut copy = stream.try_clone().unwrap();
                std::io::copy(&mut stream, &mut copy).ok();
                copy.shutdown(Shutdown::Write).ok();
            });
        }
    });
    port
}

/// Sends this and the end, and reads until the end.
fn exchange(forward: &Forward, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(forward.address).unwrap();
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

#[test]
fn ssh_and_scp_go_through_webrtc() {
    let Some(sshd) = Sshd::start() else { return };
    let serve = Serve::start(&["--allow", &sshd.target()]);
    let invitation = tunnels(&serve);
    let way = address(&invitation, "webrtc-direct");
    let forward = Forward::start(&way, &invitation.token, &sshd.target(), &[]);
    assert_eq!(sshd.ssh(forward.address, "echo $((6 * 7))"), "42\n");
    sshd.copy_there_and_back(forward.address, copy_size());
    forward.finish();
    serve.assert_nothing_left();
}

#[test]
fn ssh_and_scp_go_through_a_websocket() {
    let Some(sshd) = Sshd::start() else { return };
    let serve = Serve::start(&["--allow", &sshd.target()]);
    let invitation = tunnels(&serve);
    let forward = Forward::start(
        &invitation.websocket,
        &invitation.token,
        &sshd.target(),
        &[],
    );
    assert_eq!(sshd.ssh(forward.address, "echo $((6 * 7))"), "42\n");
    sshd.copy_there_and_back(forward.address, copy_size());
    forward.finish();
    serve.assert_nothing_left();
}

#[test]
fn a_forwarding_goes_through_every_transport() {
    let target = format!("127.0.0.1:{}", echo_service());
    let serve = Serve::start(&["--allow", &target]);
    let invitation = tunnels(&serve);
    let ways =
        ["webrtc-direct", "quic-v1", "/tcp/"].map(|transport| address(&invitation, transport));
    for way in ways.iter().chain([&invitation.websocket]) {
        let forward = Forward::start(way, &invitation.token, &target, &[]);
        let sent = vec![7; MIB];
        assert_eq!(exchange(&forward, &sent), sent, "{way}");
        forward.finish();
    }
    let line = serve.audit("session", |line| line["event"] == "session");
    assert_eq!(line["label"], "guest");
    assert_eq!(line["mode"], "tunnel");
    assert_eq!(line["target"], target);
    assert_eq!(
        (&line["sent"], &line["received"]),
        (&MIB.into(), &MIB.into())
    );
    serve.assert_nothing_left();
}

#[test]
fn one_forward_carries_many_connections() {
    let target = format!("127.0.0.1:{}", echo_service());
    let serve = Serve::start(&["--allow", &target]);
    let invitation = tunnels(&serve);
    let way = invitation.to_string();
    let forward = Forward::start(&way, "", &target, &[]);
    thread::scope(|scope| {
        for number in 0..20_u8 {
            let forward = &forward;
            scope.spawn(move || {
                let sent = vec![number; 100_000];
                assert_eq!(exchange(forward, &sent), sent);
            });
        }
    });
    forward.finish();
    serve.assert_nothing_left();
}

/// The code and sentence a forwarding to this target fails with.
fn refusal(serve: &Serve, invitation: &Invitation, token: &str, target: &str) -> (u64, String) {
    let mut outcomes = ["webrtc-direct", "websocket"].map(|kind| {
        let way = match kind {
            "websocket" => invitation.websocket.clone(),
            transport => address(invitation, transport),
        };
        let forward = Forward::start(&way, token, target, &[]);
        assert_eq!(exchange(&forward, b""), b"");
        let failure = forward.failure();
        let message = failure["message"].as_str().unwrap().to_owned();
        (failure["code"].as_u64().unwrap_or_default(), message)
    });
    serve.assert_nothing_left();
    assert_eq!(outcomes[0].0, outcomes[1].0, "{outcomes:?}");
    std::mem::take(&mut outcomes[1])
}

#[test]
fn every_refusal_has_its_code_and_a_sentence() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let allow = format!("{closed},*.invalid:80");
    let serve = Serve::start(&["--allow", &allow]);
    let good = tunnels(&serve);
    let expired = serve.invite(&["--mode", "tunnel", "--valid", "0s"]);
    let terminal = serve.invite(&["--mode", "pty"]);
    let closed = closed.to_string();
    let cases = [
        ("nonsense", closed.as_str(), 1000, "not valid"),
        ("", &closed, 1000, "token"),
        (&expired.token, &closed, 1001, "expired"),
        (&terminal.token, &closed, 1002, "not for port forwarding"),
        (
            &good.token,
            "192.0.2.1:22",
            1002,
            "not on the server's list",
        ),
        (&good.token, "nowhere.invalid:80", 2000, "host"),
        (&good.token, &closed, 2002, "refused"),
    ];
    for (token, target, code, sentence) in cases {
        let (found, message) = refusal(&serve, &good, token, target);
        assert_eq!(found, code, "{target}: {message}");
        assert!(message.contains(sentence), "{target}: {message}");
        let number = code.to_string();
        let line = serve.audit("refusal", |line| {
            line["event"] == "refused"
                && line["reason"]
                    .as_str()
                    .is_some_and(|reason| reason.contains(&number))
        });
        assert_eq!(line["label"], "");
    }
}

#[test]
fn a_backend_that_dies_ends_its_session_only() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let serve = Serve::start(&["--allow", &target]);
    let invitation = tunnels(&serve);
    let forward = Forward::start(&invitation.websocket, &invitation.token, &target, &[]);
    let mut client = TcpStream::connect(forward.address).unwrap();
    let (mut backend, _) = listener.accept().unwrap();
    backend.write_all(b"last words").unwrap();
    drop(backend);
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"last words");
    drop(client);
    let line = serve.audit("session", |line| line["event"] == "session");
    assert_eq!(line["sent"], 10, "{line}");
    serve.assert_nothing_left();
}

#[test]
fn a_terminal_has_size_and_exit_status() {
    for transport in ["webrtc-direct", "/ws/webrtc", "websocket"] {
        let serve = Serve::start(&["--shell", "/bin/sh"]);
        let invitation = serve.first();
        let way = match transport {
            "websocket" => invitation.websocket.clone(),
            transport => address(&invitation, transport),
        };
        let state = Directory::new();
        let args = ["connect", "--token", &invitation.token, &way];
        let mut terminal = AtTerminal::start(state.path(), &args, 101, 31);
        terminal.type_in("echo begin-$((40 + 2)); stty size\r");
        terminal.await_text("begin-42");
        terminal.await_text("31 101");
        terminal.resize(121, 41);
        // The size travels beside the bytes: the shell is asked until it has it.
        terminal.type_in("until stty size | grep '41 121'; do :; done\r");
        terminal.await_text("41 121\r\n");
        terminal.type_in("exit 7\r");
        let (shown, status) = terminal.finish();
        assert_eq!(status, 7, "{shown}");
        let line = serve.audit("session", |line| line["event"] == "session");
        assert_eq!(line["label"], "first guest");
        assert!(
            line["reason"].as_str().unwrap().contains("exit=7"),
            "{line}"
        );
        serve.assert_nothing_left();
    }
}

/// A way to a port that breaks after so many bytes of the server, once for each number, and holds after that.
fn fragile_way(port: u16, breaks: &'static [usize]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let local = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let limits = breaks.iter().copied().chain(std::iter::repeat(usize::MAX));
        for (limit, client) in limits.zip(listener.incoming()) {
            let client = client.unwrap();
            let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut from, &mut to).ok());
            thread::spawn(move || {
                let limit = u64::try_from(limit).unwrap();
                std::io::copy(&mut (&server).take(limit), &mut &client).ok();
                for stream in [client, server] {
                    stream.shutdown(Shutdown::Both).ok();
                }
            });
        }
    });
    local
}

#[test]
fn a_broken_connection_loses_no_character() {
    let serve = Serve::start(&["--shell", "/bin/sh"]);
    let invitation = serve.first();
    let url: tokio_tungstenite::tungstenite::http::Uri = invitation.websocket.parse().unwrap();
    let port = fragile_way(url.port_u16().unwrap(), &[5_000, 20_000, 1_000]);
    let way = format!("ws://127.0.0.1:{port}/pty");
    let state = Directory::new();
    let args = ["connect", "--no-status", "--token", &invitation.token, &way];
    let mut terminal = AtTerminal::start(state.path(), &args, 80, 24);
    // The empty line ends that of the prompt, which comes behind what is typed when the shell begins late.
    terminal.type_in("stty -echo; echo; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo $i; done; echo all-$((40 + 2))\r");
    let shown = terminal.await_text("all-42\r\n");
    let numbers: Vec<u32> = shown
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .collect();
    assert_eq!(numbers, (1..=20_000).collect::<Vec<_>>());
    terminal.type_in("exit 4\r");
    assert_eq!(terminal.finish().1, 4);
    serve.assert_nothing_left();
}

#[test]
fn a_connection_by_websocket_tells_how_it_goes() {
    let expected = match has_network() {
        true => "(WebRTC, direct with ",
        false => "(WebSocket)",
    };
    let serve = Serve::start(&["--shell", "/bin/sh"]);
    let invitation = serve.first();
    let way = address(&invitation, "/ws/webrtc");
    let state = Directory::new();
    let args = ["connect", "--token", &invitation.token, &way];
    let mut terminal = AtTerminal::start(state.path(), &args, 200, 24);
    terminal.type_in("echo up-$((40 + 2))\r");
    terminal.await_text("up-42");
    // On a busy machine it begins on the WebSocket.
    let deadline = Instant::now() + PATIENCE;
    for count in 1.. {
        terminal.type_in("\r~s");
        let shown = terminal.await_screen("answer to ~s", |shown| {
            let answers = shown.split("connected by ").skip(1);
            answers.filter(|answer| answer.contains('\n')).count() >= count
        });
        let said = shown.rsplit("connected by ").next().unwrap();
        assert!(said.contains("/ws/webrtc"), "{said}");
        if said.contains(expected) {
            break;
        }
        assert!(Instant::now() < deadline, "{said}");
    }
    terminal.type_in("\rexit 5\r");
    let (shown, status) = terminal.finish();
    assert_eq!(status, 5, "{shown}");
    serve.assert_nothing_left();
}

/// Runs `connect` with this in a pipe as its input, to its end.
fn connect_with_input(serve: &Serve, input: &str) -> Output {
    let invitation = serve.invite(&["--no-qr"]).to_string();
    connect_to(&[&invitation], input)
}

/// The same with these arguments.
fn connect_to(args: &[&str], input: &str) -> Output {
    let state = Directory::new();
    let mut child = Command::new(socketpipe_gateway_common::PROGRAM)
        .arg("--state")
        .arg(state.path())
        .arg("connect")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(input.as_bytes()).unwrap();
    drop(pipe);
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            panic!("`{input}` has no end: {output:?}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

#[test]
fn the_end_of_piped_input_ends_the_shell() {
    for shell in ["/bin/sh", "/bin/bash"] {
        let serve = Serve::start(&["--shell", shell]);
        for (input, status) in [
            ("", 0),
            ("echo go''es\n", 0),
            // The last line need not have an end.
            ("echo go''es", 0),
            // The end goes to a program, then to the shell.
            ("echo go''es; cat; (exit 3)\n", 3),
        ] {
            let output = connect_with_input(&serve, input);
            let shown = String::from_utf8_lossy(&output.stdout);
            assert_eq!(
                shown.contains("goes"),
                !input.is_empty(),
                "{shell}: {shown}"
            );
            assert_eq!(
                output.status.code(),
                Some(status),
                "{shell} `{input}`: {output:?}"
            );
        }
        serve.assert_nothing_left();
    }
}

#[test]
fn the_first_invitation_is_good_once() {
    let serve = Serve::start(&["--shell", "/bin/sh"]);
    let invitation = serve.first();
    let args = [
        "connect",
        "--token",
        &invitation.token,
        &invitation.websocket,
    ];
    let state = Directory::new();
    let mut terminal = AtTerminal::start(state.path(), &args, 80, 24);
    terminal.type_in("exit 0\r");
    assert_eq!(terminal.finish().1, 0);
    let again = run(state.path(), &args);
    assert_eq!(again.status.code(), Some(255));
    let said = String::from_utf8(again.stderr).unwrap();
    assert!(
        said.contains("1000") && said.contains("used already"),
        "{said}"
    );
}

#[test]
fn a_url_without_a_path_is_good_for_a_terminal_and_a_wrong_path_is_told() {
    let serve = Serve::start(&["--shell", "/bin/sh"]);
    let invitation = serve.invite(&["--uses", "0"]);
    let base = invitation.websocket.strip_suffix("/pty").unwrap();
    let state = Directory::new();
    let connect = |url: &str| {
        let args = ["connect", "--token", &invitation.token, url];
        run(state.path(), &args)
    };
    for url in [base.to_owned(), format!("{base}/")] {
        let output = connect(&url);
        assert_eq!(output.status.code(), Some(0), "{url}: {output:?}");
    }
    let output = connect(&format!("{base}/nowhere"));
    assert_eq!(output.status.code(), Some(255), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("/nowhere") && said.contains("Terminals are at /pty"),
        "{said}"
    );
}

#[test]
fn the_url_of_a_tunnel_opens_a_tunnel() {
    let target = format!("127.0.0.1:{}", echo_service());
    let serve = Serve::start(&["--allow", &target]);
    let invitation = tunnels(&serve);
    let url = invitation.websocket.as_str();
    assert!(url.ends_with("/tunnel"), "{url}");
    let args = ["--token", &invitation.token, "--to", &target, url];
    let output = connect_to(&args, "there and back");
    assert_eq!(output.stdout, b"there and back", "{output:?}");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn over_libp2p_the_first_invitation_is_good_for_one_peer() {
    let serve = Serve::start(&["--shell", "/bin/sh"]);
    let invitation = serve.first();
    let way = address(&invitation, "quic-v1");
    let by_peer = ["connect", "--token", &invitation.token, &way];
    let by_socket = [&by_peer[..3], &[invitation.websocket.as_str()]].concat();
    let (first, second) = (Directory::new(), Directory::new());
    for _ in 0..2 {
        let output = run(first.path(), &by_peer);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    for (state, args) in [(&second, &by_peer[..]), (&first, &by_socket[..])] {
        let output = run(state.path(), args);
        assert_eq!(output.status.code(), Some(255), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("used already"), "{said}");
    }
}

#[test]
fn keys_after_a_tilde_end_the_session() {
    let serve = Serve::start(&["--shell", "/bin/sh"]);
    let state = Directory::new();
    let invitation = serve.first().to_string();
    let mut terminal = AtTerminal::start(state.path(), &["connect", &invitation], 80, 24);
    terminal.type_in("echo up-$((40 + 2))\r");
    terminal.await_text("up-42");
    terminal.type_in("~?");
    terminal.await_text("end the session");
    terminal.type_in("~.");
    let (shown, status) = terminal.finish();
    assert_eq!(status, 0, "{shown}");
    serve.assert_nothing_left();
}

#[test]
fn a_signal_ends_the_server_with_a_word_to_its_users() {
    let mut serve = Serve::start(&["--shell", "/bin/sh"]);
    let state = Directory::new();
    let invitation = serve.first().to_string();
    let mut terminal = AtTerminal::start(state.path(), &["connect", &invitation], 80, 24);
    terminal.type_in("echo up-$((40 + 2))\r");
    terminal.await_text("up-42");
    assert_eq!(serve.running.terminate().code(), Some(0));
    let (shown, status) = terminal.finish();
    assert!(shown.contains("stops"), "{shown}");
    assert_eq!(status, 255, "{shown}");
    assert!(!serve.directory.path().join("control.sock").exists());
}

#[test]
fn a_terminal_can_lead_to_an_ssh_server() {
    let Some(sshd) = Sshd::start() else { return };
    let user = Command::new("id").arg("-un").output().unwrap();
    let user = String::from_utf8(user.stdout).unwrap();
    let directory = Directory::new();
    let config = directory.join("config.toml");
    let text = format!(
        "[terminal]\ndefault = \"ssh\"\n[terminal.ssh]\nport = {}\nuser = \"{}\"\nkey = \"{}\"\nknown_hosts = [\"{}\"]\n",
        sshd.port,
        user.trim(),
        sshd.directory.join("user_key"),
        sshd.directory.join("known_hosts"),
    );
    fs::write(&config, text).unwrap();
    let serve = Serve::start(&["--config", &config]);
    let state = Directory::new();
    let invitation = serve.first().to_string();
    let mut terminal = AtTerminal::start(state.path(), &["connect", &invitation], 99, 33);
    terminal.type_in("stty size; echo up-$((40 + 2))\r");
    terminal.await_text("up-42");
    terminal.await_text("33 99");
    terminal.type_in("exit 3\r");
    let (shown, status) = terminal.finish();
    assert_eq!(status, 3, "{shown}");
}

/// An agent with one key, for as long as it lives.
struct Agent {
    child: std::process::Child,
    socket: String,
    _directory: Directory,
}

impl Agent {
    fn start(key: &str) -> Self {
        let directory = Directory::new();
        let socket = directory.join("agent.sock");
        let child = Command::new("ssh-agent")
            .args(["-D", "-a", &socket])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !std::path::Path::new(&socket).exists() {
            assert!(Instant::now() < deadline, "no agent");
            thread::yield_now();
        }
        let added = Command::new("ssh-add")
            .args(["-q", key])
            .env("SSH_AUTH_SOCK", &socket)
            .status()
            .unwrap();
        assert!(added.success());
        Self {
            child,
            socket,
            _directory: directory,
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn an_agent_logs_in_at_an_ssh_server_and_without_it_nobody_does() {
    let Some(sshd) = Sshd::start() else { return };
    let user = Command::new("id").arg("-un").output();
    let user = String::from_utf8(user.unwrap().stdout).unwrap();
    let directory = Directory::new();
    let config = directory.join("config.toml");
    let text = format!(
        "[terminal]\ndefault = \"ssh\"\n[terminal.ssh]\nport = {}\nuser = \"{}\"\nagent = true\nknown_hosts = [\"{}\"]\n",
        sshd.port,
        user.trim(),
        sshd.directory.join("known_hosts"),
    );
    fs::write(&config, text).unwrap();
    let agent = Agent::start(&sshd.directory.join("user_key"));
    let env = [("SSH_AUTH_SOCK", agent.socket.as_str())];
    let serve = Serve::start_with(Directory::new(), &["--config", &config], &env);
    let state = Directory::new();
    let invitation = serve.invite(&["--uses", "0"]).to_string();
    let mut terminal = AtTerminal::start(state.path(), &["connect", &invitation], 80, 24);
    terminal.type_in("exit 5\r");
    let (shown, status) = terminal.finish();
    assert_eq!(status, 5, "{shown}");
    drop(agent);
    let refused = run(state.path(), &["connect", &invitation]);
    assert_eq!(refused.status.code(), Some(255));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("refused the login"), "{said}");
    serve.assert_nothing_left();
}

/// Whether a program with this command line runs.
fn runs(command: &str) -> bool {
    let listed = Command::new("pgrep").args(["-fx", command]).output();
    !listed.unwrap().stdout.is_empty()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_killed_client_leaves_no_program_running() {
    let directory = Directory::new();
    let config = directory.join("config.toml");
    fs::write(&config, "[sessions]\nresume = false\n").unwrap();
    let serve = Serve::start(&["--shell", "/bin/sh", "--config", &config]);
    for transport in ["quic-v1", "/tcp/", "websocket"] {
        let invitation = serve.invite(&[]);
        let way = match transport {
            "websocket" => invitation.websocket.clone(),
            transport => address(&invitation, transport),
        };
        let state = Directory::new();
        // stdin stays open, so that nothing but the kill ends it.
        let mut client = Command::new(socketpipe_gateway_common::PROGRAM)
            .arg("--state")
            .arg(state.path())
            .args(["connect", "--token", &invitation.token, &way])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut keyboard = client.stdin.take().unwrap();
        // Names that no other run of this test has.
        let all = [1, 2, 3].map(|number| format!("sleep {}{number}", std::process::id()));
        let [first, second, third] = &all;
        // One in the foreground, one in the background, one that does not listen to the hangup.
        let line = format!("set -m; {first} & (trap '' HUP; {second}) & {third}\n");
        keyboard.write_all(line.as_bytes()).unwrap();
        wait_until("the programs start", || all.iter().all(|name| runs(name)));
        client.kill().unwrap();
        client.wait().unwrap();
        wait_until(transport, || !all.iter().any(|name| runs(name)));
        serve.assert_nothing_left();
    }
}

/// Descriptors and threads of a process.
fn holds(pid: u32) -> (usize, usize) {
    let count = |name: &str| fs::read_dir(format!("/proc/{pid}/{name}")).unwrap().count();
    (count("fd"), count("task"))
}

/// So many connections by each, opened, used and dropped in the middle.
fn use_at_once(forwards: &[Forward], count: usize) {
    thread::scope(|scope| {
        for forward in forwards {
            for _ in 0..count {
                scope.spawn(move || {
                    let mut stream = TcpStream::connect(forward.address).unwrap();
                    stream.write_all(b"hello").unwrap();
                    let mut back = [0; 5];
                    stream.read_exact(&mut back).unwrap();
                });
            }
        }
    });
}

/// So many connections that are on WebRTC when they are dropped.
fn move_to_webrtc(serve: &Serve, forward: &Forward, count: usize) {
    let connect = |_| TcpStream::connect(forward.address).unwrap();
    let streams: Vec<_> = (0..count).map(connect).collect();
    wait_until("all move to WebRTC", || {
        let sessions = serve.command(&["sessions"]);
        let is_there = |session: &Value| session["path"] == "webrtc direct";
        sessions.len() == count && sessions.iter().all(is_there)
    });
    drop(streams);
    serve.assert_nothing_left();
}

#[test]
fn a_thousand_sessions_leave_nothing() {
    let target = format!("127.0.0.1:{}", echo_service());
    let directory = Directory::new();
    let config = directory.join("config.toml");
    fs::write(&config, "[websocket]\nburst = 5000\n").unwrap();
    let serve = Serve::start(&[
        "--allow", &target, "--shell", "/bin/sh", "--config", &config,
    ]);
    let invitation = tunnels(&serve);
    let terminals = serve.invite(&["--uses", "0"]);
    let pid = serve.running.child.id();
    let way = |transport: &str| match transport {
        "websocket" => invitation.websocket.clone(),
        transport => address(&invitation, transport),
    };
    let forwards = ["quic-v1", "websocket"]
        .map(|transport| Forward::start(&way(transport), &invitation.token, &target, &[]));
    let has_network = has_network();
    use_at_once(&forwards, 5);
    serve.assert_nothing_left();
    if has_network {
        move_to_webrtc(&serve, &forwards[1], 2);
    }
    let before = holds(pid);
    for _ in 0..20 {
        use_at_once(&forwards, 25);
    }
    serve.assert_nothing_left();
    if has_network {
        move_to_webrtc(&serve, &forwards[1], 20);
    }
    for _ in 0..20 {
        let args = ["connect", "--token", &terminals.token, &terminals.websocket];
        let output = run(directory.path(), &args);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    serve.assert_nothing_left();
    wait_until("descriptors and threads are given back", || {
        let after = holds(pid);
        // The runtime keeps some threads for a while.
        after.0 <= before.0 + 2 && after.1 <= before.1 + 8
    });
    for forward in forwards {
        forward.finish();
    }
}

#[test]
fn two_servers_that_start_together_do_not_share_a_directory() {
    let directory = Directory::new();
    let mut children: Vec<_> = (0..4)
        .map(|_| {
            Command::new(socketpipe_gateway_common::PROGRAM)
                .arg("--state")
                .arg(directory.path())
                .args(["serve", "--no-qr"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    let running = |children: &mut Vec<std::process::Child>| {
        children.retain_mut(|child| child.try_wait().unwrap().is_none());
        children.len()
    };
    let deadline = Instant::now() + PATIENCE;
    while running(&mut children) > 1 {
        assert!(Instant::now() < deadline, "more than one runs");
        thread::yield_now();
    }
    assert_eq!(running(&mut children), 1);
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // What the killed one left behind is in nobody's way.
    assert!(directory.path().join("control.sock").exists());
    drop(Serve::start_in(directory, &[]));
}

#[test]
fn nobody_else_can_reach_a_server_without_options() {
    let serve = Serve::start(&[]);
    let addresses = serve.info["addresses"].as_array().unwrap();
    assert_eq!(addresses.len(), 4);
    for address in addresses {
        assert!(
            address.as_str().unwrap().starts_with("/ip4/127.0.0.1/"),
            "{address}"
        );
    }
    for url in serve.info["websocket"].as_array().unwrap() {
        assert!(
            url.as_str().unwrap().starts_with("ws://127.0.0.1:"),
            "{url}"
        );
    }
    let url = serve.info["url"].as_str().unwrap();
    assert!(
        url.starts_with("http://127.0.0.1:") && url.contains("/#socketpipe:1:"),
        "{url}"
    );
    for name in ["server.key", "control.sock", "tokens.json"] {
        let mode = fs::metadata(serve.directory.path().join(name))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600, "{name}");
    }
    let stored = fs::read_to_string(serve.directory.path().join("tokens.json")).unwrap();
    assert!(!stored.contains(&serve.first().token));
}

#[test]
fn addresses_survive_a_restart() {
    let mut serve = Serve::start(&[]);
    let before = serve.info.clone();
    assert!(serve.running.terminate().success());
    let directory = std::mem::replace(&mut serve.directory, Directory::new());
    drop(serve);
    let serve = Serve::start_in(directory, &[]);
    for key in ["peer", "addresses", "websocket"] {
        assert_eq!(serve.info[key], before[key]);
    }
    assert_ne!(serve.info["invitation"], before["invitation"]);
}

#[test]
fn an_address_is_told_once_though_the_page_is_called_by_it() {
    let mut serve = Serve::start(&[]);
    let page = serve.info["websocket"][0].as_str().unwrap();
    let page = page.replacen("ws", "http", 1).replace("pty", "");
    assert!(serve.running.terminate().success());
    let directory = std::mem::replace(&mut serve.directory, Directory::new());
    let config = directory.join("config.toml");
    fs::write(&config, format!("[websocket]\npublic_url = \"{page}\"\n")).unwrap();
    let serve = Serve::start_in(directory, &["--config", &config]);
    let addresses = serve.info["addresses"].as_array().unwrap();
    let of_page = |address: &&Value| address.as_str().unwrap().contains("/ws/webrtc");
    assert_eq!(addresses.iter().filter(of_page).count(), 1, "{addresses:?}");
}

#[test]
fn why_a_server_is_not_reachable_is_one_line_and_one_for_each_address() {
    let mut serve = Serve::start(&[]);
    let mut invitation = serve.first();
    assert!(serve.running.terminate().success());
    invitation.websocket.clear();
    // Nothing answers to QUIC on a port that is closed: that takes long.
    invitation.addresses.retain(|address| {
        let text = address.to_string();
        !text.contains("quic") && !text.contains("/ws/")
    });
    let output = run(
        serve.directory.path(),
        &["connect", &invitation.to_string()],
    );
    assert_eq!(output.status.code(), Some(255), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    let error: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    let message = error["message"].as_str().unwrap();
    assert!(
        message.starts_with("not reachable: ") && message.ends_with(" (2 addresses tried)"),
        "{message}"
    );
    assert!(!message.contains("/ip4/"), "{message}");
    let tried: Vec<_> = error["tried"].as_array().unwrap().iter().collect();
    assert_eq!(tried.len(), 2, "{tried:?}");
    for line in tried {
        let line = line.as_str().unwrap();
        assert!(line.starts_with("/ip4/127.0.0.1/"), "{line}");
        assert!(line.len() < 120 && !line.contains("/p2p/"), "{line}");
    }
}

#[test]
fn listed_peers_come_in_without_a_token_until_they_are_removed() {
    let serve = Serve::start(&["--shell", "/bin/sh"]);
    let way = address(&serve.first(), "quic-v1");
    let client = Directory::new();
    let id = run(client.path(), &["peers", "id"]);
    let id: Value = serde_json::from_slice(&id.stdout).unwrap();
    let id = id["peer"].as_str().unwrap();
    let refused = run(client.path(), &["connect", &way]);
    assert!(String::from_utf8(refused.stderr).unwrap().contains("1000"));

    serve.command(&["peers", "add", id, "--name", "laptop"]);
    assert_eq!(serve.command(&["peers"])[0]["name"], "laptop");
    let mut terminal = AtTerminal::start(client.path(), &["connect", &way], 80, 24);
    terminal.type_in("echo up-$((40 + 2))\r");
    terminal.await_text("up-42");
    let session = &serve.command(&["sessions"])[0];
    assert_eq!(session["peer"], id);

    let removed = serve.command(&["peers", "remove", id]);
    assert_eq!(removed[0]["sessions_ended"], 1);
    let (shown, status) = terminal.finish();
    assert!(shown.contains("may not come in"), "{shown}");
    assert_eq!(status, 255, "{shown}");
    let refused = run(client.path(), &["connect", &way]);
    assert!(String::from_utf8(refused.stderr).unwrap().contains("1000"));
    serve.assert_nothing_left();
}

#[test]
fn sessions_and_invitations_are_listed_and_taken_back() {
    let serve = Serve::start(&["--shell", "/bin/sh"]);
    let invitation = serve.invite(&["--label", "anna", "--uses", "0"]);
    let labels = |serve: &Serve| -> Vec<String> {
        let rows = serve.command(&["invite", "list"]);
        rows.iter()
            .map(|row| row["label"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(labels(&serve), ["first guest", "anna"]);
    let state = Directory::new();
    let mut terminal =
        AtTerminal::start(state.path(), &["connect", &invitation.to_string()], 80, 24);
    terminal.type_in("echo up-$((40 + 2))\r");
    terminal.await_text("up-42");
    let session = &serve.command(&["sessions"])[0];
    assert_eq!(session["label"], "anna");
    assert_eq!(session["state"], "connected");
    let number = session["number"].to_string();
    serve.command(&["sessions", "end", &number, "--message", "time is over"]);
    let (shown, status) = terminal.finish();
    assert!(shown.contains("time is over"), "{shown}");
    assert_eq!(status, 255, "{shown}");
    serve.command(&["invite", "revoke", "anna"]);
    assert_eq!(labels(&serve), ["first guest"]);
    let again = run(serve.directory.path(), &["invite", "revoke", "anna"]);
    assert_eq!(again.status.code(), Some(1));
    let refused = run(state.path(), &["connect", &invitation.to_string()]);
    assert!(
        String::from_utf8(refused.stderr)
            .unwrap()
            .contains("not valid")
    );
}

#[test]
fn a_recording_holds_what_was_shown_and_not_what_was_typed() {
    let directory = Directory::new();
    let recordings = directory.join("recordings");
    let serve = Serve::start(&["--shell", "/bin/sh", "--record", &recordings]);
    let invitation = serve.first().to_string();
    let state = Directory::new();
    let mut terminal = AtTerminal::start(state.path(), &["connect", &invitation], 90, 25);
    terminal.type_in("stty -echo; echo ready-$((40 + 2))\r");
    terminal.await_text("ready-42");
    terminal.type_in("secret=1; exit\r");
    terminal.finish();
    serve.assert_nothing_left();
    let file = fs::read_dir(&recordings)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let deadline = Instant::now() + PATIENCE;
    let text = loop {
        let text = fs::read_to_string(&file).unwrap();
        if text.contains("ready-42") {
            break text;
        }
        assert!(Instant::now() < deadline, "{text}");
        thread::yield_now();
    };
    let head: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&head["version"], &head["width"], &head["height"]),
        (&2.into(), &90.into(), &25.into())
    );
    assert!(!text.contains("secret=1"), "{text}");
}

#[test]
fn commands_without_a_server_say_so() {
    let state = Directory::new();
    for command in [&["invite"][..], &["peers"], &["sessions"]] {
        let output = run(state.path(), command);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("no server runs"), "{said}");
    }
    // Where no socket can be, the reason is told.
    let long = state.path().join("x".repeat(120));
    let output = run(&long, &["sessions"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("control.sock: ") && !said.contains("no server runs"),
        "{said}"
    );
    let nonsense = run(state.path(), &["connect", "nonsense"]);
    assert_eq!(nonsense.status.code(), Some(255));
    let said = String::from_utf8(nonsense.stderr).unwrap();
    assert!(
        said.contains("names no server") && said.contains("wss://"),
        "{said}"
    );
}

#[test]
fn one_state_directory_is_for_one_server() {
    let serve = Serve::start(&[]);
    let second = run(serve.directory.path(), &["serve"]);
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("already"), "{said}");
}
