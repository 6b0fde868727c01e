//! Where a client connects to, and how a session there is opened.

use std::{
    io::{BufRead as _, Read as _},
    time::Duration,
};

use libp2p::Multiaddr;
use libp2p_rtc::{
    CallConfig, Caller, ServerReports,
    socketpipe::{
        ConnectError, Control, OpenError, RemoteSession, SessionOptions, WebRtc,
        invitation::{Invitation, InvitationError, peer_of},
        open,
        session::Mode,
        websocket::{PeerServers, TlsRoots, WebSocketConnector},
    },
};
use tokio::task::JoinSet;

use crate::{
    Failed,
    args::Target,
    node::{Node, NodeOptions, NodeTask},
    output::{Output, harmless},
    servers,
    state::{State, read_line},
    transports::Transports,
    ways::{Both, Detour},
};

/// Where a token may be, so that it is in no list of processes.
const TOKEN_VARIABLE: &str = "SOCKETPIPE_TOKEN";
/// A tunnel moves to WebRTC after this time: most connections are over by then.
const SETTLED: Duration = Duration::from_secs(1);
/// Longest invitation with its link.
const MAX_TARGET: u64 = 16 * 1024;

/// What is written where an invitation, a multiaddr or a URL belongs is none of them.
const NO_SERVER: &str = "this names no server: expected an invitation (socketpipe:1:…), a link with one, a multiaddr \
                         (/ip4/…/p2p/…) or a ws:// or wss:// URL";

/// A server, as far as a client knows it.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    pub(crate) invitation: Invitation,
    roots: TlsRoots,
    /// Sessions may move to WebRTC.
    webrtc: bool,
}

impl Destination {
    /// An invitation, a multiaddr or a URL, and the token beside it. `mode` is what the command is for; without it the
    /// invitation says.
    pub(crate) fn new(target: &Target, mode: Option<Mode>) -> Result<Self, Failed> {
        let text = read(&target.target)?;
        let mut invitation = parse(text.trim(), mode.unwrap_or(Mode::Pty))?;
        if let Some(mode) = mode {
            invitation.mode = mode;
        }
        if let Some(token) = token(target)? {
            invitation.token = token;
        }
        let roots = target
            .ca
            .clone()
            .map_or_else(TlsRoots::default, TlsRoots::File);
        Ok(Self {
            invitation,
            roots,
            webrtc: !target.no_webrtc,
        })
    }

    /// For people.
    pub(crate) fn name(&self) -> String {
        let invitation = &self.invitation;
        match (invitation.name.as_str(), invitation.peer()) {
            ("", Some(peer)) => peer.to_string(),
            ("", None) => harmless(&invitation.websocket),
            (name, _) => name.to_owned(),
        }
    }

    /// A session as the invitation describes it.
    pub(crate) fn options(&self) -> SessionOptions {
        let invitation = &self.invitation;
        let mut options = SessionOptions::new(invitation.mode)
            .target(invitation.host.as_str(), invitation.port)
            .token(invitation.token.clone());
        options.config.half_close = true;
        options.config.missed_pings = 2;
        options
    }

    /// The ways to the server.
    pub(crate) async fn ways(&self, state: &State) -> Result<Ways, Failed> {
        let servers = PeerServers::default();
        let mut reports = Vec::new();
        let (node, task) = match self.invitation.addresses.is_empty() {
            true => (None, None),
            false => {
                let key = state.keypair("client.key")?;
                let calls = self.webrtc.then(|| self.calls());
                let known = servers.clone();
                let known = Box::new(move || known.current());
                let transports = Transports::new(&key, self.roots.clone(), calls, Some(known))?;
                reports.push(transports.caller.server_reports());
                let (node, task) = Node::start(key, transports, NodeOptions::default()).await?;
                (Some(node), Some(task))
            }
        };
        let websocket = match self.invitation.websocket.as_str() {
            "" => None,
            url => Some(WebSocketConnector::new(
                url,
                self.invitation.mode,
                &self.roots,
            )?),
        };
        let upgrade = (self.webrtc && websocket.is_some()).then(|| self.upgrade());
        reports.extend(upgrade.as_ref().map(|(_, reports)| reports.clone()));
        Ok(Ways {
            addresses: self.invitation.addresses.clone(),
            servers: (self.webrtc && node.is_some()).then_some(servers),
            roots: self.roots.clone(),
            reports,
            control: node.map(|node| node.control),
            task,
            webrtc: upgrade.map(|(webrtc, _)| webrtc),
            websocket,
            detour: Detour::default(),
        })
    }

