//! Terminals and tunnels to a real sshd (Debian's openssh-server), over libp2p.
#![cfg(all(feature = "gateway", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod socketpipe_common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use libp2p_rtc::socketpipe::{
    Code, Exit, OpenError, RemoteSession, SessionOptions, Size, SshAuth, SshConfig, exit_of,
    session::Mode,
};
use socketpipe_common::{Node, gate_for, soon, until};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

const SSHD: &str = "/usr/sbin/sshd";

/// An sshd per connection, on a loopback port, with keys of its own. Its folder goes with it.
struct Sshd {
    folder: PathBuf,
    port: u16,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.folder));
    }
}

fn keygen(folder: &Path, name: &str) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(folder.join(name))
        .status();
    assert!(made.unwrap().success());
}

/// The password of the user of the test, for an sshd that takes passwords.
const PASSWORD: &str = "correct horse battery staple";

/// Runs a command that sees another /etc/shadow, in which the user of the test has [`PASSWORD`]. Only root can do that.
fn with_password(folder: &Path) -> Option<Command> {
    let user = Command::new("id").arg("-un").output().unwrap().stdout;
    let user = String::from_utf8(user).unwrap();
    let possible = Command::new("unshare").args(["-m", "true"]).status();
    if !possible.is_ok_and(|status| status.success()) {
        eprintln!("skipped: a user with a password of ours needs the rights of root");
        return None;
    }
    let hash = Command::new("openssl")
        .args(["passwd", "-6", PASSWORD])
        .output()
        .unwrap();
    let hash = String::from_utf8(hash.stdout).unwrap();
    let shadow = folder.join("shadow");
    let line = format!("{}:{}:20000:0:99999:7:::\n", user.trim(), hash.trim());
    fs::write(&shadow, line).unwrap();
    let mut command = Command::new("unshare");
    command
        .args([
            "-m",
            "sh",
            "-c",
            "mount --bind \"$0\" /etc/shadow && exec \"$@\"",
        ])
        .arg(shadow)
        .arg(SSHD);
    Some(command)
}

impl Sshd {
    /// `None`, with a printed reason, where there is no sshd.
    async fn start() -> Option<Self> {
        Self::start_with("PasswordAuthentication no", |_| Some(Command::new(SSHD))).await
    }

    /// The same with these options, run by this command.
    async fn start_with(
        options: &str,
        command: impl Fn(&Path) -> Option<Command> + Send + 'static,
    ) -> Option<Self> {
        if !Path::new(SSHD).exists() {
            eprintln!("skipped: no {SSHD} (Debian package openssh-server)");
            return None;
        }
        let folder =
            std::env::temp_dir().join(format!("socketpipe-sshd-{:x}", rand::random::<u64>()));
        fs::create_dir(&folder).unwrap();
        keygen(&folder, "host");
        keygen(&folder, "user");
        keygen(&folder, "other");
        fs::copy(folder.join("user.pub"), folder.join("authorized_keys")).unwrap();
        let config = format!(
            "HostKey {0}/host\nAuthorizedKeysFile {0}/authorized_keys\nStrictModes no\nUsePAM no\n\
             PermitRootLogin yes\n{options}\nPidFile none\nAcceptEnv LANG LC_*\n",
            folder.display()
        );
        fs::write(folder.join("config"), config).unwrap();
        // sshd separates its privileges there; only root can make it, and only root needs it.
        drop(fs::create_dir_all("/run/sshd"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = folder.join("config");
        command(&folder)?;
        let files = folder.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let stream = stream.into_std().unwrap();
                stream.set_nonblocking(false).unwrap();
                let output = std::os::fd::OwnedFd::from(stream.try_clone().unwrap());
                let input = std::os::fd::OwnedFd::from(stream);
                let mut child = command(&files)
                    .unwrap()
                    .args(["-i", "-e", "-f"])
                    .arg(&config)
                    .stdin(Stdio::from(input))
                    .stdout(Stdio::from(output))
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                tokio::task::spawn_blocking(move || child.wait());
            }
        });
        Some(Self { folder, port })
    }

    fn known_hosts(&self, key: &str, hashed: bool) -> PathBuf {
        let path = self.folder.join(format!("known_hosts_{key}_{hashed}"));
        let key = fs::read_to_string(self.folder.join(key).with_extension("pub")).unwrap();
        fs::write(&path, format!("[127.0.0.1]:{} {key}", self.port)).unwrap();
        if hashed {
            let done = Command::new("ssh-keygen")
                .arg("-H")
                .arg("-f")
                .arg(&path)
                .output();
            assert!(done.unwrap().status.success());
            assert!(fs::read_to_string(&path).unwrap().starts_with("|1|"));
        }
        path
    }

    fn login(&self, key: &str, known_hosts: PathBuf) -> SshConfig {
        let user =
            String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
        let mut config = SshConfig::new(user.trim());
        config.known_hosts = vec![known_hosts];
        config.auth = vec![SshAuth::Key {
            path: self.folder.join(key),
            passphrase: None,
        }];
        config
    }
}

