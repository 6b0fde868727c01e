//! The configuration file, in TOML. `docs/socketpipe.toml` shows every option with its default.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use libp2p::{Multiaddr, PeerId};
use libp2p_rtc::socketpipe::{
    Allowlist, Gate, Policy, PtyDefault, ShellConfig, SshAuth, SshConfig,
    session::{Mode, Overflow, ResumeConfig, ServerConfig},
    tokens::{JwtKey, TokenStore, TokenTerms},
    websocket::{RateLimiter, ServerTls, WebSocketConfig},
};
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{Failed, args::Serve, state::read_line, time::parse_duration};

mod check;
mod webrtc;

use self::webrtc::WebRtcOptions;

/// Everything that can be configured.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) name: String,
    pub(crate) libp2p: Libp2p,
    pub(crate) websocket: WebSocket,
    pub(crate) webrtc: WebRtcOptions,
    pub(crate) access: AccessOptions,
    pub(crate) terminal: Terminal,
    pub(crate) tunnel: Tunnel,
    pub(crate) sessions: SessionLimits,
    pub(crate) audit: AuditOptions,
    pub(crate) recording: RecordingOptions,
}

/// The libp2p node.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Libp2p {
    pub(crate) enabled: bool,
    pub(crate) listen: Vec<Multiaddr>,
    /// Addresses others reach this node by, if they are not those it listens on.
    pub(crate) announce: Vec<Multiaddr>,
}

impl Default for Libp2p {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: transports_of("/ip4/127.0.0.1"),
            announce: Vec::new(),
        }
    }
}

/// All transports of the node at this address, at ports to be chosen.
fn transports_of(ip: &str) -> Vec<Multiaddr> {
    ["udp/0/webrtc-direct", "udp/0/quic-v1", "tcp/0"]
        .iter()
        .filter_map(|transport| format!("{ip}/{transport}").parse().ok())
        .collect()
}

/// WebSockets and the page.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WebSocket {
    pub(crate) enabled: bool,
    pub(crate) listen: SocketAddr,
    pub(crate) tls_certificate: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
    pub(crate) plain: bool,
    pub(crate) proxies: Vec<IpAddr>,
    pub(crate) origins: Vec<String>,
    pub(crate) hosts: Vec<String>,
    pub(crate) page: bool,
    /// `https://host/` by which others reach the page, for invitations.
    pub(crate) public_url: String,
    pub(crate) burst: u32,
    pub(crate) per_second: u32,
    pub(crate) max_connections: usize,
}

impl Default for WebSocket {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls_certificate: None,
            tls_key: None,
            plain: false,
            proxies: Vec::new(),
            origins: Vec::new(),
            hosts: Vec::new(),
            page: true,
            public_url: String::new(),
            burst: 200,
            per_second: 20,
            max_connections: 2048,
        }
    }
}

impl WebSocket {
    pub(crate) fn config(&self, limiter: RateLimiter) -> Result<WebSocketConfig, Failed> {
        let mut config = WebSocketConfig::default();
        config.listen = self.listen;
        config.tls = match (&self.tls_certificate, &self.tls_key) {
            (Some(certificate), Some(key)) => Some(ServerTls::from_files(certificate, key)?),
            (None, None) => None,
            _ => return Err("tls_certificate and tls_key belong together".into()),
        };
        config.plain = self.plain;
        config.proxies = self.proxies.iter().map(IpAddr::to_canonical).collect();
        config.origins = self.origins.clone();
        config.hosts = self.hosts.clone();
        config.page = self.page;
        config.limiter = limiter;
        config.max_connections = self.max_connections;
        Ok(config)
    }
}

/// What lets somebody in, for one mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Rule {
    /// A listed peer, or a token.
    #[default]
    Any,
    /// One of the library's policies.
    Strict(Policy),
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "any" => Ok(Self::Any),
            other => Policy::from_str(other)
                .map(Self::Strict)
                .map_err(|_| D::Error::custom("expected any, peers, token, both or bound")),
        }
    }
}

/// Who may come in.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AccessOptions {
    pub(crate) pty: Rule,
    pub(crate) tunnel: Rule,
    pub(crate) peers: Vec<PeerId>,
    pub(crate) tokens: Vec<FixedToken>,
    pub(crate) jwt: Jwt,
}

