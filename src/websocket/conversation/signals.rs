//! Signals of a call as frames of the WebSocket, and back.

use crate::{
    frames::frame::{Frame, IceCandidate},
    transport::call::Signal,
};

/// A signal for the peer.
pub(in crate::websocket) fn frame_of(signal: Signal) -> Frame {
    match signal {
        Signal::Offer(sdp) => Frame::WebRtcOffer(sdp),
        Signal::Answer(sdp) => Frame::WebRtcAnswer(sdp),
        Signal::Candidate {
            candidate,
            mid,
            index,
        } => Frame::IceCandidate(IceCandidate {
            candidate,
            mid,
            index,
        }),
        Signal::EndOfCandidates { mid, index } => Frame::IceCandidate(IceCandidate {
            candidate: String::new(),
            mid,
            index,
        }),
    }
}

/// What the peer has said; an empty candidate is the end of all.
pub(in crate::websocket) fn signal_of(candidate: IceCandidate) -> Signal {
    let IceCandidate {
        candidate,
        mid,
        index,
    } = candidate;
    match candidate.is_empty() {
        true => Signal::EndOfCandidates { mid, index },
        false => Signal::Candidate {
            candidate,
            mid,
            index,
        },
    }
}
