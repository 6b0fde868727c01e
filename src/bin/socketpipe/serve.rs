//! `socketpipe serve`.

mod addresses;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId, identity::Keypair, multiaddr::Protocol};
use libp2p_rtc::{
    Caller,
    socketpipe::{
        Carrier, Code, Server, SessionSummary,
        invitation::Invitation,
        session::Mode,
        tokens::{JwtKey, TokenStore, TokenTerms},
        websocket::{RateLimiter, TlsRoots, TurnServers, WebSocketListener},
    },
};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use self::addresses::{address_of, is_instance, is_loopback, websocket_of, without_repeats};
use crate::{
    Failed,
    args::Serve,
    audit::mode_name,
    config::{self, Config, TerminalKind},
    control::{InviteRequest, Invited, Listener, Request},
    desk::{Desk, TOKENS},
    node::{Node, NodeOptions, NodeTask},
    output::Output,
    servers,
    state::{Ports, State, port_of},
    time::{rfc3339, unix},
    transports::{Servers, Transports},
};

/// Peers added while servers ran, with their names.
const PEERS: &str = "peers.json";
/// Multiaddrs in one invitation: more ways in make it longer, not better.
const MAX_ADDRESSES: usize = 6;
/// The invitation that is printed at the start.
const FIRST_LABEL: &str = "first guest";

/// Everything that runs.
struct Running {
    config: Config,
    state: State,
    server: Server,
    desk: Desk,
    node: Option<Node>,
    /// The address of the WebSocket listener, and whether it speaks TLS.
    websocket: Option<(SocketAddr, bool)>,
    signer: Option<JwtKey>,
    names: Mutex<BTreeMap<String, String>>,
}

pub(crate) async fn run(state: State, options: Serve, output: &Output) -> Result<u8, Failed> {
    let config = config::load(&options)?;
    let control = Listener::open(&state)?;
    let mut stop = Stop::new()?;
    let tokens = TokenStore::default();
    tokens.restore(state.load(TOKENS)?);
    let signer = config.access.fill(&tokens)?;
    let limiter = RateLimiter::new(config.websocket.burst, config.websocket.per_second);
    let desk = Desk::new(&config, &state, tokens, limiter.clone())?;
    let names: BTreeMap<String, String> = state.load(PEERS)?;
    for peer in names.keys().filter_map(|peer| peer.parse().ok()) {
        desk.allow_peer(peer);
    }
    let mut ports = Ports::load(&state);
    let servers = config.webrtc.servers()?;
    let transports = transports(&config, &state, servers.as_ref())?;
    let caller = transports.as_ref().map(|(_, all)| all.caller.clone());
    let caller = caller.unwrap_or_else(|| Caller::new(config.webrtc.calls()));
    let server = make_server(&config, &desk, &caller, servers.as_ref());
    let all = servers.clone().filter(|_| config.webrtc.enabled);
    let _watching = servers::watch(&caller, all, output);
    let websocket = listen_websocket(&config, &server, (limiter, servers), &mut ports).await?;
    let shared = websocket
        .as_ref()
        .map(|open| (open.local_addr(), open.is_tls()));
    let (node, task) = start_node(&config, transports, &server, &mut ports, (shared, *output))
        .await?
        .unzip();
    let websocket = websocket.map(|open| share_port(open, node.as_ref()));
    ports.save()?;
    if websocket.is_none() && node.is_none() {
        return Err("neither libp2p nor WebSocket is enabled".into());
    }
    let running = Arc::new(Running {
        websocket: shared,
        config,
        state,
        server,
        desk,
        node,
        signer,
        names: Mutex::new(names),
    });
    running.announce(output, options.no_qr)?;
    let pages = websocket.map(|listener| tokio::spawn(listener.run()));
    let commands = running.clone();
    tokio::select! {
        () = control.serve(move |request| commands.answer(request)) => {}
        () = stop.wait() => {}
    }
    drop(control);
    if let Some(pages) = pages {
        pages.abort();
    }
    running.stop(output, stop).await;
    if let Some(task) = task {
        task.stop().await;
    }
    Ok(0)
}

/// The node gets the WebSockets that are for libp2p.
fn share_port(listener: WebSocketListener, node: Option<&Node>) -> WebSocketListener {
    match node.and_then(|node| node.acceptor.clone()) {
        Some(acceptor) => listener.with_libp2p(acceptor),
        None => listener,
    }
}

