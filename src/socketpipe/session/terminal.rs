//! Size and environment of the terminal behind a session: what the client still has to say, and what the server still
//! has to apply.

use std::{collections::VecDeque, time::Duration};

use super::Instant;
use crate::socketpipe::frame::{Env, Frame, Size};

/// Variables of one session.
const MAX_ENV: usize = 64;
/// Columns and rows beyond which a size is a mistake.
const MAX_SIDE: u16 = 4096;
/// Sizes in a shorter time are one: a window is being dragged.
const SETTLE: Duration = Duration::from_millis(30);

/// The terminal, either side.
#[derive(Debug, Default)]
pub(super) struct Terminal {
    /// Client: the size, and whether the server has to be told.
    size: Option<Size>,
    size_is_news: bool,
    /// Client: another size is told first, so that the program sees a change and draws everything.
    draw_again: bool,
    /// Client: variables not sent.
    env: VecDeque<Env>,
    /// Variables sent or received.
    env_count: usize,
    /// Server: a size not applied, and when the last one was.
    pending: Option<Size>,
    applied: Option<Instant>,
    /// The user has no more bytes.
    pub(super) finished: bool,
}

impl Terminal {
    /// Client: a new size.
    pub(super) fn set_size(&mut self, size: Size) {
        self.size = Some(size);
        self.size_is_news = true;
    }

    /// Client: the server may not know the size any more.
    pub(super) fn tell_again(&mut self) {
        self.size_is_news = self.size.is_some();
    }

    /// Client: the program shall draw its screen again.
    pub(super) fn draw_again(&mut self) {
        self.draw_again = self.size.is_some();
    }

    /// Client: a variable; `false` if it cannot be sent.
    pub(super) fn add_env(&mut self, env: Env) -> bool {
        // Within the cap of a control frame.
        let fits = env.name.len() <= 255 && env.value.len() <= 3072 && !env.name.is_empty();
        let takes = fits && self.env_count < MAX_ENV;
        if takes {
            self.env_count += 1;
            self.env.push_back(env);
        }
        takes
    }

    /// Client: the next frame; variables first, then the size, both before DATA.
    pub(super) fn next_frame(&mut self) -> Option<Frame> {
        if let Some(env) = self.env.pop_front() {
            return Some(Frame::Env(env));
        }
        if let Some(size) = self.size.filter(|_| self.draw_again) {
            self.draw_again = false;
            self.size_is_news = true;
            let rows = match size.rows {
                0 | 1 => size.rows + 1,
                rows => rows - 1,
            };
            return Some(Frame::Resize(Size { rows, ..size }));
        }
        let size = self.size.filter(|_| self.size_is_news)?;
        self.size_is_news = false;
        Some(Frame::Resize(size))
    }

    /// Server: whether one more variable is taken.
    pub(super) fn takes_env(&mut self) -> bool {
        self.env_count += 1;
        self.env_count <= MAX_ENV
    }

    /// Server: a size came. One without columns or rows is ignored.
    pub(super) fn resized(&mut self, size: Size) {
        if size.columns > 0 && size.rows > 0 {
            self.pending = Some(Size {
                columns: size.columns.min(MAX_SIDE),
                rows: size.rows.min(MAX_SIDE),
                ..size
            });
        }
    }

    /// Server: the size to apply now.
    pub(super) fn apply(&mut self, now: Instant) -> Option<Size> {
        if self.deadline().is_some_and(|due| now < due) {
            return None;
        }
        let size = self.pending.take()?;
        self.applied = Some(now);
        Some(size)
    }

    /// Server: when a waiting size is to be applied; `None` if at once or if none waits.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.pending.and(self.applied).map(|last| last + SETTLE)
    }
}
