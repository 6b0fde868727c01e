//! The end of a connection: flush, say goodbye, be forgotten.

use super::{Connection, Context, handshake::datagrams};
use crate::proto::{engine::sctp::Sctp, error::CloseReason, outbox::Outbox};

impl Connection {
    /// Flushes what was written, then closes.
    pub(crate) fn close(&mut self, cx: &Context<'_>) {
        if self.ended.is_none() && self.closing.is_none() {
            self.closing = Some(cx.now + cx.limits.close_timeout);
        }
    }

    /// Goes on with closing: done when the peer acknowledged everything or the time is over.
    pub(super) fn advance_closing(&mut self, cx: &mut Context<'_>) {
        let Some(deadline) = self.closing else { return };
        let flushed = self.sctp.as_ref().is_none_or(|sctp| sctp.buffered() == 0);
        if self.ended.is_none() && (flushed || deadline <= cx.now) {
            self.say_goodbye(cx);
            self.end(CloseReason::Local, cx);
        }
    }

    /// SCTP SHUTDOWN and DTLS close_notify in one flight: go-libp2p acts on the one, browsers on the other, and the
    /// peer's idle timer need not run out.
    pub(super) fn say_goodbye(&mut self, cx: &mut Context<'_>) {
        let mut scratch = Outbox::default();
        let path = self.path();
        if let Some(sctp) = &mut self.sctp {
            Sctp::shutdown(sctp);
            let dtls = &mut self.dtls;
            sctp.poll_packets(cx.now, |packet| {
                // A session that failed already cannot carry the goodbye either.
                dtls.send(cx.now, packet, path, &mut scratch)
                    .unwrap_or_default();
            });
        }
        self.dtls.close(cx.now, path, &mut scratch);
        let datagrams = datagrams(&mut scratch);
        if self.relayed {
            self.send_relayed(datagrams, cx.now, cx.relayed);
            return;
        }
        for datagram in datagrams {
            cx.outbox.push(path.remote, path.local_ip, &datagram);
            // The last one holds the close_notify: it is repeated to a peer that missed it.
            self.goodbye = datagram;
        }
    }
}