/// SIGINT and SIGTERM.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> Result<Self, Failed> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Whether sessions of WebSockets may move to WebRTC.
fn upgrades(config: &Config) -> bool {
    config.webrtc.enabled && config.websocket.enabled
}

/// The ways by which the node connects, and its key; `None` if there shall be none.
fn transports(
    config: &Config,
    state: &State,
    servers: Option<&TurnServers>,
) -> Result<Option<(Keypair, Transports)>, Failed> {
    if !config.libp2p.enabled {
        return Ok(None);
    }
    let key = state.keypair("server.key")?;
    let calls = config.webrtc.enabled.then(|| config.webrtc.calls());
    let servers = config.webrtc.own_servers(servers);
    let servers = servers.map(|servers| Box::new(move || servers.fresh()) as Servers);
    let transports = Transports::new(&key, TlsRoots::default(), calls, servers)?;
    Ok(Some((key, transports)))
}

/// The server of sessions. Their WebRTC shares the sockets of the node, if there is one.
fn make_server(
    config: &Config,
    desk: &Desk,
    caller: &Caller,
    servers: Option<&TurnServers>,
) -> Server {
    let (limits, most) = (config.server(), config.sessions.max);
    if !upgrades(config) {
        return Server::with_max_sessions(limits, desk.clone(), most);
    }
    let webrtc = config.webrtc.upgrade(caller.clone(), servers);
    Server::with_webrtc(limits, desk.clone(), most, webrtc)
}

async fn listen_websocket(
    config: &Config,
    server: &Server,
    (limiter, servers): (RateLimiter, Option<TurnServers>),
    ports: &mut Ports,
) -> Result<Option<WebSocketListener>, Failed> {
    if !config.websocket.enabled {
        return Ok(None);
    }
    let mut options = config.websocket.config(limiter)?;
    options.ice = servers.filter(|_| upgrades(config));
    let wished = options.listen;
    options.listen = ports.socket(wished);
    let listener = WebSocketListener::bind(options, server.clone()).await?;
    if wished.port() == 0 {
        ports.learn(&wished.to_string(), listener.local_addr().port());
    }
    Ok(Some(listener))
}

async fn start_node(
    config: &Config,
    transports: Option<(Keypair, Transports)>,
    server: &Server,
    ports: &mut Ports,
    (websocket, output): (Option<(SocketAddr, bool)>, Output),
) -> Result<Option<(Node, NodeTask)>, Failed> {
    let Some((key, transports)) = transports else {
        return Ok(None);
    };
    let wished = &config.libp2p.listen;
    let options = NodeOptions {
        listen: wished
            .iter()
            .map(|address| ports.multiaddr(address))
            .collect(),
        websocket,
        output,
    };
    let (node, task) = Node::start(key, transports, options).await?;
    let incoming = node.control.accept().ok_or("sessions are accepted twice")?;
    tokio::spawn(incoming.serve(server.clone()));
    let found = node.addresses();
    for address in wished.iter().filter(|address| port_of(address) == Some(0)) {
        if let Some(port) = found
            .iter()
            .find(|other| is_instance(address, other))
            .and_then(port_of)
        {
            ports.learn(&address.to_string(), port);
        }
    }
    Ok(Some((node, task)))
}

impl Running {
    /// Prints how to come in.
    fn announce(&self, output: &Output, no_qr: bool) -> Result<(), Failed> {
        let addresses = self.addresses();
        // That of the last start was on a screen nobody looks at any more.
        self.desk.tokens().revoke(FIRST_LABEL);
        let invited = match self.config.terminal.default {
            TerminalKind::None => None,
            _ => Some(self.invite(&first_invitation())?),
        };
        let text = || {
            let mut lines = Vec::new();
            if let Some(node) = &self.node {
                lines.push(format!("peer        {}", node.peer));
            }
            lines.extend(
                addresses
                    .iter()
                    .map(|address| format!("address     {address}")),
            );
            lines.extend(
                self.websocket_urls()
                    .map(|url| format!("websocket   {url}")),
            );
            if let Some(invited) = &invited {
                lines.extend(invited.lines(no_qr));
                lines.push(format!(
                    "\nThe invitation opens {} to the first who uses it; {}. `socketpipe invite` makes more.",
                    self.what(),
                    self.reach(),
                ));
            }
            lines.join("\n")
        };
        output.print(text, || {
            json!({
                "event": "serving",
                "peer": self.node.as_ref().map(|node| node.peer.to_string()),
                "addresses": addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "websocket": self.websocket_urls().collect::<Vec<_>>(),
                "invitation": invited.as_ref().map(|invited| invited.invitation.clone()),
                "url": invited.as_ref().and_then(|invited| invited.url.clone()),
            })
        });
        Ok(())
    }