/// A token that does not change.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FixedToken {
    label: String,
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    token_file: Option<PathBuf>,
    #[serde(default)]
    mode: Option<ModeName>,
    #[serde(default)]
    peer: Option<PeerId>,
    #[serde(default)]
    targets: Option<Patterns>,
    /// Seconds since 1970.
    #[serde(default)]
    expires: Option<u64>,
}

impl std::fmt::Debug for FixedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FixedToken").field(&self.label).finish()
    }
}

/// Tokens anybody could guess are refused at the start.
const MIN_TOKEN: usize = 16;

impl FixedToken {
    fn secret(&self) -> Result<String, Failed> {
        let secret = match (&self.token, &self.token_file) {
            (Some(token), None) => token.clone(),
            (None, Some(path)) => read_line(path)?,
            _ => return Err(format!("token `{}`: give token or token_file", self.label).into()),
        };
        match secret.len() >= MIN_TOKEN {
            true => Ok(secret),
            false => Err(format!("token `{}`: at least {MIN_TOKEN} characters", self.label).into()),
        }
    }

    fn terms(&self) -> TokenTerms {
        let mut terms = TokenTerms::new(&self.label);
        terms.mode = self.mode.map(Mode::from);
        terms.peer = self.peer;
        terms.targets = self.targets.as_ref().map(|patterns| patterns.0.clone());
        terms.expires = self.expires.and_then(at);
        terms
    }
}

fn at(seconds: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ModeName {
    Pty,
    Tunnel,
}

impl From<ModeName> for Mode {
    fn from(mode: ModeName) -> Self {
        match mode {
            ModeName::Pty => Self::Pty,
            ModeName::Tunnel => Self::Tunnel,
        }
    }
}

/// Targets, as a list of patterns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patterns(pub(crate) Allowlist);

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let list = Allowlist::from_str(&texts.join(",")).map_err(D::Error::custom)?;
        Ok(Self(list))
    }
}

/// Keys of signed tokens.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Jwt {
    pub(crate) hs256_secret_file: Option<PathBuf>,
    pub(crate) eddsa_public_key: Option<PathBuf>,
    pub(crate) eddsa_private_key: Option<PathBuf>,
}

impl Jwt {
    /// The keys; the first that can sign signs.
    fn keys(&self) -> Result<Vec<JwtKey>, Failed> {
        let mut keys = Vec::new();
        if let Some(path) = &self.eddsa_public_key {
            let mut key = JwtKey::eddsa(&read(path)?)?;
            if let Some(private) = &self.eddsa_private_key {
                key = key.with_eddsa_private(&read(private)?)?;
            }
            keys.push(key);
        } else if self.eddsa_private_key.is_some() {
            return Err("eddsa_private_key needs eddsa_public_key".into());
        }
        if let Some(path) = &self.hs256_secret_file {
            keys.push(JwtKey::hs256(read(path)?.trim_ascii())?);
        }
        Ok(keys)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failed> {
    let named = |error: io::Error| format!("{}: {error}", path.display());
    Ok(fs::read(path).map_err(named)?)
}

impl AccessOptions {
    /// Fills a store with the tokens of the file; gives the key that signs invitations, if there is one.
    pub(crate) fn fill(&self, store: &TokenStore) -> Result<Option<JwtKey>, Failed> {
        for fixed in &self.tokens {
            store.add_fixed(fixed.secret()?.as_bytes(), fixed.terms())?;
        }
        for key in self.jwt.keys()? {
            store.add_key(key);
        }
        // A key cannot be shared between the store and us, but it can be read twice.
        Ok(self.jwt.keys()?.into_iter().find(JwtKey::can_sign))
    }
}

/// What a terminal is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TerminalKind {
    #[default]
    Shell,
    Ssh,
    None,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Terminal {
    pub(crate) default: TerminalKind,
    pub(crate) program: Option<String>,
    pub(crate) args: Vec<String>,
    pub(crate) directory: Option<PathBuf>,
    /// Variables that are set, as `NAME=value`.
    pub(crate) env: Vec<String>,
    /// Names of variables clients may set.
    pub(crate) accept_env: Vec<String>,
    /// SSH servers clients may name.
    pub(crate) allow: Patterns,
    pub(crate) ssh: Ssh,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Ssh {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) known_hosts: Vec<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) agent: bool,
    pub(crate) command: Option<String>,
}

impl Default for Ssh {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 22,
            user: String::new(),
            known_hosts: Vec::new(),
            key: None,
            password_file: None,
            agent: false,
            command: None,
        }
    }
}

