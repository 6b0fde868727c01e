//! One fresh connection from its first frame to a session: a new one, or one that goes on.

use std::{
    future::{Future as _, poll_fn},
    sync::{Arc, atomic::Ordering},
    task::Poll,
};

use tokio::sync::{mpsc::error::SendError, oneshot};

use super::{
    Command, Handover, OPEN_TIMEOUT, Opened, Opening, Outcome, Record, Shared, Stranger,
    door::Door, running, wall_clock,
};
use crate::socketpipe::{
    code::Code,
    frame::{Failure, ResumeRequest},
    session::{Claimant, Request, not_found},
    wire::Wire,
};

/// A connection from its first frame on.
pub(super) async fn serve(shared: Arc<Shared>, mut wire: Wire, mut door: Door, stranger: Stranger) {
    loop {
        match door.request(&mut wire).await {
            None => return door.farewell(wire).await,
            Some(Request::Resume(request)) => {
                match hand_over(&shared, &door, wire, request).await {
                    Some((back, failure)) => {
                        wire = back;
                        door.refuse(failure.clone());
                        let opening = Opening::new(door.mode, door.origin.clone());
                        report_refusal(&shared, &opening, "resume".to_owned(), failure);
                    }
                    None => return,
                }
            }
            Some(Request::Handshake(request)) => {
                let opening = Opening::of(door.mode, door.origin.clone(), request);
                match open(&shared, &mut door, &mut wire, opening.clone()).await {
                    Some(Ok(opened)) => {
                        drop(stranger);
                        return running::run(shared, door, wire, opened, opening.token).await;
                    }
                    Some(Err(failure)) => {
                        door.refuse(failure.clone());
                        report_refusal(&shared, &opening, opening.target(), failure);
                    }
                    // The client gave up.
                    None => {}
                }
            }
        }
    }
}

/// Asks the service, while the client may still give up.
async fn open(
    shared: &Shared,
    door: &mut Door,
    wire: &mut Wire,
    opening: Opening,
) -> Option<Result<Opened, Failure>> {
    if shared.closing.load(Ordering::Relaxed) {
        return Some(Err(Failure::new(Code::CONNECT_FAILED, "the server stops")));
    }
    if shared.table().running.len() >= shared.max_sessions {
        return Some(Err(Failure::new(
            Code::CONNECT_FAILED,
            "the server has too many sessions",
        )));
    }
    let decision = tokio::time::timeout(OPEN_TIMEOUT, shared.service.open(opening));
    let mut decision = std::pin::pin!(decision);
    poll_fn(|cx| {
        if let Poll::Ready(decided) = decision.as_mut().poll(cx) {
            let late = Failure::new(Code::CONNECT_TIMEOUT, "the target did not answer in time");
            return Poll::Ready(Some(decided.unwrap_or(Err(late))));
        }
        door.poll_gone(cx, wire).map(|()| None)
    })
    .await
}

fn report_refusal(shared: &Shared, opening: &Opening, target: String, failure: Failure) {
    let now = wall_clock();
    shared.service.ended(&Record {
        number: 0,
        origin: opening.origin.clone(),
        label: String::new(),
        mode: opening.mode,
        target,
        started: now,
        ended: now,
        sent: 0,
        received: 0,
        carriers: Vec::new(),
        outcome: Outcome::Refused(failure),
    });
}

/// Gives the connection to the session it asks for; gives it back if that does not want it.
async fn hand_over(
    shared: &Shared,
    door: &Door,
    wire: Wire,
    request: ResumeRequest,
) -> Option<(Wire, Failure)> {
    let peer = door.origin.peer.map(|peer| peer.to_bytes());
    let claimant = Claimant {
        peer: peer.as_deref(),
        token: &request.token,
    };
    let found = {
        let table = shared.table();
        let found = table.by_id.find(&request.id, door.mode, &claimant);
        found.cloned()
    };
    let commands = match found {
        Ok(commands) => commands,
        Err(failure) => return Some((wire, failure)),
    };
    let (reply, answer) = oneshot::channel();
    let handover = Handover {
        wire,
        request,
        reply,
    };
    match commands.send(Command::Resume(handover)).await {
        Ok(()) => {}
        // It is ending: what it still has to deliver is none of the client's business.
        Err(SendError(Command::Resume(handover))) => return Some((handover.wire, not_found())),
        Err(_) => return None,
    }
    // Without an answer the session took the wire with it: the client sees a loss and tries again.
    answer.await.ok()?.err()
}
