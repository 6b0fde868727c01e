//! Dials of one stored address again and again, also after the listener was restarted.

use std::{
    net::{Ipv4Addr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use libp2p::Multiaddr;

use super::Cell;
use crate::{
    Failure,
    child::Listener,
    dialer::{Dialer, Link},
    node::Node,
};

/// How long one of these dials may take.
const AT_MOST: Duration = Duration::from_secs(2);

/// Dials from one and the same node for every attempt: that is the point of this row.
pub async fn run(cell: Cell) -> Result<(), Failure> {
    let mut args = cell.listener(false);
    args.port = free_port()?;
    let listener = Listener::start(args).await?;
    let stored = listener.addr().clone();
    let node = Dialer::new(cell.kind, false).await?.fresh().await?;
    let (good, fault) = dials(cell, &node, &stored).await?;
    cell.emit("re-dials that work", good, "of 100", remark(cell, fault));
    listener.kill().await?;
    let listener = Listener::start(args).await?;
    let (good, fault) = dials(cell, &node, &stored).await?;
    let mut note = remark(cell, fault);
    if *listener.addr() != stored {
        note.push_str("; the address changed with the restart");
    }
    cell.emit("re-dials that work after a restart", good, "of 100", note);
    Ok(())
}

/// Dials and closes; gives how many of a hundred worked, and the first failure.
async fn dials(
    cell: Cell,
    node: &Arc<Node>,
    addr: &Multiaddr,
) -> Result<(f64, Option<String>), Failure> {
    let mut good = 0;
    let mut fault = None;
    for attempt in 1..=cell.amounts.redials {
        match Link::dial(node.clone(), addr, AT_MOST).await {
            Ok(link) => {
                good += 1;
                link.close().await?;
            }
            Err(error) => fault = fault.or(Some(format!("dial {attempt}: {error}"))),
        }
    }
    Ok((f64::from(good) * 100.0 / cell.amounts.redials as f64, fault))
}

/// How many were tried and what went wrong first.
fn remark(cell: Cell, fault: Option<String>) -> String {
    let tried = format!("{} dials from one node", cell.amounts.redials);
    match fault {
        Some(fault) => format!("{tried}; first failure: {fault}"),
        None => tried,
    }
}

/// A UDP port that was free a moment ago.
fn free_port() -> Result<u16, Failure> {
    Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}
