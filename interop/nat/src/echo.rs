//! `nat-lab echo`: sends back what comes.

use std::{net::SocketAddr, sync::Arc};

use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
};

use crate::{Failure, print};

/// TCP connections at once: the laboratory has no more than a few dozen.
const MAX_CONNECTIONS: usize = 256;
/// The largest UDP datagram.
const MAX_DATAGRAM: usize = 65_535;

/// Options of `echo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Address for TCP and UDP; with port 0 each has its own.
    #[arg(value_name = "ADDRESS:PORT")]
    address: SocketAddr,
}

/// Says where it listens, and serves until it is killed.
pub(crate) async fn run(args: Args) -> Result<Value, Failure> {
    let tcp = TcpListener::bind(args.address).await?;
    let udp = UdpSocket::bind(args.address).await?;
    print(&json!({
        "event": "listening",
        "tcp": tcp.local_addr()?.to_string(),
        "udp": udp.local_addr()?.to_string(),
    }));
    tokio::select! {
        outcome = connections(tcp) => outcome,
        outcome = datagrams(udp) => outcome,
    }
}

async fn connections(listener: TcpListener) -> Result<Value, Failure> {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = room.clone().acquire_owned().await?;
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            // Whoever measures sees it if it ends too early.
            if let Err(error) = send_back(stream).await {
                eprintln!("nat-lab: a connection ended: {error}");
            }
            drop(permit);
        });
    }
}

async fn send_back(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.split();
    tokio::io::copy(&mut reader, &mut writer).await?;
    Ok(())
}

async fn datagrams(socket: UdpSocket) -> Result<Value, Failure> {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let (count, from) = socket.recv_from(&mut buffer).await?;
        socket.send_to(&buffer[..count], from).await?;
    }
}
