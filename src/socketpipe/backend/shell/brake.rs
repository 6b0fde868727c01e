//! Slows down terminals that print without end, so that keys in the others are echoed soon.
//!
//! A terminal that floods keeps the program in it, the kernel's terminal code and us busy; fifty of them fill every
//! processor, and a key waits behind all of them. Owned by a [`Shell`](super::Shell), which asks before each read. How
//! busy the machine is shows in how late a short pause ends: then the next one is longer, in proportion. On a machine
//! with time to spare a flood loses a millisecond in each [`BURST`].

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// Bytes between two pauses: several screens full.
const BURST: usize = 64 * 1024;
/// Shortest pause: what the timer resolves.
const SHORTEST: Duration = Duration::from_millis(1);
/// How much longer a pause gets for each moment that the one before ended late.
const STEP_BACK: u32 = 8;
/// Longest pause: still ten bursts a second.
const LONGEST: Duration = Duration::from_millis(100);

/// How far one terminal is from its next pause.
#[derive(Debug, Default)]
pub(super) struct Brake {
    /// Bytes read since the last pause.
    read: usize,
    /// How late the last pause ended.
    late: Duration,
    /// The pause that is on.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Brake {
    /// Ready when the terminal may be read.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.late = Instant::now().saturating_duration_since(pause.deadline());
            self.pause = None;
        }
        Poll::Ready(())
    }

    /// So many bytes were read.
    pub(super) fn count(&mut self, bytes: usize) {
        self.read += bytes;
        if self.read >= BURST {
            self.read = 0;
            let length = (SHORTEST + self.late * STEP_BACK).min(LONGEST);
            self.pause = Some(Box::pin(tokio::time::sleep(length)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_pauses_after_each_burst_and_longer_when_the_last_pause_ended_late() {
        let mut brake = Brake::default();
        let start = Instant::now();
        brake.count(BURST - 1);
        poll_fn(|cx| brake.poll_ready(cx)).await;
        assert_eq!(start.elapsed(), Duration::ZERO);

        brake.count(1);
        let pause = async |brake: &mut Brake| {
            let start = Instant::now();
            poll_fn(|cx| brake.poll_ready(cx)).await;
            start.elapsed()
        };
        assert!(pause(&mut brake).await < SHORTEST * 3);

        brake.count(BURST);
        let late = Duration::from_millis(5);
        tokio::time::advance(SHORTEST + late).await;
        assert_eq!(pause(&mut brake).await, Duration::ZERO);
        brake.count(BURST);
        assert!(pause(&mut brake).await >= late * (STEP_BACK - 1));

        brake.count(BURST);
        tokio::time::advance(LONGEST * 100).await;
        poll_fn(|cx| brake.poll_ready(cx)).await;
        brake.count(BURST);
        assert!(pause(&mut brake).await <= LONGEST + SHORTEST * 2);
    }
}