impl Terminal {
    /// Sets where terminals lead.
    pub(crate) fn apply(&self, gate: &mut Gate) -> Result<(), Failed> {
        let mut shell = ShellConfig::new();
        shell.program = self.program.clone().map(Into::into);
        shell.args = self.args.iter().map(Into::into).collect();
        shell.directory = self.directory.clone();
        shell.env = self
            .env
            .iter()
            .map(|text| pair(text))
            .collect::<Result<_, _>>()?;
        shell.accept_env = self.accept_env.clone();
        gate.pty.default = match self.default {
            TerminalKind::Shell => Some(PtyDefault::Shell(shell)),
            TerminalKind::Ssh => Some(PtyDefault::Ssh {
                host: self.ssh.host.clone(),
                port: self.ssh.port,
            }),
            TerminalKind::None => None,
        };
        gate.pty.allow = self.allow.0.clone();
        gate.pty.ssh = self.ssh.config(&self.accept_env)?;
        if gate.pty.ssh.is_none() && (self.default == TerminalKind::Ssh || !self.allow.0.is_empty())
        {
            return Err("terminals on SSH servers need [terminal.ssh] with a user".into());
        }
        Ok(())
    }
}

/// `NAME=value`.
pub(crate) fn pair(text: &str) -> Result<(String, String), Failed> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}`: expected NAME=value").into()),
    }
}

impl Ssh {
    fn config(&self, accept_env: &[String]) -> Result<Option<SshConfig>, Failed> {
        if self.user.is_empty() {
            return Ok(None);
        }
        let mut config = SshConfig::new(&self.user);
        if !self.known_hosts.is_empty() {
            config.known_hosts = self.known_hosts.clone();
        }
        if self.agent {
            config.auth.push(SshAuth::Agent);
        }
        if let Some(path) = self.key.clone() {
            let passphrase = None;
            config.auth.push(SshAuth::Key { path, passphrase });
        }
        if let Some(path) = &self.password_file {
            config.auth.push(SshAuth::Password(read_line(path)?));
        }
        config.accept_env = accept_env.to_vec();
        config.command = self.command.clone();
        Ok(Some(config))
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Tunnel {
    /// Where those go who name no target, as host:port.
    pub(crate) default: Option<String>,
    pub(crate) allow: Patterns,
    pub(crate) half_close: bool,
}

impl Default for Tunnel {
    fn default() -> Self {
        Self {
            default: None,
            allow: Patterns::default(),
            half_close: true,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SessionLimits {
    pub(crate) max: usize,
    #[serde(deserialize_with = "duration")]
    pub(crate) hold: Duration,
    pub(crate) retained: usize,
    /// What a terminal does when nobody is connected and the memory is full.
    pub(crate) when_full: WhenFull,
    pub(crate) resume: bool,
    #[serde(deserialize_with = "duration")]
    pub(crate) ping_interval: Duration,
    #[serde(deserialize_with = "duration")]
    pub(crate) ping_timeout: Duration,
    pub(crate) missed_pings: u8,
    pub(crate) max_message: u32,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WhenFull {
    Wait,
    Drop,
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            max: 1024,
            hold: Duration::from_secs(300),
            retained: 1024 * 1024,
            when_full: WhenFull::Wait,
            resume: true,
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(10),
            missed_pings: 2,
            max_message: 65_536,
        }
    }
}

impl Config {
    /// What the sessions of this server are like.
    pub(crate) fn server(&self) -> ServerConfig {
        let limits = &self.sessions;
        let mut config = ServerConfig::default();
        config.max_message = limits.max_message;
        config.ping_interval = limits.ping_interval;
        config.ping_timeout = limits.ping_timeout;
        config.missed_pings = limits.missed_pings;
        config.half_close = self.tunnel.half_close;
        config.webrtc_bit = self.webrtc.capability_bit;
        config.webrtc_without_resume = self.webrtc.without_resume;
        config.resume = limits.resume.then_some(ResumeConfig {
            hold: limits.hold,
            retained: limits.retained,
            overflow: match limits.when_full {
                WhenFull::Wait => Overflow::Pause,
                WhenFull::Drop => Overflow::DropOldest,
            },
        });
        config
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AuditOptions {
    /// JSON lines; `-` is stderr. Default: `audit.jsonl` in the state directory.
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RecordingOptions {
    pub(crate) directory: Option<PathBuf>,
    pub(crate) input: bool,
}

/// The configuration file and the command line together.
pub(crate) fn load(options: &Serve) -> Result<Config, Failed> {
    let mut config = match &options.config {
        Some(path) => parse(path)?,
        None => Config::default(),
    };
    config.libp2p.enabled |= options.public || !options.listen.is_empty();
    if options.public {
        config.libp2p.listen = transports_of("/ip4/0.0.0.0");
        config.libp2p.listen.extend(transports_of("/ip6/::"));
    } else if !options.listen.is_empty() {
        config.libp2p.listen = options.listen.clone();
    }
    if let Some(listen) = options.websocket {
        config.websocket.enabled = true;
        config.websocket.listen = listen;
    }
    if options.tls_certificate.is_some() {
        config.websocket.tls_certificate = options.tls_certificate.clone();
        config.websocket.tls_key = options.tls_key.clone();
    }
    options.webrtc.apply(&mut config.webrtc);
    if let Some(program) = &options.shell {
        config.terminal.default = TerminalKind::Shell;
        config.terminal.program = Some(program.clone());
    }
    if options.no_terminal {
        config.terminal.default = TerminalKind::None;
    }
    let allow = Allowlist::from_str(&options.allow.join(","))?;
    config.tunnel.allow = Patterns(std::mem::take(&mut config.tunnel.allow.0).with(allow));
    if let Some(name) = &options.name {
        config.name = name.clone();
    }
    if options.audit.is_some() {
        config.audit.file = options.audit.clone();
    }
    if options.record.is_some() {
        config.recording.directory = options.record.clone();
    }
    config.check()?;
    Ok(config)
}

fn parse(path: &Path) -> Result<Config, Failed> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../../docs/socketpipe.toml");

    #[test]
    fn the_documented_file_has_the_defaults() {
        let written: Config = toml::from_str(EXAMPLE).unwrap();
        assert_eq!(format!("{written:?}"), format!("{:?}", Config::default()));
    }

    /// The lines that are commented out because they have no default, or an empty one.
    #[test]
    fn the_documented_file_with_all_its_options_can_be_read() {
        let all: String = EXAMPLE
            .lines()
            .map(|line| line.strip_prefix("#: ").unwrap_or(line))
            .map(|line| format!("{line}\n"))
            .collect();
        assert!(all.contains("[[access.tokens]]"));
        let config: Config = toml::from_str(&all).unwrap();
        assert_eq!(config.access.tokens.len(), 1);
        assert!(config.terminal.ssh.key.is_some() && config.recording.directory.is_some());
    }

    #[test]
    fn what_is_misspelt_is_told() {
        for text in [
            "nmae = \"x\"",
            "[access]\npty = \"nobody\"",
            "[tunnel]\nallow = [\"x\"]",
        ] {
            toml::from_str::<Config>(text).unwrap_err();
        }
    }

    #[test]
    fn naming_where_to_listen_turns_that_on() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(
            file.path(),
            "[libp2p]\nenabled = false\n[websocket]\nenabled = false\n",
        )
        .unwrap();
        let enabled = |args: &[&str]| {
            let path = file.path().to_str().unwrap();
            let all = [&["serve", "--config", path], args].concat();
            let config = load(&clap::Parser::parse_from(all)).unwrap();
            (config.libp2p.enabled, config.websocket.enabled)
        };
        assert_eq!(enabled(&[]), (false, false));
        assert_eq!(enabled(&["--websocket", "127.0.0.1:0"]), (false, true));
        assert_eq!(
            enabled(&["--listen", "/ip4/127.0.0.1/tcp/0"]),
            (true, false)
        );
        assert_eq!(enabled(&["--public"]), (true, false));
    }

    #[test]
    fn a_token_that_can_be_guessed_is_refused() {
        let text = "[[access.tokens]]\nlabel = \"x\"\ntoken = \"short\"";
        let config: Config = toml::from_str(text).unwrap();
        let error = config.access.fill(&TokenStore::default()).unwrap_err();
        assert!(error.to_string().contains("at least 16"), "{error}");
    }
}