/// Opens a terminal at the sshd through a node.
async fn open(sshd: &Sshd, config: SshConfig) -> Result<RemoteSession, OpenError> {
    let (server, client) = (Node::new().await, Node::new().await);
    let mut gate = gate_for(&[client.peer]);
    gate.pty.allow = "127.0.0.1:*".parse().unwrap();
    gate.pty.ssh = Some(config);
    server.serve(gate);
    let options = SessionOptions::new(Mode::Pty)
        .target("127.0.0.1", sshd.port)
        .env("TERM", "vt100")
        .size(Size {
            columns: 91,
            rows: 33,
            ..Size::default()
        });
    let at = vec![server.quic.clone()];
    let opened = soon(client.control.open_at(server.peer, at, options)).await;
    // The nodes live as long as the test.
    std::mem::forget((server, client));
    opened
}

async fn sees(session: &mut RemoteSession, what: &str) -> String {
    let mut seen = String::new();
    let mut buffer = [0; 4096];
    while !seen.contains(what) {
        let count = soon(session.read(&mut buffer)).await.unwrap();
        assert!(count > 0, "no {what:?} in {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    seen
}

async fn exit(mut session: RemoteSession) -> Exit {
    let mut rest = Vec::new();
    soon(session.read_to_end(&mut rest)).await.unwrap();
    exit_of(&soon(session.ended()).await)
}

#[tokio::test]
async fn a_terminal_at_an_sshd_has_size_variables_and_status() {
    let Some(sshd) = Sshd::start().await else {
        return;
    };
    for hashed in [false, true] {
        let login = sshd.login("user", sshd.known_hosts("host", hashed));
        let mut session = open(&sshd, login).await.unwrap();
        session
            .write_all(b"stty size; echo \"<$TERM>\"\n")
            .await
            .unwrap();
        let seen = sees(&mut session, "<vt100>").await;
        assert!(seen.contains("33 91"), "{seen:?}");
        session.handle().resize(Size {
            columns: 55,
            rows: 22,
            ..Size::default()
        });
        session
            .write_all(b"while [ \"$(stty size)\" != '22 55' ]; do :; done; echo re''sized\n")
            .await
            .unwrap();
        sees(&mut session, "resized").await;
        session.write_all(b"exit 5\n").await.unwrap();
        assert_eq!(exit(session).await, Exit::Code(5));
    }
}

#[tokio::test]
async fn unknown_and_changed_host_keys_are_refused() {
    let Some(sshd) = Sshd::start().await else {
        return;
    };
    for (known, says) in [
        (
            sshd.folder.join("no-such-file"),
            "is not in the known-hosts file",
        ),
        (
            sshd.known_hosts("other", false),
            "is not the one in the known-hosts file",
        ),
        (
            sshd.known_hosts("other", true),
            "is not the one in the known-hosts file",
        ),
    ] {
        let refused = open(&sshd, sshd.login("user", known)).await;
        let Err(OpenError::Refused(failure)) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(failure.code, Code::CONNECT_FAILED);
        assert!(failure.message.contains(says), "{failure}");
    }
}

#[tokio::test]
async fn a_refused_login_says_so() {
    let Some(sshd) = Sshd::start().await else {
        return;
    };
    let refused = open(&sshd, sshd.login("other", sshd.known_hosts("host", false))).await;
    let Err(OpenError::Refused(failure)) = refused else {
        panic!("{refused:?}");
    };
    assert!(failure.message.contains("refused the login"), "{failure}");
}

#[tokio::test]
async fn a_flood_behind_ssh_is_interrupted() {
    let Some(sshd) = Sshd::start().await else {
        return;
    };
    let mut session = open(&sshd, sshd.login("user", sshd.known_hosts("host", false)))
        .await
        .unwrap();
    session.write_all(b"echo be''gun; yes\n").await.unwrap();
    sees(&mut session, "begun").await;
    let mut buffer = vec![0; 64 * 1024];
    let mut read = 0;
    while read < 8 << 20 {
        let count = soon(session.read(&mut buffer)).await.unwrap();
        assert!(count > 0, "the flood goes on");
        read += count;
    }
    session.write_all(b"\x03echo sto''pped\n").await.unwrap();
    let flood = sees(&mut session, "stopped").await;
    assert!(flood.len() < 8 << 20, "{} bytes after Ctrl-C", flood.len());
}

#[tokio::test]
async fn hanging_up_ends_what_runs_behind_ssh() {
    let Some(sshd) = Sshd::start().await else {
        return;
    };
    let mut session = open(&sshd, sshd.login("user", sshd.known_hosts("host", false)))
        .await
        .unwrap();
    session
        .write_all(b"echo be''gun; exec sleep 86473\n")
        .await
        .unwrap();
    sees(&mut session, "begun").await;
    let running = || {
        let listed = Command::new("pgrep")
            .args(["-fx", "sleep 86473"])
            .output()
            .unwrap();
        !listed.stdout.is_empty()
    };
    until(running).await;
    drop(session);
    until(|| !running()).await;
}

/// Whether this way to log in leads to a shell.
async fn logs_in(sshd: &Sshd, auth: Vec<SshAuth>) -> bool {
    let mut config = sshd.login("user", sshd.known_hosts("host", false));
    config.auth = auth;
    match open(sshd, config).await {
        Ok(mut session) => {
            session.write_all(b"echo in''side\n").await.unwrap();
            sees(&mut session, "inside").await;
            true
        }
        Err(OpenError::Refused(failure)) => {
            assert_eq!(failure.code, Code::CONNECT_FAILED);
            let sentence = "the SSH server refused the login";
            assert_eq!(failure.message, sentence);
            false
        }
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_password_logs_in_and_a_wrong_one_does_not() {
    let options = "PasswordAuthentication yes\nPubkeyAuthentication no";
    let Some(sshd) = Sshd::start_with(options, with_password).await else {
        return;
    };
    let password = |text: &str| SshAuth::Password(text.to_owned());
    assert!(logs_in(&sshd, vec![password(PASSWORD)]).await);
    assert!(!logs_in(&sshd, vec![password("wrong")]).await);
    assert!(!logs_in(&sshd, Vec::new()).await);
    // One after the other, until one does.
    let key = SshAuth::Key {
        path: sshd.folder.join("user"),
        passphrase: None,
    };
    let ways = vec![key, password("wrong"), password(PASSWORD)];
    assert!(logs_in(&sshd, ways).await);
}

#[tokio::test]
async fn keys_of_every_kind_log_in_with_their_passphrase() {
    let Some(sshd) = Sshd::start().await else {
        return;
    };
    let mut authorized = String::new();
    for (kind, bits) in [("rsa", "3072"), ("ecdsa", "256"), ("ed25519", "256")] {
        let path = sshd.folder.join(kind);
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", kind, "-b", bits, "-N", "swordfish", "-f"])
            .arg(&path)
            .status();
        assert!(made.unwrap().success());
        authorized += &fs::read_to_string(path.with_extension("pub")).unwrap();
    }
    fs::write(sshd.folder.join("authorized_keys"), authorized).unwrap();
    for kind in ["rsa", "ecdsa", "ed25519"] {
        for (passphrase, good) in [
            (Some("swordfish"), true),
            (Some("wrong"), false),
            (None, false),
        ] {
            let key = SshAuth::Key {
                path: sshd.folder.join(kind),
                passphrase: passphrase.map(str::to_owned),
            };
            assert_eq!(
                logs_in(&sshd, vec![key]).await,
                good,
                "{kind} {passphrase:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_command_runs_in_place_of_the_shell() {
    let Some(sshd) = Sshd::start().await else {
        return;
    };
    let mut login = sshd.login("user", sshd.known_hosts("host", false));
    login.command = Some("tty && echo in\"\"stead; exit 9".to_owned());
    let mut session = open(&sshd, login).await.unwrap();
    let seen = sees(&mut session, "instead").await;
    assert!(seen.contains("/dev/"), "at a terminal: {seen:?}");
    assert_eq!(exit(session).await, Exit::Code(9));
}
