//! The state directory: identity, tokens, peers, ports. Only its owner can read it.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    net::{SocketAddr, TcpListener, UdpSocket},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use libp2p::{Multiaddr, identity::Keypair, multiaddr::Protocol};
use serde::{Serialize, de::DeserializeOwned};

use crate::Failed;

/// Files nobody else may read.
const PRIVATE: u32 = 0o600;

/// Where everything is kept.
#[derive(Clone, Debug)]
pub(crate) struct State {
    path: PathBuf,
}

/// The directory that was named, or the user's own. It is made if it is not there.
pub(crate) fn find(named: Option<PathBuf>) -> Result<State, Failed> {
    let named = named.or_else(|| std::env::var_os("SOCKETPIPE_STATE").map(PathBuf::from));
    let path = match named {
        Some(path) => path,
        None => std::env::var_os("XDG_STATE_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| std::env::home_dir().map(|home| home.join(".local/state")))
            .ok_or("no home directory: name a state directory with --state")?
            .join("socketpipe"),
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&path)
        .map_err(|error| format!("state directory {}: {error}", path.display()))?;
    Ok(State { path })
}

impl State {
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The key of this name; made at the first use.
    pub(crate) fn keypair(&self, name: &str) -> Result<Keypair, Failed> {
        let path = self.file(name);
        let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        match fs::read(&path) {
            Ok(bytes) => {
                let mode = fs::metadata(&path)?.permissions().mode();
                if mode & 0o077 != 0 {
                    return Err(wrong(&"others may read this key; chmod 600 it").into());
                }
                Ok(Keypair::from_protobuf_encoding(&bytes).map_err(|error| wrong(&error))?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let keypair = Keypair::generate_ed25519();
                let bytes = keypair.to_protobuf_encoding()?;
                let mut options = fs::OpenOptions::new();
                options.write(true).create_new(true).mode(PRIVATE);
                let written = options.open(&path).and_then(|mut file| {
                    file.write_all(&bytes)?;
                    file.sync_all()
                });
                match written {
                    Ok(()) => Ok(keypair),
                    // Another start was faster.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        Ok(Keypair::from_protobuf_encoding(&fs::read(&path)?)?)
                    }
                    Err(error) => Err(wrong(&error).into()),
                }
            }
            Err(error) => Err(wrong(&error).into()),
        }
    }

    /// What a file holds; the default if there is none.
    pub(crate) fn load<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T, Failed> {
        let path = self.file(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)
                .map_err(|error| format!("{}: {error}", path.display()))?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
            Err(error) => Err(format!("{}: {error}", path.display()).into()),
        }
    }

    /// Replaces a file in one step.
    pub(crate) fn save(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        let temporary = self.file(&format!("{name}.{}.new", std::process::id()));
        let mut options = fs::OpenOptions::new();
        options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(PRIVATE);
        let mut file = options.open(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(value)?)?;
        file.sync_all()?;
        fs::rename(temporary, self.file(name))
    }
}

/// Ports that were free at the first start and shall be taken again: otherwise every restart would have another
/// address, and every invitation would lead nowhere.
pub(crate) struct Ports {
    state: State,
    known: BTreeMap<String, u16>,
}

/// File of the ports.
const PORTS: &str = "ports.json";

impl Ports {
    pub(crate) fn load(state: &State) -> Self {
        Self {
            state: state.clone(),
            // Damaged, it is no reason not to start.
            known: state.load(PORTS).unwrap_or_default(),
        }
    }

    /// The address with the port it had the last time, if it leaves the choice to us and the port is still free.
    pub(crate) fn multiaddr(&self, address: &Multiaddr) -> Multiaddr {
        let Some(&port) = self.known.get(&address.to_string()) else {
            return address.clone();
        };
        let mut ip = None;
        let mut free = false;
        let changed = address
            .iter()
            .map(|part| match part {
                Protocol::Ip4(v4) => {
                    ip = Some(v4.into());
                    part
                }
                Protocol::Ip6(v6) => {
                    ip = Some(v6.into());
                    part
                }
                Protocol::Udp(0) => {
                    free = ip.is_some_and(|ip| UdpSocket::bind(SocketAddr::new(ip, port)).is_ok());
                    Protocol::Udp(port)
                }
                Protocol::Tcp(0) => {
                    free =
                        ip.is_some_and(|ip| TcpListener::bind(SocketAddr::new(ip, port)).is_ok());
                    Protocol::Tcp(port)
                }
                part => part,
            })
            .collect();
        if free { changed } else { address.clone() }
    }

    /// The same for a WebSocket.
    pub(crate) fn socket(&self, address: SocketAddr) -> SocketAddr {
        let known = self.known.get(&address.to_string());
        let wished = known.map(|port| SocketAddr::new(address.ip(), *port));
        wished
            .filter(|wished| address.port() == 0 && TcpListener::bind(wished).is_ok())
            .unwrap_or(address)
    }

    /// This is the port an address got.
    pub(crate) fn learn(&mut self, wished: &str, port: u16) {
        self.known.insert(wished.to_owned(), port);
    }

    pub(crate) fn save(&self) -> io::Result<()> {
        self.state.save(PORTS, &self.known)
    }
}

/// The port of an address.
pub(crate) fn port_of(address: &Multiaddr) -> Option<u16> {
    address.iter().find_map(|part| match part {
        Protocol::Udp(port) | Protocol::Tcp(port) => Some(port),
        _ => None,
    })
}

/// Reads a small text file, such as one with a token in it.
pub(crate) fn read_line(path: &Path) -> Result<String, Failed> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(text.trim().to_owned())
}
