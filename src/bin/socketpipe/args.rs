//! The command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use libp2p::{Multiaddr, PeerId};
use libp2p_rtc::socketpipe::{Allowlist, session::Mode};

use crate::time::parse_duration;

/// Behind the options: the variable has no option of its own.
const LOG_HELP: &str = "\
Environment:
  SOCKETPIPE_LOG  What the program logs to stderr, as levels and modules: warn, debug,
                  libp2p_rtc=debug, libp2p_rtc::transport::call=trace,info [default: error,yamux=off]";

/// Terminals and TCP services behind a libp2p node.
#[derive(Parser)]
#[command(version, max_term_width = 100, after_help = LOG_HELP)]
pub(crate) struct Args {
    /// Where identity, tokens and peers are kept [default: ~/.local/state/socketpipe].
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// One JSON object per line instead of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Offer a terminal and TCP services. Without options: a shell of yours, on this machine only, to the first who
    /// uses the invitation it prints.
    Serve(Serve),
    /// Open a terminal.
    ///
    /// At the beginning of a line: ~. ends the session, ~r reconnects now, ~s tells how the connection is,
    /// ~~ is a ~, ~? lists these. The exit status is that of the remote program; 255 if there is none.
    Connect(Connect),
    /// Lead local TCP ports to targets behind a server.
    Forward(Forward),
    /// Make an invitation to the server that runs here, list them, take them back.
    Invite(Invite),
    /// Who may come in without a token.
    Peers(Peers),
    /// What runs now.
    Sessions(Sessions),
}

#[derive(Parser)]
pub(crate) struct Serve {
    /// Configuration file; options of the command line win over it.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Listen here as a libp2p node; may be repeated.
    #[arg(long, short, value_name = "MULTIADDR")]
    pub(crate) listen: Vec<Multiaddr>,
    /// Listen on all addresses of this machine as a libp2p node.
    #[arg(long, conflicts_with = "listen")]
    pub(crate) public: bool,
    /// Listen here for browsers and WebSocket clients.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) websocket: Option<SocketAddr>,
    /// Certificate chain for wss:// in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_certificate: Option<PathBuf>,
    /// Its private key in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub(crate) tls_key: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) webrtc: ServeWebRtc,
    /// Program of the terminal instead of your shell.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) shell: Option<String>,
    /// Offer no terminal.
    #[arg(long)]
    pub(crate) no_terminal: bool,
    /// Targets for `forward`: host:port, *.domain:port, network/length:port; may be repeated.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) allow: Vec<String>,
    /// Name shown to people.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Write the audit to this file, `-` for stderr.
    #[arg(long, value_name = "FILE")]
    pub(crate) audit: Option<PathBuf>,
    /// Record the output of terminals as asciicast files in this directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) record: Option<PathBuf>,
    /// Print no QR code.
    #[arg(long)]
    pub(crate) no_qr: bool,
}

/// How sessions of WebSockets move to WebRTC.
#[derive(Parser)]
pub(crate) struct ServeWebRtc {
    /// Leave sessions, and connections of libp2p by /ws/webrtc, on their WebSockets.
    #[arg(long)]
    pub(crate) no_webrtc: bool,
    /// STUN or TURN server for clients behind NATs: stun:host:port, turn:host:port?transport=udp, turns:host:port; may be
    /// repeated.
    #[arg(long, value_name = "URL")]
    pub(crate) ice_server: Vec<String>,
    /// File with the secret that the TURN servers share with this one (coturn: static-auth-secret).
    #[arg(long, value_name = "FILE")]
    pub(crate) turn_secret_file: Option<PathBuf>,
}

/// Where a client connects to.
#[derive(Parser)]
pub(crate) struct Target {
    /// Invitation, multiaddr with /p2p/, or ws(s):// URL; @FILE or - reads it from a file or stdin.
    #[arg(value_name = "INVITATION|MULTIADDR|URL")]
    pub(crate) target: String,
    /// Token, if the target has none in it; better by --token-file or the variable SOCKETPIPE_TOKEN.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) token: Option<String>,
    /// File with the token.
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub(crate) token_file: Option<PathBuf>,
    /// Believe the certificates in this PEM file instead of the system's.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Stay on the WebSocket instead of moving to WebRTC where that works.
    #[arg(long)]
    pub(crate) no_webrtc: bool,
}

