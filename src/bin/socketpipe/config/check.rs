//! Settings that can be read and cannot work, each told with the bound or the reason, before anything is opened.

use std::{env, ffi::OsString, fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use super::{Config, SessionLimits, Terminal, TerminalKind, WebSocket};
use crate::Failed;

/// What the protocol demands of a server, see [`ServerConfig`](libp2p_rtc::socketpipe::session::ServerConfig).
const MIN_HOLD: Duration = Duration::from_secs(60);
const MIN_RETAINED: usize = 65_536;
const MIN_MAX_MESSAGE: u32 = 1024;
const PING_INTERVAL: [u64; 2] = [5, 600];
const PING_TIMEOUT: [u64; 2] = [2, 60];

impl Config {
    /// Whether a server can do what this says.
    pub(super) fn check(&self) -> Result<(), Failed> {
        self.websocket.check()?;
        self.webrtc.check()?;
        self.terminal.check()?;
        self.sessions.check()?;
        if self.recording.input && self.recording.directory.is_none() {
            return Err("[recording] input: there is no directory for recordings".into());
        }
        Ok(())
    }
}

/// A number of which there must be one at least.
pub(super) fn at_least_one(name: &str, value: usize) -> Result<(), Failed> {
    match value {
        0 => Err(format!("{name} = 0 lets nobody in: at least 1").into()),
        _ => Ok(()),
    }
}

impl WebSocket {
    fn check(&self) -> Result<(), Failed> {
        at_least_one("[websocket] max_connections", self.max_connections)?;
        at_least_one("[websocket] burst", self.burst as usize)?;
        if !self.public_url.is_empty() && !is_page(&self.public_url) {
            return Err(format!(
                "[websocket] public_url `{}`: expected https://host/ without a query",
                self.public_url
            )
            .into());
        }
        match self.origins.iter().find(|origin| !is_origin(origin)) {
            Some(origin) => Err(format!(
                "[websocket] origins `{origin}`: expected scheme and host, as https://tools.example.com"
            )
            .into()),
            None => Ok(()),
        }
    }
}

/// Whether invitations can stand behind `#` of this URL.
fn is_page(text: &str) -> bool {
    let Ok(url) = text.parse::<hyper::Uri>() else {
        return false;
    };
    let is_web = matches!(url.scheme_str(), Some("http" | "https"));
    let has_host = url.host().is_some_and(|host| !host.is_empty());
    is_web && has_host && url.query().is_none() && !text.contains('#')
}

/// Whether a browser could send this as the origin of a page.
fn is_origin(text: &str) -> bool {
    let parts = text.trim_end_matches('/').split_once("://");
    parts.is_some_and(|(scheme, host)| {
        !scheme.is_empty() && !host.is_empty() && !host.contains(['/', '?', '#'])
    })
}

impl Terminal {
    fn check(&self) -> Result<(), Failed> {
        if self.default != TerminalKind::Shell {
            return Ok(());
        }
        if let Some(directory) = &self.directory
            && !directory.is_dir()
        {
            let directory = directory.display();
            return Err(format!("[terminal] directory {directory}: there is none").into());
        }
        match &self.program {
            Some(program) if !self.can_run(program) => Err(format!(
                "the program of the terminal, `{program}`, is no file that can be executed, nor in PATH"
            )
            .into()),
            _ => Ok(()),
        }
    }

    /// Whether this is a program, sought as it will be for each terminal.
    fn can_run(&self, program: &str) -> bool {
        let home = || env::home_dir().filter(|home| home.is_dir());
        let start = self.directory.clone().or_else(home).unwrap_or_default();
        if ["/", "./", "../"]
            .iter()
            .any(|begin| program.starts_with(begin))
        {
            return is_executable(&start.join(program));
        }
        let mut own = self.env.iter().rev();
        let own = own
            .find_map(|text| text.strip_prefix("PATH="))
            .map(OsString::from);
        let path = own.or_else(|| env::var_os("PATH")).unwrap_or_default();
        env::split_paths(&path).any(|folder| is_executable(&start.join(folder).join(program)))
    }
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

impl SessionLimits {
    fn check(&self) -> Result<(), Failed> {
        at_least_one("[sessions] max", self.max)?;
        if self.hold < MIN_HOLD {
            return Err(format!("[sessions] hold: at least {}s", MIN_HOLD.as_secs()).into());
        }
        if self.retained < MIN_RETAINED {
            return Err(format!("[sessions] retained: at least {MIN_RETAINED}").into());
        }
        if self.max_message < MIN_MAX_MESSAGE {
            return Err(format!("[sessions] max_message: at least {MIN_MAX_MESSAGE}").into());
        }
        for (name, time, [least, most]) in [
            ("ping_interval", self.ping_interval, PING_INTERVAL),
            ("ping_timeout", self.ping_timeout, PING_TIMEOUT),
        ] {
            if time < Duration::from_secs(least) || time > Duration::from_secs(most) {
                return Err(format!("[sessions] {name}: {least}s to {most}s").into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said against this configuration.
    fn said_of(text: &str) -> Option<String> {
        let config: Config = toml::from_str(text).unwrap();
        config.check().err().map(|error| error.to_string())
    }

    #[test]
    fn what_cannot_work_is_told_with_its_name() {
        for (text, word) in [
            ("[websocket]\npublic_url = \"example.com\"", "public_url"),
            (
                "[websocket]\npublic_url = \"ftp://example.com\"",
                "public_url",
            ),
            ("[websocket]\npublic_url = \"https://\"", "public_url"),
            (
                "[websocket]\npublic_url = \"https://example.com/?a\"",
                "query",
            ),
            (
                "[websocket]\npublic_url = \"https://example.com/#a\"",
                "query",
            ),
            ("[websocket]\nmax_connections = 0", "max_connections"),
            ("[websocket]\nburst = 0", "burst"),
            ("[websocket]\norigins = [\"tools.example.com\"]", "scheme"),
            ("[websocket]\norigins = [\"https://a.example/b\"]", "scheme"),
            ("[webrtc]\nmax = 0", "[webrtc] max"),
            ("[webrtc]\nrelay = \"both\"", "relay"),
            (
                "[webrtc]\nrelay = \"only\"\nservers = [\"stun:192.0.2.1\"]",
                "relay",
            ),
            ("[webrtc]\nturn_secret_file = \"/x\"", "turn_secret_file"),
            ("[terminal]\nprogram = \"/etc/passwd\"", "/etc/passwd"),
            ("[terminal]\nprogram = \"no-such-shell\"", "no-such-shell"),
            (
                "[terminal]\nprogram = \"sh\"\nenv = [\"PATH=/nonexistent\"]",
                "`sh`",
            ),
            ("[terminal]\ndirectory = \"/nonexistent\"", "/nonexistent"),
            ("[sessions]\nmax = 0", "[sessions] max"),
            ("[sessions]\nhold = \"59s\"", "at least 60s"),
            ("[sessions]\nretained = 65535", "at least 65536"),
            ("[sessions]\nmax_message = 1023", "at least 1024"),
            ("[sessions]\nping_interval = \"4s\"", "5s to 600s"),
            ("[sessions]\nping_interval = \"11m\"", "5s to 600s"),
            ("[sessions]\nping_timeout = \"1s\"", "2s to 60s"),
            ("[sessions]\nping_timeout = \"61s\"", "2s to 60s"),
            ("[recording]\ninput = true", "[recording]"),
        ] {
            let said = said_of(text).unwrap_or_default();
            assert!(said.contains(word), "{text}: {said}");
        }
    }

    #[test]
    fn what_can_work_is_taken_up_to_its_bounds() {
        for text in [
            "",
            "[websocket]\npublic_url = \"https://example.com/terminal/\"",
            "[websocket]\npublic_url = \"http://[2001:db8::1]:8080\"",
            "[websocket]\norigins = [\"https://tools.example.com:8443/\"]",
            "[webrtc]\nrelay = \"only\"\nservers = [\"turn:192.0.2.1\"]\nturn_secret_file = \"/x\"",
            "[terminal]\nprogram = \"/bin/sh\"\ndirectory = \"/\"",
            "[terminal]\nprogram = \"sh\"",
            "[terminal]\nprogram = \"./sh\"\ndirectory = \"/bin\"",
            "[terminal]\nprogram = \"sh\"\nenv = [\"PATH=/nonexistent:/bin\"]",
            "[terminal]\ndefault = \"none\"\nprogram = \"no-such-shell\"",
            "[sessions]\nhold = \"60s\"\nretained = 65536\nmax_message = 1024",
            "[sessions]\nping_interval = \"5s\"\nping_timeout = \"60s\"",
        ] {
            assert_eq!(said_of(text), None, "{text}");
        }
    }
}
