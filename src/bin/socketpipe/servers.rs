//! Says which STUN and TURN servers are of no use: connections go on without them, and nobody would notice.

use std::{collections::BTreeMap, time::Duration};

use libp2p_rtc::{
    Caller, IceServerReport, IceServerState, ServerReports, socketpipe::websocket::TurnServers,
};
use serde_json::json;
use tokio::task::JoinSet;

use crate::output::{Output, harmless};

/// How often the servers are asked although no session needs them: what has changed is known before somebody misses it.
const INTERVAL: Duration = Duration::from_secs(600);

/// Asks the servers of the configuration now and then, and tells what becomes of them, until what this gives is dropped.
pub(crate) fn watch(
    caller: &Caller,
    servers: Option<TurnServers>,
    output: &Output,
) -> Option<JoinSet<()>> {
    let servers = servers?;
    let mut tasks = JoinSet::new();
    tasks.spawn(tell(caller.server_reports(), *output));
    let caller = caller.clone();
    tasks.spawn(async move {
        let mut pause = tokio::time::interval(INTERVAL);
        loop {
            pause.tick().await;
            caller.with_servers(&servers.fresh()).check_servers().await;
        }
    });
    Some(tasks)
}

/// Tells what becomes of servers, each change once.
pub(crate) async fn tell(mut reports: ServerReports, output: Output) {
    let mut told = BTreeMap::new();
    while let Some(all) = reports.changed().await {
        for report in news(&mut told, all) {
            let text = harmless(&report.to_string());
            output.note(&text, || {
                json!({
                    "event": "ice_server",
                    "server": report.server,
                    "state": report.state.to_string(),
                })
            });
        }
    }
}

/// What is worth a word: that a server is of no use, and that it is of use again.
fn news(
    told: &mut BTreeMap<String, IceServerState>,
    all: Vec<IceServerReport>,
) -> Vec<IceServerReport> {
    let is_news = |report: &IceServerReport| {
        let before = told.insert(report.server.clone(), report.state);
        match (before, report.state) {
            (None, IceServerState::Works) => false,
            (before, now) => before != Some(now),
        }
    };
    all.into_iter().filter(is_news).collect()
}

/// Those of no use, for people.
pub(crate) fn useless(reports: &ServerReports) -> String {
    let all = reports.all().into_iter();
    all.filter(|report| report.state != IceServerState::Works)
        .map(|report| format!("; {}", harmless(&report.to_string())))
        .collect()
}

#[cfg(test)]
mod tests {
    use libp2p_rtc::CallConfig;
    use tokio::net::UdpSocket;

    use super::*;

    #[tokio::test]
    async fn a_server_that_cannot_be_reached_is_told_once() {
        // Nobody listens there for TCP.
        let taken = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let servers = [format!("turn:{address}?transport=tcp")];
        let servers = TurnServers::new(&servers, b"secret").unwrap();
        let config = CallConfig::new().with_announced(vec!["127.0.0.1".parse().unwrap()]);
        let caller = Caller::new(config);
        let mut told = BTreeMap::new();
        for round in 0..2 {
            let with = caller.with_servers(&servers.fresh());
            let all = with.check_servers().await;
            let lines: Vec<_> = news(&mut told, all)
                .iter()
                .map(ToString::to_string)
                .collect();
            let expected = [format!("turn:{address}?transport=tcp cannot be reached")];
            assert_eq!(lines, &expected[round..]);
        }
        assert!(useless(&caller.server_reports()).contains(&address.to_string()));
    }
}
