//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use libp2p::{Multiaddr, StreamProtocol};

/// A Kademlia node over WebRTC-direct.
#[derive(Debug, Parser)]
#[command(name = "dht")]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) options: Options,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Be a node of the table until SIGINT or SIGTERM.
    Run,
    /// Store VALUE under KEY at the nodes closest to it. js-libp2p takes keys of the form /rtc/NAME.
    Put {
        /// The key; its bytes are the key of the record.
        key: String,
        /// The text to store.
        value: String,
    },
    /// Print what is stored under KEY.
    Get {
        /// The key of the record.
        key: String,
    },
    /// Be a node that announces itself as a provider of KEY, until SIGINT or SIGTERM.
    Provide {
        /// The name of the content; the table's key is its sha2-256 multihash, as in a CID.
        key: String,
    },
    /// Print who provides KEY.
    Find {
        /// The name of the content.
        key: String,
    },
}

/// How.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Holds what a node keeps: identity, port, addresses of peers.
    #[arg(long, value_name = "DIR", default_value = "dht-node", global = true)]
    pub(crate) folder: PathBuf,
    /// Where servers listen; port 0 is the port kept in the folder. May be repeated.
    #[arg(
        long,
        value_name = "MULTIADDR",
        default_value = "/ip4/0.0.0.0/udp/0/webrtc-direct",
        global = true
    )]
    pub(crate) listen: Vec<Multiaddr>,
    /// A node of the table, with /certhash and /p2p. May be repeated. Needed only where the folder knows no peers.
    #[arg(long, value_name = "MULTIADDR", global = true)]
    pub(crate) bootstrap: Vec<Multiaddr>,
    /// The name of the table's protocol: nodes with another name are not of this table.
    #[arg(long, value_name = "NAME", default_value = "/libp2p-rtc/kad/1.0.0", value_parser = protocol, global = true)]
    pub(crate) protocol: StreamProtocol,
    /// Print lines of JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

fn protocol(name: &str) -> Result<StreamProtocol, String> {
    StreamProtocol::try_from_owned(name.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn takes_options_after_the_command() {
        let line =
            "dht put /rtc/a b --folder x --json --bootstrap /ip4/127.0.0.1/udp/1/webrtc-direct";
        let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
        assert!(
            matches!(arguments.command, Command::Put { key, value } if key == "/rtc/a" && value == "b")
        );
        assert_eq!(arguments.options.bootstrap.len(), 1);
        assert!(arguments.options.json);
    }

    #[test]
    fn refuses_a_protocol_without_slash() {
        assert!(Arguments::try_parse_from(["dht", "run", "--protocol", "kad"]).is_err());
    }
}