#[derive(Parser)]
pub(crate) struct Connect {
    #[command(flatten)]
    pub(crate) target: Target,
    /// SSH server behind the server, as host:port, instead of its default terminal.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) to: Option<String>,
    /// Variable for the shell; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// No ~ keys.
    #[arg(long)]
    pub(crate) no_escape: bool,
    /// Do not show in the title of the terminal that the connection is lost.
    #[arg(long)]
    pub(crate) no_status: bool,
    /// Give up reconnecting after this time [default: as long as the server keeps the session].
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) give_up_after: Option<Duration>,
}

#[derive(Parser)]
pub(crate) struct Forward {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Local port and where it leads; without HOST:PORT, to the server's default target; may be repeated. BIND is
    /// 127.0.0.1 unless given.
    #[arg(
        short = 'L',
        long = "local",
        value_name = "[BIND:]PORT:HOST:PORT",
        required = true
    )]
    pub(crate) local: Vec<String>,
    /// Give up reconnecting after this time [default: as long as the server keeps the session].
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) give_up_after: Option<Duration>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum ModeArg {
    Pty,
    Tunnel,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Pty => Self::Pty,
            ModeArg::Tunnel => Self::Tunnel,
        }
    }
}

#[derive(Parser)]
pub(crate) struct Invite {
    #[command(subcommand)]
    pub(crate) action: Option<InviteAction>,
    #[command(flatten)]
    pub(crate) terms: InviteTerms,
}

#[derive(Parser)]
pub(crate) struct InviteTerms {
    /// Who it is for, in lists and in the audit.
    #[arg(long, default_value = "guest")]
    pub(crate) label: String,
    /// Terminal or port forwarding.
    #[arg(long, default_value = "pty")]
    pub(crate) mode: ModeArg,
    /// The only peer it is good for: see `peers id` there.
    #[arg(long, value_name = "PEER")]
    pub(crate) peer: Option<PeerId>,
    /// The only targets it is good for.
    #[arg(long, value_name = "PATTERNS")]
    pub(crate) targets: Option<Allowlist>,
    /// Target it leads to, as host:port.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) to: Option<String>,
    /// How long it is good: 30s, 10m, 8h, 7d.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "1h")]
    pub(crate) valid: Duration,
    /// How many times it lets somebody in; 0 is any number. A session over a WebSocket is one time. So is a peer over
    /// libp2p, which may come back with it as long as it is good.
    #[arg(long, default_value_t = 1)]
    pub(crate) uses: u32,
    /// A signed token (JWT) by the key of the configuration: nothing is stored, any number of sessions.
    #[arg(long, conflicts_with = "uses")]
    pub(crate) signed: bool,
    /// Print no QR code.
    #[arg(long)]
    pub(crate) no_qr: bool,
}

#[derive(Subcommand)]
pub(crate) enum InviteAction {
    /// The invitations that are good.
    List,
    /// Take back all with this label.
    Revoke { label: String },
}

#[derive(Parser)]
pub(crate) struct Peers {
    #[command(subcommand)]
    pub(crate) action: Option<PeersAction>,
}

#[derive(Subcommand)]
pub(crate) enum PeersAction {
    /// Who may come in.
    List,
    /// Let a peer in.
    Add {
        peer: PeerId,
        /// For people.
        #[arg(long, default_value = "")]
        name: String,
    },
    /// Let it in no longer; its sessions are ended.
    Remove { peer: PeerId },
    /// The id of this machine as a client, for `peers add` on a server.
    Id,
}

#[derive(Parser)]
pub(crate) struct Sessions {
    #[command(subcommand)]
    pub(crate) action: Option<SessionsAction>,
}

#[derive(Subcommand)]
pub(crate) enum SessionsAction {
    /// What runs now.
    List,
    /// End a session.
    End {
        number: u64,
        /// Told to its user.
        #[arg(long, default_value = "ended by the owner of the server")]
        message: String,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_help_names_the_variable_of_the_log() {
        let help = Args::command().render_help().to_string();
        assert!(help.contains("SOCKETPIPE_LOG"), "{help}");
    }

    #[test]
    fn a_signed_invitation_cannot_count_its_uses() {
        let refused = Args::try_parse_from(["socketpipe", "invite", "--signed", "--uses", "2"]);
        let said = refused.err().unwrap().to_string();
        assert!(
            said.contains("--uses") && said.contains("--signed"),
            "{said}"
        );
        for terms in [["--signed", "--no-qr"], ["--uses", "2"]] {
            let args = [&["socketpipe", "invite"], &terms[..]].concat();
            assert!(Args::try_parse_from(args).is_ok(), "{terms:?}");
        }
    }
}
