//! `[webrtc]` of the configuration.

use std::{net::IpAddr, path::PathBuf};

use libp2p_rtc::{
    CallConfig, Caller,
    socketpipe::{WebRtc, websocket::TurnServers},
};
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{check::at_least_one, read};
use crate::{Failed, args::ServeWebRtc};

/// How sessions of WebSockets move to WebRTC.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WebRtcOptions {
    pub(crate) enabled: bool,
    /// STUN and TURN servers.
    pub(crate) servers: Vec<String>,
    pub(crate) turn_secret_file: Option<PathBuf>,
    pub(crate) relay: Relay,
    pub(crate) announce: Vec<IpAddr>,
    pub(crate) port: u16,
    /// Addresses of clients that are not tried.
    pub(crate) refuse: Vec<Refused>,
    #[serde(deserialize_with = "capability_bit")]
    pub(crate) capability_bit: u8,
    pub(crate) without_resume: bool,
    pub(crate) max: usize,
}

/// Who uses the TURN servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Relay {
    /// Clients.
    #[default]
    Clients,
    /// This server too.
    Both,
    /// And it is reached in no other way.
    Only,
}

/// A kind of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Refused {
    Loopback,
    Private,
    LinkLocal,
}

impl Default for WebRtcOptions {
    fn default() -> Self {
        Self {
            enabled: true,
            servers: Vec::new(),
            turn_secret_file: None,
            relay: Relay::default(),
            announce: Vec::new(),
            port: 0,
            refuse: Vec::new(),
            capability_bit: 6,
            without_resume: false,
            max: 1024,
        }
    }
}

fn capability_bit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    match u8::deserialize(deserializer)? {
        bit @ (6 | 7) => Ok(bit),
        _ => Err(D::Error::custom("the bits that are free are 6 and 7")),
    }
}

impl WebRtcOptions {
    /// Whether this can work.
    pub(super) fn check(&self) -> Result<(), Failed> {
        at_least_one("[webrtc] max", self.max)?;
        if self
            .servers
            .iter()
            .any(|url| url.to_ascii_lowercase().starts_with("turn"))
        {
            return Ok(());
        }
        if self.relay != Relay::Clients {
            return Err("[webrtc] relay: there is no TURN server among the servers".into());
        }
        match &self.turn_secret_file {
            Some(path) => Err(format!(
                "turn_secret_file {}: there is no TURN server among the servers",
                path.display()
            )
            .into()),
            None => Ok(()),
        }
    }

    /// The servers clients are told of.
    pub(crate) fn servers(&self) -> Result<Option<TurnServers>, Failed> {
        let secret = match &self.turn_secret_file {
            Some(path) => read(path)?,
            None => Vec::new(),
        };
        let servers = TurnServers::new(&self.servers, secret.trim_ascii())?;
        Ok(Some(servers).filter(|servers| !servers.is_empty()))
    }

    /// What this server makes connections with.
    pub(crate) fn calls(&self) -> CallConfig {
        let mut config = CallConfig::new()
            .with_announced(self.announce.clone())
            .with_relay_only(self.relay == Relay::Only)
            .with_port(self.port)
            .with_max_calls(self.max);
        for refused in &self.refuse {
            config = match refused {
                Refused::Loopback => config.with_loopback(false),
                Refused::Private => config.with_private(false),
                Refused::LinkLocal => config.with_link_local(false),
            };
        }
        config
    }

    /// Those of the servers that this server uses itself.
    pub(crate) fn own_servers(&self, servers: Option<&TurnServers>) -> Option<TurnServers> {
        let servers = servers?.clone();
        let own = match self.relay {
            Relay::Clients => servers.without_turn(),
            Relay::Both | Relay::Only => servers,
        };
        Some(own).filter(|own| !own.is_empty())
    }

    /// The sessions' upgrade, with a caller of those settings.
    pub(crate) fn upgrade(&self, caller: Caller, servers: Option<&TurnServers>) -> WebRtc {
        let webrtc = WebRtc::new(caller);
        match self.own_servers(servers) {
            Some(servers) => webrtc.with_servers(servers),
            None => webrtc,
        }
    }
}

impl ServeWebRtc {
    /// The options of the command line win.
    pub(super) fn apply(&self, options: &mut WebRtcOptions) {
        options.enabled &= !self.no_webrtc;
        if !self.ice_server.is_empty() {
            options.servers = self.ice_server.clone();
        }
        if self.turn_secret_file.is_some() {
            options.turn_secret_file = self.turn_secret_file.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<WebRtcOptions, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn what_cannot_work_is_told_at_the_start() {
        for wrong in [
            "capability_bit = 5",
            "relay = \"never\"",
            "refuse = [\"all\"]",
            "announce = [\"example.com\"]",
        ] {
            parse(wrong).unwrap_err();
        }
        let no_secret = parse("servers = [\"turn:192.0.2.1\"]").unwrap();
        let error = no_secret.servers().unwrap_err().to_string();
        assert!(error.contains("secret"), "{error}");
        assert!(WebRtcOptions::default().servers().unwrap().is_none());
    }

    #[test]
    fn who_uses_the_relays_is_configured() {
        let of = |relay: &str| {
            let text = "servers = [\"stun:192.0.2.1\", \"turn:192.0.2.1\"]\nrelay = ";
            let options = parse(&format!("{text}\"{relay}\"")).unwrap();
            let all = TurnServers::new(&options.servers, b"secret").unwrap();
            let own = options.own_servers(Some(&all)).unwrap();
            own.fresh().iter().filter(|server| server.is_turn()).count()
        };
        assert_eq!((of("clients"), of("both"), of("only")), (0, 1, 1));
        let options = parse("servers = [\"turn:192.0.2.1\"]").unwrap();
        let all = TurnServers::new(&options.servers, b"secret").unwrap();
        assert!(options.own_servers(Some(&all)).is_none());
    }

    #[test]
    fn the_command_line_wins() {
        let mut options = parse("servers = [\"stun:192.0.2.1\"]").unwrap();
        let args = ServeWebRtc {
            no_webrtc: true,
            ice_server: vec!["stun:192.0.2.2".to_owned()],
            turn_secret_file: None,
        };
        args.apply(&mut options);
        assert!(!options.enabled);
        assert_eq!(options.servers, ["stun:192.0.2.2"]);
    }
}
