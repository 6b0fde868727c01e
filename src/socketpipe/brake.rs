//! Lets terminals that print without end take turns, so that keys in the others are echoed soon.
//!
//! A terminal that floods keeps busy the program in it, the kernel's terminal code, us, and perhaps its client; fifty of
//! them fill every processor, and a key waits behind all of them. So what a terminal prints beyond some screens full
//! counts against a [`Rate`] that all terminals of a server share, and who is ahead of it is not read: the program waits
//! in its own write, and nothing is lost. How busy the machine is shows in how late our own timers are. The rate falls
//! while they are, and grows otherwise until it limits nothing.
//!
//! [`Brakes`] is what the terminals of a server share, a [`Brake`] belongs to the driver of one.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Context,
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// Bytes a terminal may print at once and still be no flood: several screens full.
const BURST: u64 = 64 * 1024;
/// Bytes a second that it may print for ever and still be no flood: more than anybody reads.
const CALM: u64 = 16 * 1024;
/// The time in which a byte of that may be printed.
const NANOS_PER_BYTE: u64 = 1_000_000_000 / CALM;
/// What may follow a key at once, however much was printed before: a screen full.
const ANSWER: u64 = 4 * 1024;
/// How often a key makes room for an answer: otherwise keys that nobody typed would lift the brake for good.
const ANSWER_PACE: Duration = Duration::from_millis(50);
/// The least that all floods get together, in bytes a second, however busy the machine is: other programs may be the
/// reason, and a large file shall still come through in minutes.
const SLOWEST: u64 = 4 * 1024 * 1024;
/// The most, which is no limit on any machine.
const FASTEST: u64 = 1024 * 1024 * 1024;
/// A terminal may be ahead of its rate by so much: shorter pauses than this are longer in the end, as timers go.
const AHEAD: Duration = Duration::from_millis(2);
/// How often the clock is looked at while floods need not wait.
const PROBE: Duration = Duration::from_millis(10);
/// A timer that is so late on average says that the machine is busy. A key waits for several tasks one after the other.
const TOO_LATE: Duration = Duration::from_millis(4);
/// The rate changes once in such a time.
const WINDOW: Duration = Duration::from_millis(20);
/// After such a time without a flood nothing is known about the machine.
const FORGET: Duration = Duration::from_secs(1);

/// What all floods of a server may print.
#[derive(Debug)]
struct Rate {
    /// Bytes a second.
    bytes: u64,
    /// Everything that was printed is worth the time up to here.
    paid: Instant,
    /// Begin of the window, and what was heard in it.
    since: Instant,
    late: Duration,
    samples: u32,
}

impl Rate {
    fn new(now: Instant) -> Self {
        Self {
            bytes: FASTEST,
            paid: now,
            since: now,
            late: Duration::ZERO,
            samples: 0,
        }
    }

    /// A flood has printed this; gives the time at which it may go on.
    fn pay(&mut self, now: Instant, bytes: u64) -> Instant {
        let time = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / self.bytes);
        self.paid = self.paid.max(now) + time;
        self.paid
    }

    /// A timer was so late.
    fn hear(&mut self, now: Instant, late: Duration) {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= FORGET {
            *self = Self::new(now);
        }
        self.late += late;
        self.samples += 1;
        if !(WINDOW..FORGET).contains(&elapsed) {
            return;
        }
        let bytes = match self.late / self.samples > TOO_LATE {
            true => self.bytes / 10 * 9,
            false => self.bytes / 50 * 51,
        };
        self.bytes = bytes.clamp(SLOWEST, FASTEST);
        self.since = now;
        self.late = Duration::ZERO;
        self.samples = 0;
    }
}

/// What the terminals of a server share. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Brakes {
    rate: Arc<Mutex<Rate>>,
}

impl Default for Brakes {
    fn default() -> Self {
        let rate = Rate::new(Instant::now());
        Self {
            rate: Arc::new(Mutex::new(rate)),
        }
    }
}

impl Brakes {
    /// That of one terminal.
    pub(super) fn brake(&self) -> Brake {
        let now = Instant::now();
        Brake {
            brakes: self.clone(),
            credit: BURST,
            counted: now,
            answered: None,
            timer: None,
            waits: false,
        }
    }

