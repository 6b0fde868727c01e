//! `socketpipe forward`: local TCP ports that lead to targets behind a server.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use libp2p_rtc::socketpipe::{
    Code, OpenError, SessionOptions,
    session::{End, EndReason, Mode},
};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
};

use crate::{
    Failed,
    args::Forward,
    destination::{Destination, Ways, host_port},
    output::{Output, chain, harmless},
    state::State,
};

/// Connections at once.
const MAX_CONNECTIONS: usize = 1024;
/// Time for the last words of connections.
const FAREWELL: Duration = Duration::from_secs(2);
/// Pause after the system had no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A local port and where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Local {
    bind: String,
    port: u16,
    /// `None`: the default of the server or invitation.
    target: Option<(String, u16)>,
}

/// Reads `[BIND:]PORT:HOST:PORT` and `[BIND:]PORT`; IPv6 addresses are in brackets.
fn parse(text: &str) -> Result<Local, Failed> {
    let wrong = || format!("`{text}`: expected [BIND:]PORT:HOST:PORT");
    let parts = split(text);
    let (bind, port, target) = match parts.as_slice() {
        [port] => ("127.0.0.1", *port, None),
        [bind, port] => (*bind, *port, None),
        [port, host, to] => ("127.0.0.1", *port, Some((*host, *to))),
        [bind, port, host, to] => (*bind, *port, Some((*host, *to))),
        _ => return Err(wrong().into()),
    };
    let target = match target {
        Some((host, to)) => Some(host_port(&format!("{host}:{to}"))?),
        None => None,
    };
    let bind = bind.trim_start_matches('[').trim_end_matches(']');
    Ok(Local {
        bind: match bind {
            "*" => "0.0.0.0",
            "" => return Err(wrong().into()),
            bind => bind,
        }
        .to_owned(),
        port: port.parse().map_err(|_| wrong())?,
        target,
    })
}

/// Splits at colons outside of brackets.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0;
    text.split(|c| {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
        c == ':' && depth == 0
    })
    .collect()
}

pub(crate) async fn run(state: State, options: Forward, output: &Output) -> Result<u8, Failed> {
    let locals = options
        .local
        .iter()
        .map(|text| parse(text))
        .collect::<Result<Vec<_>, _>>()?;
    let destination = Destination::new(&options.target, Some(Mode::Tunnel))?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut listeners = Vec::new();
    for local in locals {
        let address = (local.bind.as_str(), local.port);
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| format!("cannot listen on {}:{}: {error}", local.bind, local.port))?;
        listeners.push((local, listener));
    }
    let ways = destination.ways(&state).await?;
    let _telling = ways.tell_of_servers(output);
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    for (local, listener) in listeners {
        let address = listener.local_addr()?;
        let mut session = destination.options();
        session.give_up_after = options.give_up_after;
        if let Some((host, port)) = &local.target {
            session = session.target(host.as_str(), *port);
        }
        announce(output, address, &session);
        let port = Port {
            session,
            ways: ways.share(),
            room: room.clone(),
            stopped: stopped.clone(),
            output: *output,
        };
        tasks.spawn(Arc::new(port).listen(listener));
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    stop.send_replace(true);
    let ending = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(FAREWELL, ending).await.is_err() {
        tracing::debug!("a connection does not end");
    }
    ways.stop().await;
    Ok(0)
}

fn announce(output: &Output, address: SocketAddr, session: &SessionOptions) {
    let target = match session.config.port {
        0 => "the default target of the server".to_owned(),
        port => format!("{}:{port}", session.config.host),
    };
    output.print(
        || format!("{address} leads to {target}"),
        || json!({ "event": "listening", "address": address.to_string(), "target": target }),
    );
}

/// One local port and all that its connections need.
struct Port {
    session: SessionOptions,
    ways: Ways,
    room: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
    output: Output,
}

