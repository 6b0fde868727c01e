//! The frames of SocketPipe and their bytes, for everybody who speaks them.
//!
//! [`Frame`](frame::Frame) is what they say; [`codec`] is how they lie on the wire, in byte streams and in messages.
//! SocketPipe's sessions and the signaling of the libp2p transport `/ws/webrtc` use the same ones. What a frame does is
//! decided there.

pub(crate) mod code;
pub(crate) mod codec;
pub(crate) mod frame;