    fn what(&self) -> &'static str {
        match self.config.terminal.default {
            TerminalKind::Ssh => "a terminal on the SSH server",
            _ => "a shell of this user",
        }
    }

    fn reach(&self) -> &'static str {
        let node = self.addresses().iter().all(is_loopback);
        let websocket = self
            .websocket
            .is_none_or(|(address, _)| address.ip().is_loopback());
        match node && websocket {
            true => "only programs on this machine can reach it",
            false => "others can reach it",
        }
    }

    /// Whether only this machine reaches the WebSockets, or nobody is told how else to.
    fn is_websocket_local(&self) -> bool {
        self.config.websocket.public_url.is_empty()
            && self.websocket.is_some_and(|(address, _)| {
                address.ip().is_loopback() || address.ip().is_unspecified()
            })
    }

    /// Announced and own addresses, best first.
    fn addresses(&self) -> Vec<Multiaddr> {
        let Some(node) = &self.node else {
            return Vec::new();
        };
        let announced = self.config.libp2p.announce.iter().map(|address| {
            let bare = address
                .iter()
                .filter(|part| !matches!(part, Protocol::P2p(_)));
            bare.collect::<Multiaddr>().with(Protocol::P2p(node.peer))
        });
        let by_page = self.public_address(node.peer);
        without_repeats(announced.chain(by_page).chain(node.addresses()))
    }

    /// The libp2p address of the page as others reach it, if libp2p goes by the same port.
    fn public_address(&self, peer: PeerId) -> Option<Multiaddr> {
        self.websocket?;
        let address = address_of(&self.config.websocket.public_url)?;
        Some(address.with(Protocol::P2p(peer)))
    }

    fn websocket_urls(&self) -> impl Iterator<Item = String> {
        let pages = self.page_url().into_iter();
        pages.flat_map(|page| {
            let base = websocket_of(&page);
            [format!("{base}pty"), format!("{base}tunnel")]
        })
    }

    /// The page as others reach it, with a slash at its end.
    fn page_url(&self) -> Option<String> {
        let (address, tls) = self.websocket?;
        if !self.config.websocket.public_url.is_empty() {
            let url = self.config.websocket.public_url.trim_end_matches('/');
            return Some(format!("{url}/"));
        }
        let scheme = if tls { "https" } else { "http" };
        let mut here = address;
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => here.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => here.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        Some(format!("{scheme}://{here}/"))
    }

    fn invite(&self, request: &InviteRequest) -> Result<Invited, Failed> {
        let mode = if request.tunnel {
            Mode::Tunnel
        } else {
            Mode::Pty
        };
        let mut terms = TokenTerms::new(&request.label)
            .mode(mode)
            .valid_for(Duration::from_secs(request.seconds));
        terms.peer = request.peer.as_deref().map(str::parse).transpose()?;
        terms.targets = request.targets.as_deref().map(str::parse).transpose()?;
        terms.uses = (request.uses > 0).then_some(request.uses);
        let token = match request.signed {
            true => {
                terms.uses = None;
                let no_key = "the configuration has no key that signs: see [access.jwt]";
                self.signer.as_ref().ok_or(no_key)?.issue(&terms)?
            }
            false => self.desk.tokens().issue(terms)?,
        };
        self.desk.save_tokens();
        let page = self.page_url();
        let mut invitation = Invitation::new(mode, token);
        invitation.addresses = self.addresses();
        let others = invitation
            .addresses
            .iter()
            .any(|address| !is_loopback(address));
        if others {
            invitation.addresses.retain(|address| !is_loopback(address));
        }
        invitation.addresses.truncate(MAX_ADDRESSES);
        // On the machine of a guest, loopback is somebody else, who shall not be given the token.
        let leads_here = !others || !self.is_websocket_local();
        let shared = page.as_deref().filter(|_| leads_here);
        invitation.websocket = shared.map_or_else(String::new, |page| {
            format!("{}{}", websocket_of(page), mode_name(mode))
        });
        invitation.host = request.host.clone();
        invitation.port = request.port;
        invitation.name = self.config.name.clone();
        Ok(Invited {
            here: !leads_here,
            invitation: invitation.to_string(),
            url: page
                .filter(|_| self.config.websocket.page && mode == Mode::Pty)
                .map(|page| invitation.link(&page)),
        })
    }

    fn answer(&self, request: Request) -> Result<Value, Failed> {
        Ok(match request {
            Request::Invite(request) => serde_json::to_value(self.invite(&request)?)?,
            Request::Tokens => self
                .desk
                .tokens()
                .terms()
                .iter()
                .map(describe_token)
                .collect(),
            Request::Revoke { label } => {
                let count = self.desk.tokens().revoke(&label);
                self.desk.save_tokens();
                json!({ "revoked": count })
            }
            Request::Peers => self.peers(),
            Request::Allow { peer, name } => {
                let id: PeerId = peer.parse()?;
                self.rename(|names| drop(names.insert(id.to_string(), name)))?;
                self.desk.allow_peer(id);
                json!({ "peer": id.to_string() })
            }
            Request::Forget { peer } => self.forget(&peer.parse()?)?,
            Request::Sessions => self.sessions(),
            Request::End { number, message } => {
                if !self.server.end_session(number, Code::POLICY, &message) {
                    return Err(format!("no session has number {number}").into());
                }
                json!({ "ended": number })
            }
        })
    }

    /// Changes the saved list of peers.
    fn rename(&self, change: impl FnOnce(&mut BTreeMap<String, String>)) -> Result<(), Failed> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut names);
        Ok(self.state.save(PEERS, &*names)?)
    }

    fn peers(&self) -> Value {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let describe = |peer: &PeerId| {
            let peer = peer.to_string();
            json!({ "name": names.get(&peer), "peer": peer })
        };
        self.desk.peers().iter().map(describe).collect()
    }

    fn forget(&self, peer: &PeerId) -> Result<Value, Failed> {
        if !self.desk.forget_peer(peer) {
            return Err(format!("peer {peer} is not listed").into());
        }
        self.rename(|names| drop(names.remove(&peer.to_string())))?;
        let sessions = self.server.sessions();
        let theirs = sessions
            .iter()
            .filter(|session| session.origin.peer == Some(*peer));
        let message = "this peer may not come in any more";
        let ended = theirs
            .filter(|session| {
                self.server
                    .end_session(session.number, Code::POLICY, message)
            })
            .count();
        Ok(json!({ "peer": peer.to_string(), "sessions_ended": ended }))
    }

    fn sessions(&self) -> Value {
        let sessions = self.server.sessions();
        sessions
            .iter()
            .map(|session| {
                json!({
                    "number": session.number,
                    "peer": session.origin.peer.map(|peer| peer.to_string()),
                    "address": session.origin.address,
                    "label": session.label,
                    "mode": mode_name(session.mode),
                    "target": session.target,
                    "start": rfc3339(session.started),
                    "state": state_of(session),
                    "path": session.carrier.map(Carrier::name),
                    "sent": session.sent,
                    "received": session.received,
                })
            })
            .collect()
    }

    /// Ends all sessions with a word to their users; at once after a second signal.
    async fn stop(&self, output: &Output, mut stop: Stop) {
        let count = self.server.sessions().len();
        if count > 0 {
            output.note(
                &format!("ending {count} sessions"),
                || json!({ "event": "stopping", "sessions": count }),
            );
        }
        tokio::select! {
            () = self.server.shutdown() => {}
            () = stop.wait() => {}
        }
        self.desk.save_tokens();
    }
}

fn state_of(session: &SessionSummary) -> &'static str {
    match (session.ended, session.connected) {
        (true, _) => "ended",
        (false, true) => "connected",
        (false, false) => "waiting",
    }
}

fn first_invitation() -> InviteRequest {
    InviteRequest {
        label: FIRST_LABEL.to_owned(),
        tunnel: false,
        peer: None,
        targets: None,
        host: String::new(),
        port: 0,
        seconds: 86_400,
        uses: 1,
        signed: false,
    }
}

fn describe_token(terms: &TokenTerms) -> Value {
    json!({
        "label": terms.label,
        "mode": terms.mode.map(mode_name),
        "peer": terms.peer.map(|peer| peer.to_string()),
        "targets": terms.targets.as_ref().map(ToString::to_string),
        "expires": terms.expires.map(rfc3339),
        "expired": terms.expires.is_some_and(|expires| unix(expires) <= unix(crate::time::now())),
        "uses": terms.uses,
    })
}