impl Port {
    /// Accepts until it is told to stop, and sees its connections off.
    async fn listen(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        let stopped = self.stop();
        let mut stopped = std::pin::pin!(stopped);
        loop {
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                () = &mut stopped => break,
                accepted = self.accept(&listener) => accepted,
            };
            if let Some((stream, from, permit)) = accepted {
                let port = self.clone();
                connections.spawn(async move {
                    port.carry(stream, from).await;
                    drop(permit);
                });
            }
        }
        while connections.join_next().await.is_some() {}
    }

    async fn stop(&self) {
        let mut stopped = self.stopped.clone();
        // An error means that whoever could tell is gone: as good.
        stopped.wait_for(|stopped| *stopped).await.ok();
    }

    async fn accept(
        &self,
        listener: &TcpListener,
    ) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let permit = self.room.clone().acquire_owned().await.ok()?;
        match listener.accept().await {
            Ok((stream, from)) => Some((stream, from, permit)),
            Err(error) => {
                tracing::debug!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                None
            }
        }
    }

    /// One connection from its first byte to its last.
    async fn carry(&self, mut stream: TcpStream, from: SocketAddr) {
        // A key press must not wait for the acknowledgement of the one before.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY not set");
        }
        let opened = tokio::select! {
            () = self.stop() => return,
            opened = self.ways.open(self.session.clone(), &self.output) => opened,
        };
        let mut remote = match opened {
            Ok(remote) => remote,
            Err(error) => {
                let code = match &error {
                    OpenError::Refused(failure) => Some(failure.code),
                    _ => None,
                };
                return self.complain(from, &chain(&error), code);
            }
        };
        let handle = remote.handle();
        tokio::select! {
            () = self.stop() => {}
            copied = tokio::io::copy_bidirectional(&mut stream, &mut remote) => {
                if let Err(error) = copied {
                    tracing::debug!(%error, %from, "connection ended");
                }
            }
        }
        drop(remote);
        let end = handle.ended().await;
        if let Some((text, code)) = trouble(&end) {
            self.complain(from, &text, code);
        }
    }

    fn complain(&self, from: SocketAddr, text: &str, code: Option<Code>) {
        let text = harmless(text);
        self.output
            .note(&format!("connection of {from}: {text}"), || {
                json!({
                    "event": "failed",
                    "from": from.to_string(),
                    "message": text,
                    "code": code.map(|code| code.0),
                    "name": code.and_then(Code::name),
                })
            });
    }
}

/// What is worth telling about an end.
fn trouble(end: &End) -> Option<(String, Option<Code>)> {
    match &end.reason {
        EndReason::Close(close)
            if close.code == Code::NORMAL || close.code == Code::BACKEND_CLOSED =>
        {
            None
        }
        EndReason::Close(close) => Some((close.message.clone(), Some(close.code))),
        EndReason::Failed(failure) => Some((failure.message.clone(), Some(failure.code))),
        _ => Some(("the connection to the server is lost".to_owned(), None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(bind: &str, port: u16, target: Option<(&str, u16)>) -> Local {
        Local {
            bind: bind.to_owned(),
            port,
            target: target.map(|(host, port)| (host.to_owned(), port)),
        }
    }

    #[test]
    fn reads_what_ssh_reads() {
        let cases = [
            ("2222:db:22", local("127.0.0.1", 2222, Some(("db", 22)))),
            ("*:2222:db:22", local("0.0.0.0", 2222, Some(("db", 22)))),
            (
                "[::1]:2222:[fd00::1]:22",
                local("::1", 2222, Some(("fd00::1", 22))),
            ),
            (
                "0:127.0.0.1:22",
                local("127.0.0.1", 0, Some(("127.0.0.1", 22))),
            ),
            ("2222", local("127.0.0.1", 2222, None)),
            ("localhost:2222", local("localhost", 2222, None)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
        for wrong in [
            "",
            "x",
            "1:2:3:4:5",
            "2222:db:0",
            ":2222:db:22",
            "99999:db:22",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
