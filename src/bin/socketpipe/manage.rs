//! `socketpipe invite`, `peers` and `sessions`: questions to the server that runs.

use serde_json::{Value, json};

use crate::{
    Failed,
    args::{Invite, InviteAction, ModeArg, Peers, PeersAction, Sessions, SessionsAction},
    control::{InviteRequest, Invited, Request, ask},
    destination::host_port,
    output::{Output, harmless},
    state::State,
};

pub(crate) async fn invite(state: State, options: Invite, output: &Output) -> Result<u8, Failed> {
    match options.action {
        Some(InviteAction::List) => {
            let columns = ["label", "mode", "uses", "expires", "peer", "targets"];
            list(&state, &Request::Tokens, &columns, output).await
        }
        Some(InviteAction::Revoke { label }) => {
            let request = Request::Revoke {
                label: label.clone(),
            };
            let answer: Value = ask(&state, &request).await?;
            if answer["revoked"] == 0 {
                return Err(format!("no invitation has the label `{label}`").into());
            }
            output.print(
                || format!("{} taken back", answer["revoked"]),
                || answer.clone(),
            );
            Ok(0)
        }
        None => {
            let terms = options.terms;
            let (host, port) = match &terms.to {
                Some(target) => host_port(target)?,
                None => (String::new(), 0),
            };
            let request = Request::Invite(InviteRequest {
                label: terms.label,
                tunnel: matches!(terms.mode, ModeArg::Tunnel),
                peer: terms.peer.map(|peer| peer.to_string()),
                targets: terms.targets.map(|targets| targets.to_string()),
                host,
                port,
                seconds: terms.valid.as_secs(),
                uses: terms.uses,
                signed: terms.signed,
            });
            let invited: Invited = ask(&state, &request).await?;
            print_invitation(&invited, terms.no_qr, output);
            Ok(0)
        }
    }
}

fn print_invitation(invited: &Invited, no_qr: bool, output: &Output) {
    output.print(
        || invited.lines(no_qr).join("\n"),
        || json!({ "invitation": invited.invitation, "url": invited.url }),
    );
}

pub(crate) async fn peers(state: State, options: Peers, output: &Output) -> Result<u8, Failed> {
    match options.action.unwrap_or(PeersAction::List) {
        PeersAction::List => list(&state, &Request::Peers, &["peer", "name"], output).await,
        PeersAction::Add { peer, name } => {
            let peer = peer.to_string();
            let answer: Value = ask(&state, &Request::Allow { peer, name }).await?;
            output.print(
                || format!("{} may come in", plain(&answer["peer"])),
                || answer.clone(),
            );
            Ok(0)
        }
        PeersAction::Remove { peer } => {
            let peer = peer.to_string();
            let answer: Value = ask(&state, &Request::Forget { peer }).await?;
            let text = || {
                let (peer, ended) = (plain(&answer["peer"]), &answer["sessions_ended"]);
                format!("{peer} may not come in any more; {ended} sessions ended")
            };
            output.print(text, || answer.clone());
            Ok(0)
        }
        PeersAction::Id => {
            let peer = state.keypair("client.key")?.public().to_peer_id();
            output.print(|| peer.to_string(), || json!({ "peer": peer.to_string() }));
            Ok(0)
        }
    }
}

pub(crate) async fn sessions(
    state: State,
    options: Sessions,
    output: &Output,
) -> Result<u8, Failed> {
    match options.action.unwrap_or(SessionsAction::List) {
        SessionsAction::List => {
            let columns = [
                "number", "label", "mode", "target", "start", "state", "path", "sent", "received",
                "address",
            ];
            list(&state, &Request::Sessions, &columns, output).await
        }
        SessionsAction::End { number, message } => {
            let answer: Value = ask(&state, &Request::End { number, message }).await?;
            output.print(|| format!("session {number} is ended"), || answer.clone());
            Ok(0)
        }
    }
}

/// A table for people, a line of JSON per row for programs.
async fn list(
    state: &State,
    request: &Request,
    columns: &[&str],
    output: &Output,
) -> Result<u8, Failed> {
    let rows: Vec<Value> = ask(state, request).await?;
    if output.is_json() {
        for row in rows {
            output.print(String::new, || row);
        }
        return Ok(0);
    }
    let mut table = vec![columns.iter().map(ToString::to_string).collect::<Vec<_>>()];
    table.extend(
        rows.iter()
            .map(|row| columns.iter().map(|column| plain(&row[*column])).collect()),
    );
    for row in &table {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = table.iter().map(|row| row[column].chars().count()).max();
            format!("{cell:width$}", width = width.unwrap_or_default())
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        output.print(|| line.trim_end().to_owned(), || json!(null));
    }
    Ok(0)
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => harmless(text),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}