    fn calls(&self) -> CallConfig {
        match &self.roots {
            TlsRoots::File(roots) => CallConfig::new().with_tls_roots(roots),
            _ => CallConfig::new(),
        }
    }

    /// How its sessions move to WebRTC, and what becomes of the servers for that.
    fn upgrade(&self) -> (WebRtc, ServerReports) {
        let caller = Caller::new(self.calls());
        let reports = caller.server_reports();
        let webrtc = WebRtc::new(caller);
        let webrtc = match self.invitation.mode {
            Mode::Pty => webrtc,
            Mode::Tunnel => webrtc.with_delay(SETTLED),
        };
        (webrtc, reports)
    }
}

/// What is written on the command line, or in the file or stream it names.
fn read(target: &str) -> Result<String, Failed> {
    if target == "-" {
        let mut text = String::new();
        // One line: the rest belongs to the session, and stays in the buffer all readers of stdin share.
        std::io::stdin()
            .lock()
            .take(MAX_TARGET)
            .read_line(&mut text)?;
        return Ok(text);
    }
    match target.strip_prefix('@') {
        Some(path) => read_line(path.as_ref()),
        None => Ok(target.to_owned()),
    }
}

fn parse(text: &str, mode: Mode) -> Result<Invitation, Failed> {
    let bare = Invitation::new(mode, "");
    if text.starts_with('/') {
        let address: Multiaddr = text
            .parse()
            .map_err(|error| format!("this multiaddr is wrong or not complete: {error}"))?;
        if peer_of(&address).is_none() {
            return Err("the multiaddr must end in /p2p/ and the id of the peer".into());
        }
        return Ok(Invitation {
            addresses: vec![address],
            ..bare
        });
    }
    if text.starts_with("ws://") || text.starts_with("wss://") {
        let mode = match text.ends_with("/tunnel") {
            true => Mode::Tunnel,
            false => mode,
        };
        return Ok(Invitation {
            websocket: text.to_owned(),
            mode,
            ..bare
        });
    }
    text.parse().map_err(|error| match error {
        InvitationError::NoInvitation => NO_SERVER.into(),
        error => error.into(),
    })
}

fn token(target: &Target) -> Result<Option<String>, Failed> {
    if let Some(path) = &target.token_file {
        return read_line(path).map(Some);
    }
    let variable = || std::env::var(TOKEN_VARIABLE).ok();
    Ok(target
        .token
        .clone()
        .or_else(variable)
        .filter(|token| !token.is_empty()))
}

/// `host:port` or `[v6]:port`.
pub(crate) fn host_port(text: &str) -> Result<(String, u16), Failed> {
    let wrong = || format!("`{text}`: expected host:port");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = bare.unwrap_or(host);
    match host.is_empty() || port == 0 || (bare.is_none() && host.contains(':')) {
        true => Err(wrong().into()),
        false => Ok((host.to_owned(), port)),
    }
}

/// How a server is reached.
pub(crate) struct Ways {
    addresses: Vec<Multiaddr>,
    /// For connections by `/ws/webrtc`, and whom to believe when they are asked for.
    servers: Option<PeerServers>,
    roots: TlsRoots,
    control: Option<Control>,
    /// What became of the STUN and TURN servers that the server has named.
    pub(crate) reports: Vec<ServerReports>,
    task: Option<NodeTask>,
    websocket: Option<WebSocketConnector>,
    webrtc: Option<WebRtc>,
    detour: Detour,
}