    fn rate(&self) -> MutexGuard<'_, Rate> {
        // Every change is complete before anything can panic.
        self.rate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far one terminal is.
#[derive(Debug)]
pub(super) struct Brake {
    brakes: Brakes,
    /// Bytes it may still print and be no flood, as of `counted`.
    credit: u64,
    counted: Instant,
    /// When a key made room the last time.
    answered: Option<Instant>,
    /// Of a flood: its next turn, or the next look at the clock.
    timer: Option<Pin<Box<Sleep>>>,
    /// It is not its turn.
    waits: bool,
}

impl Brake {
    /// To be called whenever its task runs, whether or not the terminal is read then: what is measured is the time from
    /// the timer to the task.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        let Some(timer) = &mut self.timer else { return };
        if timer.as_mut().poll(cx).is_pending() {
            return;
        }
        let now = Instant::now();
        let late = now.saturating_duration_since(timer.deadline());
        self.timer = None;
        self.waits = false;
        self.brakes.rate().hear(now, late);
    }

    /// Whether the terminal is not to be read now. [`Self::poll`] wakes when it may be.
    pub(super) fn waits(&self) -> bool {
        self.waits
    }

    /// So many bytes were read.
    pub(super) fn printed(&mut self, bytes: usize) {
        let now = Instant::now();
        let bytes = bytes as u64;
        self.earn(now);
        self.credit = self.credit.saturating_sub(bytes);
        if self.credit > 0 {
            return;
        }
        let turn = self.brakes.rate().pay(now, bytes);
        if turn > now + AHEAD {
            self.waits = true;
            self.timer = Some(Box::pin(tokio::time::sleep_until(turn)));
        } else if self.timer.is_none() {
            self.timer = Some(Box::pin(tokio::time::sleep_until(now + PROBE)));
        }
    }

    /// Adds what the time since the last count is worth. What is left of that time, for less than a byte, is counted with
    /// the next: a program that prints a little very often is no flood either.
    fn earn(&mut self, now: Instant) {
        let time = now.saturating_duration_since(self.counted);
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let earned = nanos / NANOS_PER_BYTE;
        let credit = self.credit.saturating_add(earned);
        self.credit = credit.min(BURST);
        self.counted = match credit > BURST {
            true => now,
            false => self.counted + Duration::from_nanos(earned * NANOS_PER_BYTE),
        };
    }

