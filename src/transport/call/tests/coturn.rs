//! A real TURN server, `turnserver` of the Debian package `coturn`, on loopback.

use std::{
    io::{BufRead as _, BufReader},
    net::{TcpListener, UdpSocket},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use tokio::sync::{mpsc, oneshot};

use super::{ROOM, within};
use crate::IceServer;

const USER: &str = "somebody";
const PASSWORD: &str = "some secret";

/// How a server is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    Udp,
    Tcp,
    #[cfg(feature = "websocket")]
    Tls,
}

/// A server; it ends with this.
pub(super) struct Coturn {
    process: Child,
    directory: tempfile::TempDir,
    pub(super) port: u16,
    tls_port: u16,
    given_back: mpsc::Receiver<()>,
}

impl Drop for Coturn {
    fn drop(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it has ended");
    }
}

/// A port that is free for UDP and TCP.
pub(super) fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Whether there is such a program, with a word about it where there is none.
fn is_installed() -> bool {
    let found = Command::new("turnserver").arg("--version").output();
    if found.is_err() {
        assert!(std::env::var("CI").is_err(), "missing: coturn");
        eprintln!("skipped: there is no program turnserver (Debian: coturn)");
    }
    found.is_ok()
}

impl Coturn {
    /// None where there is no such program, with a word about it.
    pub(super) async fn start() -> Option<Self> {
        Self::start_at(free_port()).await
    }

    pub(super) async fn start_at(port: u16) -> Option<Self> {
        Self::start_with(port, &[&format!("--user={USER}:{PASSWORD}")]).await
    }

    /// One with other settings for who may use it.
    pub(super) async fn start_with(port: u16, access: &[&str]) -> Option<Self> {
        if !is_installed() {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let place = |name: &str| directory.path().join(name);
        std::fs::write(place("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(place("key.pem"), made.key_pair.serialize_pem()).unwrap();
        let tls_port = free_port();
        let setting = |name: &str, value: &str| format!("--{name}={value}");
        let file = |name: &str, file: &str| setting(name, &place(file).display().to_string());
        let mut process = Command::new("turnserver")
            .args([
                "-v",
                "-n",
                "--lt-cred-mech",
                "--allow-loopback-peers",
                "--no-cli",
            ])
            .args(["--no-dtls", "--simple-log", "--log-file=stdout"])
            .arg(setting("listening-ip", "127.0.0.1"))
            .arg(setting("relay-ip", "127.0.0.1"))
            .arg(setting("listening-port", &port.to_string()))
            .arg(setting("tls-listening-port", &tls_port.to_string()))
            .args(access)
            .arg(setting("realm", "test"))
            .arg(file("cert", "cert.pem"))
            .arg(file("pkey", "key.pem"))
            .arg(file("pidfile", "pid"))
            .arg(file("userdb", "db"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (ready, started) = oneshot::channel();
        let (refreshed, given_back) = mpsc::channel(ROOM);
        std::thread::spawn(move || {
            let mut ready = Some(ready);
            // To the end, so that it never waits for a reader.
            for line in lines.map_while(Result::ok) {
                if line.contains("Total General servers") {
                    ready.take().map(|ready| ready.send(()));
                }
                if line.contains("refreshed") && line.contains("lifetime=0") {
                    // Nobody may be interested.
                    refreshed.try_send(()).ok();
                }
            }
        });
        let this = Self {
            process,
            directory,
            port,
            tls_port,
            given_back,
        };
        within(started).await.expect("it starts");
        Some(this)
    }

    /// Waits until somebody gives an allocation back.
    pub(super) async fn given_back(&mut self) {
        within(self.given_back.recv()).await.expect("it runs");
    }

    /// Whom `turns:` is to believe.
    #[cfg(feature = "websocket")]
    pub(super) fn roots(&self) -> PathBuf {
        self.directory.path().join("cert.pem")
    }

    /// The server, with these credentials.
    pub(super) fn server(&self, way: Way) -> IceServer {
        let (port, tls_port) = (self.port, self.tls_port);
        let text = match way {
            Way::Udp => format!("turn:127.0.0.1:{port}?transport=udp"),
            Way::Tcp => format!("turn:localhost:{port}?transport=tcp"),
            #[cfg(feature = "websocket")]
            Way::Tls => format!("turns:localhost:{tls_port}"),
        };
        let server: IceServer = text.parse().unwrap();
        server.with_credentials(USER, PASSWORD)
    }
}