impl Ways {
    /// The same for another task; the node stays here.
    pub(crate) fn share(&self) -> Self {
        Self {
            addresses: self.addresses.clone(),
            servers: self.servers.clone(),
            roots: self.roots.clone(),
            control: self.control.clone(),
            reports: self.reports.clone(),
            task: None,
            websocket: self.websocket.clone(),
            webrtc: self.webrtc.clone(),
            detour: self.detour.clone(),
        }
    }

    /// Opens a session: over libp2p if that works, otherwise over the WebSocket. It may change from one to the other.
    pub(crate) async fn open(
        &self,
        mut options: SessionOptions,
        output: &Output,
    ) -> Result<RemoteSession, OpenError> {
        if let Some((webrtc, websocket)) = self.webrtc.clone().zip(self.websocket.as_ref()) {
            let servers = websocket.ice_servers(options.config.token.clone());
            options = options.webrtc(webrtc.with_servers(servers));
        }
        let unreachable = || OpenError::Unreachable(ConnectError::fatal("there is no address"));
        let Some((control, peer)) = self
            .control
            .as_ref()
            .zip(self.addresses.first().and_then(peer_of))
        else {
            let connector = self.websocket.clone().ok_or_else(unreachable)?;
            return open(options, connector).await;
        };
        let mode = options.config.mode;
        let token = options.config.token.clone();
        let direct = control.connector(peer, self.addresses.clone(), mode);
        let session = match self.websocket.clone() {
            None => open(options, direct).await?,
            Some(websocket) => {
                let both = Both::new(direct, websocket, self.detour.clone(), *output);
                open(options, both).await?
            }
        };
        if let Some(servers) = self.servers.clone() {
            let (handle, roots) = (session.handle(), self.roots.clone());
            tokio::spawn(servers.ask_for(handle, self.addresses.clone(), token, roots));
        }
        Ok(session)
    }

    /// Tells what becomes of STUN and TURN servers, until what this gives is dropped.
    pub(crate) fn tell_of_servers(&self, output: &Output) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for reports in self.reports.clone() {
            tasks.spawn(servers::tell(reports, *output));
        }
        tasks
    }

    /// Says goodbye.
    pub(crate) async fn stop(self) {
        if let Some(task) = self.task {
            task.stop().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    #[test]
    fn reads_all_that_names_a_server() {
        let address = format!("/ip4/127.0.0.1/tcp/1/p2p/{PEER}");
        let by_address = parse(&address, Mode::Tunnel).unwrap();
        assert_eq!(by_address.addresses.len(), 1);
        let by_url = parse("wss://example.com/pty", Mode::Pty).unwrap();
        assert_eq!(by_url.websocket, "wss://example.com/pty");
        let of_a_tunnel = parse("wss://example.com/tunnel", Mode::Pty).unwrap();
        assert_eq!(of_a_tunnel.mode, Mode::Tunnel, "the path says so");
        let link = format!("https://example.com/#{by_url}");
        assert_eq!(parse(&link, Mode::Tunnel).unwrap(), by_url);
        for wrong in ["/ip4/127.0.0.1/tcp/1", "/nonsense", "example.com", ""] {
            parse(wrong, Mode::Pty).unwrap_err();
        }
    }

    #[tokio::test]
    async fn sessions_move_to_webrtc_unless_told_not_to() {
        let folder = tempfile::tempdir().unwrap();
        let state = crate::state::find(Some(folder.path().to_owned())).unwrap();
        for no_webrtc in [false, true] {
            let target = Target {
                target: "ws://127.0.0.1:1/pty".to_owned(),
                token: None,
                token_file: None,
                ca: None,
                no_webrtc,
            };
            let destination = Destination::new(&target, None).unwrap();
            let ways = destination.ways(&state).await.unwrap();
            assert_eq!(ways.webrtc.is_none(), no_webrtc);
            assert_eq!(ways.share().webrtc.is_none(), no_webrtc);
        }
    }

    #[test]
    fn reads_targets() {
        assert_eq!(host_port("db:5432").unwrap(), ("db".to_owned(), 5432));
        assert_eq!(host_port("[::1]:22").unwrap(), ("::1".to_owned(), 22));
        for wrong in ["db", "db:", ":22", "::1:22", "db:0", "db:65536"] {
            host_port(wrong).unwrap_err();
        }
    }
}
