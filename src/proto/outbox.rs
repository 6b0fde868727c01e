//! Datagrams waiting to be sent, grouped so that one system call carries many.
//!
//! Owns the buffers and their reuse. Connections append through [`Outbox::push`]; the driver takes
//! [`Transmit`]s and gives empty buffers back. Sending and choosing what to send is not its job.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
};

/// Room offered for one datagram; DTLS records of this crate stay below 1,300 bytes.
const SLOT: usize = 2048;
/// Largest batch: what one UDP send with segmentation offload can carry.
const MAX_BATCH: usize = 63 * 1024;
/// Segments of one batch; Linux takes at most 64.
const MAX_SEGMENTS: usize = 60;
/// Buffers kept for reuse.
const MAX_SPARE: usize = 16;

/// One or more datagrams of equal size (the last may be shorter) for one destination.
#[derive(Debug)]
pub(crate) struct Transmit {
    /// Where to.
    pub(crate) destination: SocketAddr,
    /// The local address to send from, when it is known.
    pub(crate) source_ip: Option<IpAddr>,
    /// Size of each datagram in `contents` when there is more than one.
    pub(crate) segment_size: Option<usize>,
    /// The datagrams, one behind the other.
    pub(crate) contents: Vec<u8>,
}

/// Queue of batches.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Batch>,
    spare: Vec<Vec<u8>>,
    datagrams: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Batch {
    transmit: Transmit,
    first: usize,
    segments: usize,
    closed: bool,
}

impl Batch {
    fn accepts(&self, destination: SocketAddr, source_ip: Option<IpAddr>) -> bool {
        !self.closed
            && self.transmit.destination == destination
            && self.transmit.source_ip == source_ip
            && self.segments < MAX_SEGMENTS
            && self.transmit.contents.len() + self.first <= MAX_BATCH
    }
}

impl Outbox {
    /// Appends one datagram that `write` puts into the buffer it is given; `None` from it appends nothing.
    ///
    /// `write` gets room for 2,048 bytes and returns how many it used.
    pub(crate) fn push_with<T>(
        &mut self,
        destination: SocketAddr,
        source_ip: Option<IpAddr>,
        write: impl FnOnce(&mut [u8]) -> (Option<usize>, T),
    ) -> T {
        let fits = self
            .queue
            .back()
            .is_some_and(|batch| batch.accepts(destination, source_ip));
        if !fits {
            let contents = self.spare.pop().unwrap_or_default();
            self.queue.push_back(Batch {
                transmit: Transmit {
                    destination,
                    source_ip,
                    segment_size: None,
                    contents,
                },
                first: 0,
                segments: 0,
                closed: false,
            });
        }
        let batch = self
            .queue
            .back_mut()
            .expect("a batch was pushed if none fitted");
        let start = batch.transmit.contents.len();
        batch.transmit.contents.resize(start + SLOT, 0);
        let (written, result) = write(&mut batch.transmit.contents[start..]);
        let written = written.unwrap_or(0).min(SLOT);
        batch.transmit.contents.truncate(start + written);
        self.seal(start, written);
        result
    }

    /// Appends a copy of `datagram`.
    pub(crate) fn push(
        &mut self,
        destination: SocketAddr,
        source_ip: Option<IpAddr>,
        datagram: &[u8],
    ) {
        self.push_with(destination, source_ip, |room| {
            let fits = datagram.len() <= room.len();
            if fits {
                room[..datagram.len()].copy_from_slice(datagram);
            }
            (fits.then_some(datagram.len()), ())
        });
    }

    /// Keeps the rule of segmentation offload: all datagrams of a batch as long as the first, the last may be shorter.
    fn seal(&mut self, start: usize, written: usize) {
        let Some(batch) = self.queue.back_mut() else {
            return;
        };
        if written == 0 {
            if batch.segments == 0 {
                self.drop_empty_tail();
            }
            return;
        }
        self.datagrams += 1;
        self.bytes += written as u64;
        if batch.segments == 0 {
            batch.first = written;
            batch.segments = 1;
        } else if written <= batch.first {
            batch.transmit.segment_size = Some(batch.first);
            batch.segments += 1;
            batch.closed = written < batch.first;
        } else {
            self.split_tail(start, written);
        }
    }

    fn drop_empty_tail(&mut self) {
        if let Some(batch) = self.queue.pop_back() {
            self.recycle(batch.transmit.contents);
        }
    }

    /// The last datagram is longer than those before it: it starts a batch of its own.
    fn split_tail(&mut self, start: usize, written: usize) {
        let mut contents = self.spare.pop().unwrap_or_default();
        let Some(batch) = self.queue.back_mut() else {
            return;
        };
        contents.extend_from_slice(&batch.transmit.contents[start..]);
        batch.transmit.contents.truncate(start);
        batch.closed = true;
        let (destination, source_ip) = (batch.transmit.destination, batch.transmit.source_ip);
        self.queue.push_back(Batch {
            transmit: Transmit {
                destination,
                source_ip,
                segment_size: None,
                contents,
            },
            first: written,
            segments: 1,
            closed: false,
        });
    }

    /// Takes the oldest batch.
    pub(crate) fn pop(&mut self) -> Option<Transmit> {
        self.queue.pop_front().map(|batch| batch.transmit)
    }

    /// Gives a sent buffer back for reuse.
    pub(crate) fn recycle(&mut self, mut contents: Vec<u8>) {
        if self.spare.len() < MAX_SPARE {
            contents.clear();
            self.spare.push(contents);
        }
    }

    /// Datagrams and bytes appended since the start.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.datagrams, self.bytes)
    }

    #[cfg(test)]
    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn batches(sizes: &[(u16, usize)]) -> Vec<(u16, Option<usize>, usize)> {
        let mut outbox = Outbox::default();
        for &(port, size) in sizes {
            outbox.push(addr(port), None, &vec![1; size]);
        }
        std::iter::from_fn(|| outbox.pop())
            .map(|t| (t.destination.port(), t.segment_size, t.contents.len()))
            .collect()
    }

    #[test]
    fn datagrams_of_equal_size_leave_in_one_batch_with_a_shorter_last() {
        assert_eq!(
            batches(&[(1, 100), (1, 100), (1, 40), (1, 40)]),
            [(1, Some(100), 240), (1, None, 40)]
        );
    }

    #[test]
    fn a_longer_datagram_or_another_peer_starts_a_batch() {
        assert_eq!(
            batches(&[(1, 40), (1, 100), (2, 100), (1, 7)]),
            [(1, None, 40), (1, None, 100), (2, None, 100), (1, None, 7)]
        );
    }

    #[test]
    fn a_batch_stays_within_what_one_send_takes() {
        let sizes: Vec<_> = (0..200).map(|_| (1, 1200)).collect();
        let batches = batches(&sizes);
        assert!(batches.iter().all(|&(_, _, len)| len <= MAX_BATCH + 1200));
        assert_eq!(
            batches.iter().map(|&(_, _, len)| len).sum::<usize>(),
            200 * 1200
        );
    }

    #[test]
    fn a_write_that_gives_nothing_leaves_no_trace() {
        let mut outbox = Outbox::default();
        outbox.push_with(addr(1), None, |_| (None, ()));
        assert!(outbox.is_empty());
        assert_eq!(outbox.totals(), (0, 0));
    }
}
