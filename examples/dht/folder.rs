//! What a node keeps on disk: its identity, its port, the peers it knows.
//!
//! With the same identity and port the node's address is the same after a restart (the certificate comes from the
//! identity), so the addresses that others have stored stay right.

use std::{
    fs,
    io::{self, Write as _},
    net::UdpSocket,
    path::{Path, PathBuf},
};

use libp2p::{Multiaddr, identity::Keypair};

/// The private key, protobuf. Whoever can read it can be this node.
const IDENTITY: &str = "identity";
/// The UDP port, a decimal number.
const PORT: &str = "port";
/// The addresses under which this node was reached last, one per line.
const ADDRESSES: &str = "addresses";
/// The routing table: addresses of peers with their peer ids, one per line.
const PEERS: &str = "peers";

/// The folder of a node.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Makes the folder if it is not there.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        Ok(Self(path.to_owned()))
    }

    /// A folder that may be missing: then it knows nothing.
    pub(crate) fn existing(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The identity in this folder; made with the first call.
    pub(crate) fn identity(&self) -> io::Result<Keypair> {
        let path = self.0.join(IDENTITY);
        match fs::read(&path) {
            Ok(bytes) => Keypair::from_protobuf_encoding(&bytes)
                .map_err(|error| io::Error::other(format!("{}: {error}", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let identity = Keypair::generate_ed25519();
                let bytes = identity.to_protobuf_encoding().map_err(io::Error::other)?;
                let mut file = new_private_file(&path)?;
                file.write_all(&bytes)?;
                file.sync_all()?;
                Ok(identity)
            }
            Err(error) => Err(error),
        }
    }

    /// The port in this folder; with the first call one that is free now.
    pub(crate) fn port(&self) -> io::Result<u16> {
        if let Some(text) = self.read(PORT)? {
            return text.trim().parse().map_err(io::Error::other);
        }
        let port = UdpSocket::bind(("0.0.0.0", 0))?.local_addr()?.port();
        self.replace(PORT, &format!("{port}\n"))?;
        Ok(port)
    }

    /// The addresses of the known peers.
    pub(crate) fn peers(&self) -> io::Result<Vec<Multiaddr>> {
        self.addresses_in(PEERS)
    }

    /// Keeps the addresses of the known peers.
    pub(crate) fn keep_peers(&self, peers: &[Multiaddr]) -> io::Result<()> {
        self.replace(PEERS, &lines(peers))
    }

    /// The addresses of the node of this folder itself, for clients beside it.
    pub(crate) fn addresses(&self) -> io::Result<Vec<Multiaddr>> {
        self.addresses_in(ADDRESSES)
    }

    /// Keeps the addresses of the node of this folder itself.
    pub(crate) fn keep_addresses(&self, addresses: &[Multiaddr]) -> io::Result<()> {
        self.replace(ADDRESSES, &lines(addresses))
    }

    /// A line that is no address is left out: it is no reason not to start.
    fn addresses_in(&self, name: &str) -> io::Result<Vec<Multiaddr>> {
        let text = self.read(name)?.unwrap_or_default();
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    fn read(&self, name: &str) -> io::Result<Option<String>> {
        match fs::read_to_string(self.0.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some),
        }
    }

    /// Writes beside the file and renames, so that a crash leaves the old or the new one.
    fn replace(&self, name: &str, text: &str) -> io::Result<()> {
        let new = self.0.join(format!("{name}.new"));
        fs::write(&new, text)?;
        fs::rename(new, self.0.join(name))
    }
}

fn lines(addresses: &[Multiaddr]) -> String {
    addresses.iter().map(|addr| format!("{addr}\n")).collect()
}

/// A new file that nobody else can read.
fn new_private_file(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_identity_port_and_peers() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::create(&dir.path().join("node")).unwrap();
        let identity = folder.identity().unwrap().public();
        let port = folder.port().unwrap();
        let peer: Multiaddr = "/ip4/192.0.2.1/udp/9/webrtc-direct".parse().unwrap();
        folder.keep_peers(std::slice::from_ref(&peer)).unwrap();

        let again = Folder::create(&dir.path().join("node")).unwrap();
        assert_eq!(again.identity().unwrap().public(), identity);
        assert_eq!(again.port().unwrap(), port);
        assert_eq!(again.peers().unwrap(), [peer]);
        assert!(again.addresses().unwrap().is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_can_read_the_identity() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        Folder::create(dir.path()).unwrap().identity().unwrap();
        let mode = fs::metadata(dir.path().join(IDENTITY))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_broken_identity_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(IDENTITY), "no key").unwrap();
        assert!(Folder::create(dir.path()).unwrap().identity().is_err());
    }
}