    /// Somebody has typed: what the terminal says to that goes first.
    pub(super) fn typed(&mut self) {
        let now = Instant::now();
        let just = |since: Instant| now.saturating_duration_since(since) < ANSWER_PACE;
        if self.answered.is_some_and(just) {
            return;
        }
        self.answered = Some(now);
        self.credit = self.credit.max(ANSWER);
        self.waits = false;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const PIECE: usize = 16 * 1024;
    const MIB: u64 = 1024 * 1024;

    /// As its task does when it is woken.
    async fn run(brake: &mut Brake) {
        poll_fn(|cx| {
            brake.poll(cx);
            std::task::Poll::Ready(())
        })
        .await;
    }

    /// Prints a piece, once it may.
    async fn print(brake: &mut Brake) {
        run(brake).await;
        while brake.waits() {
            let next = brake.timer.as_ref().unwrap().deadline();
            tokio::time::sleep_until(next).await;
            run(brake).await;
        }
        brake.printed(PIECE);
    }

    /// Floods for so long on a machine that runs every task so late; bytes that came of it.
    async fn flood(brake: &mut Brake, time: Duration, late: Duration) -> u64 {
        let start = Instant::now();
        let mut bytes = 0;
        while start.elapsed() < time {
            run(brake).await;
            if !brake.waits() {
                brake.printed(PIECE);
                bytes += PIECE as u64;
            }
            let next = brake.timer.as_ref().map_or(start, |timer| timer.deadline());
            let pause = match brake.waits() {
                true => next.saturating_duration_since(Instant::now()),
                false => Duration::from_micros(100),
            };
            tokio::time::advance(pause.max(Duration::from_micros(100)) + late).await;
        }
        bytes
    }

    #[tokio::test(start_paused = true)]
    async fn who_prints_what_people_read_never_waits() {
        let brakes = Brakes::default();
        brakes.rate().bytes = SLOWEST;
        let mut brake = brakes.brake();
        for _ in 0..10_000 {
            run(&mut brake).await;
            assert!(!brake.waits());
            brake.printed(1000);
            assert!(brake.timer.is_none());
            tokio::time::advance(Duration::from_millis(70)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_prints_a_little_very_often_never_waits() {
        let brakes = Brakes::default();
        brakes.rate().bytes = SLOWEST;
        let mut brake = brakes.brake();
        for _ in 0..100_000 {
            run(&mut brake).await;
            assert!(!brake.waits());
            brake.printed(1);
            assert!(brake.timer.is_none());
            tokio::time::advance(Duration::from_micros(70)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_as_fast_as_the_machine_while_that_has_time() {
        let mut brake = Brakes::default().brake();
        let time = Duration::from_secs(1);
        // As fast as the test prints: a piece in 0.1 ms.
        let bytes = flood(&mut brake, time, Duration::ZERO).await;
        assert!(bytes > 150 * MIB, "{bytes}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_machine_slows_floods_down_to_a_limit_and_one_with_time_lets_them_go() {
        let brakes = Brakes::default();
        let mut brake = brakes.brake();
        let time = Duration::from_secs(5);
        let late = TOO_LATE + Duration::from_millis(1);
        flood(&mut brake, time, late).await;
        assert_eq!(brakes.rate().bytes, SLOWEST);
        // Nothing but the pace counts from here on.
        let bytes = flood(&mut brake, time, late).await;
        assert!(bytes <= SLOWEST * 11 / 10 * 5, "{bytes}");
        assert!(bytes >= SLOWEST / 4 * 5, "{bytes}");

        flood(&mut brake, time * 2, Duration::ZERO).await;
        assert!(brakes.rate().bytes > SLOWEST * 100);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_of_the_machine_is_forgotten_without_floods() {
        let brakes = Brakes::default();
        brakes.rate().bytes = SLOWEST;
        tokio::time::advance(FORGET).await;
        brakes.rate().hear(Instant::now(), TOO_LATE * 2);
        assert_eq!(brakes.rate().bytes, FASTEST);
    }

    #[tokio::test(start_paused = true)]
    async fn floods_take_turns_and_get_the_same() {
        let brakes = Brakes::default();
        let mut all: Vec<_> = (0..50).map(|_| (brakes.brake(), 0_u64)).collect();
        let start = Instant::now();
        let time = Duration::from_secs(10);
        while start.elapsed() < time {
            brakes.rate().bytes = SLOWEST;
            for (brake, bytes) in &mut all {
                run(brake).await;
                if !brake.waits() {
                    brake.printed(PIECE);
                    *bytes += PIECE as u64;
                }
            }
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let total: u64 = all.iter().map(|(_, bytes)| bytes).sum();
        let (least, most) = (
            all.iter().map(|(_, bytes)| *bytes).min().unwrap(),
            all.iter().map(|(_, bytes)| *bytes).max().unwrap(),
        );
        // What they may print before they count is on top.
        let whole = SLOWEST * time.as_secs();
        assert!(total > whole * 9 / 10, "{total}");
        assert!(
            total < whole + 50 * (BURST + 10 * CALM) + whole / 10,
            "{total}"
        );
        assert!(most - least <= 2 * PIECE as u64, "{least} to {most}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_to_a_key_does_not_wait_but_keys_do_not_lift_the_brake() {
        let brakes = Brakes::default();
        brakes.rate().bytes = SLOWEST;
        let mut brake = brakes.brake();
        let mut wait = async || {
            while !brake.waits() {
                brake.printed(PIECE);
            }
            brake.typed();
            brake.waits()
        };
        assert!(!wait().await);
        assert!(wait().await, "another one at once");
        tokio::time::advance(ANSWER_PACE).await;
        assert!(!wait().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_whose_client_does_not_read_says_nothing_about_the_machine() {
        let brakes = Brakes::default();
        let mut brake = brakes.brake();
        for _ in 0..20 {
            print(&mut brake).await;
        }
        // Its task runs when the timer is due, whether or not there is room for more, and not for seconds after that.
        let due = brake.timer.as_ref().unwrap().deadline();
        tokio::time::sleep_until(due).await;
        run(&mut brake).await;
        assert!(brake.timer.is_none());
        tokio::time::advance(Duration::from_millis(500)).await;
        run(&mut brake).await;
        print(&mut brake).await;
        assert_eq!(brakes.rate().late, Duration::ZERO);
    }
}
