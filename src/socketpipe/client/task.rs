//! The task of a client session: drives it and keeps it connected.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Sleep,
};

use super::{Command, ConnectError, Connector, Figures, OpenError, SessionStatus};
use crate::socketpipe::{
    code::Code,
    driver::{self, Driver},
    session::{End, EndReason, Event, Instant, PathId},
    wire::Wire,
};

/// Pause before the second attempt; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Time for a wire to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Attempts before the session is open: the caller has other ways to try again.
const OPEN_ATTEMPTS: u32 = 3;

/// What the user sees.
pub(super) struct Report {
    pub(super) status: watch::Sender<SessionStatus>,
    pub(super) figures: Arc<Mutex<Figures>>,
    /// Waits for the handshake.
    pub(super) opened: Option<oneshot::Sender<Result<(), OpenError>>>,
}

impl Report {
    fn opened(&mut self, outcome: Result<(), OpenError>) {
        if let Some(opened) = self.opened.take() {
            // Whoever asked may have given up, and has dropped the session then.
            drop(opened.send(outcome));
        }
    }
}

/// On the way to a wire.
enum Search {
    /// Nothing to do.
    Idle,
    /// A pause.
    Waiting(Pin<Box<Sleep>>),
    /// The connector works.
    Connecting(BoxFuture<'static, Result<Wire, ConnectError>>),
}

pub(super) struct Task {
    driver: Driver,
    connector: Box<dyn Connector>,
    inbox: mpsc::Receiver<Command>,
    report: Report,
    give_up_after: Option<Duration>,
    search: Search,
    better: Option<BoxFuture<'static, Wire>>,
    /// A better wire on which the session is being resumed.
    moving: Option<PathId>,
    /// Attempts since the last wire that worked.
    attempt: u32,
    lost_since: Option<Instant>,
    last_error: String,
    /// At each of the addresses, see [`ConnectError::tried`].
    tried: Vec<String>,
}

impl Task {
    pub(super) fn new(
        driver: Driver,
        connector: Box<dyn Connector>,
        inbox: mpsc::Receiver<Command>,
        report: Report,
        give_up_after: Option<Duration>,
    ) -> Self {
        Self {
            driver,
            connector,
            inbox,
            report,
            give_up_after,
            search: Search::Idle,
            better: None,
            moving: None,
            attempt: 0,
            lost_since: None,
            last_error: String::new(),
            tried: Vec::new(),
        }
    }

    pub(super) async fn run(mut self) {
        self.connect();
        let end = poll_fn(|cx| self.poll(cx)).await;
        self.report.opened(Err(match &end.reason {
            EndReason::Refused(failure) => OpenError::Refused(failure.clone()),
            _ if !self.last_error.is_empty() => OpenError::Unreachable(ConnectError {
                message: self.last_error.clone(),
                tried: std::mem::take(&mut self.tried),
                fatal: true,
            }),
            _ => OpenError::Ended(end.clone()),
        }));
        self.report.status.send_replace(SessionStatus::Ended(end));
        // As long as the user reads; one who does not want to drops the session.
        self.driver.finish(Duration::MAX).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        while let Poll::Ready(Some(command)) = self.inbox.poll_recv(cx) {
            self.obey(command);
        }
        loop {
            self.look(cx);
            let polled = self.driver.poll(cx);
            let mut shown = Figures::lock(&self.report.figures);
            shown.stats = self.driver.session().stats();
            shown.carrier = self.driver.carrier();
            drop(shown);
            match polled {
                Poll::Ready(Event::Closed(end)) => return Poll::Ready(end),
                Poll::Ready(event) => self.handle(event),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn obey(&mut self, command: Command) {
        let now = driver::now();
        let session = self.driver.session_mut();
        match command {
            Command::Resize(size) => session.resize(size),
            Command::Signal(signal) => session.signal(signal),
            Command::Close(code, message) => self.driver.close(code, message),
            Command::Abort(code, message) => session.abort(now, code, &message),
            Command::Reconnect => {
                if !matches!(self.search, Search::Connecting(_)) {
                    self.connect();
                }
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Established(_) => {
                self.arrived();
                self.report.opened(Ok(()));
            }
            Event::Resumed { .. } => self.arrived(),
            Event::DataPath(_) => self.show_path(),
            Event::DataLost => Figures::lock(&self.report.figures).losses += 1,
            Event::Disconnected => {
                self.lost_since.get_or_insert_with(driver::now);
                self.better = None;
                self.moving = None;
                match self.search {
                    Search::Connecting(_) => {}
                    _ if self.attempt == 0 => self.connect(),
                    _ => self.pause(),
                }
            }
            _ => {}
        }
    }

    /// The session has a main wire.
    fn arrived(&mut self) {
        self.attempt = 0;
        self.moving = None;
        self.lost_since = None;
        self.last_error.clear();
        self.show_path();
        let resumes = self.driver.session().parameters();
        self.better = resumes
            .is_some_and(|parameters| parameters.resume)
            .then(|| self.connector.better());
    }

    /// Its bytes go this way.
    fn show_path(&self) {
        if let Some(path) = self.driver.data_label() {
            let path = path.to_owned();
            self.show(SessionStatus::Connected { path });
        }
    }

    fn show(&self, status: SessionStatus) {
        self.report.status.send_if_modified(|shown| {
            let changed = *shown != status;
            *shown = status;
            changed
        });
    }

    fn connect(&mut self) {
        self.attempt += 1;
        if self.lost_since.is_some() {
            self.show(SessionStatus::Reconnecting {
                attempt: self.attempt,
                last_error: self.last_error.clone(),
            });
        }
        let connecting = self.connector.connect();
        self.search = Search::Connecting(Box::pin(async {
            tokio::time::timeout(CONNECT_TIMEOUT, connecting)
                .await
                .unwrap_or_else(|_| Err(ConnectError::new("no connection in 30 s")))
        }));
    }

    fn pause(&mut self) {
        let doubled = FIRST_PAUSE * 2_u32.pow(self.attempt.min(8));
        // Many clients of one server shall not come back in the same instant.
        let pause = doubled
            .min(LONGEST_PAUSE)
            .mul_f64(rand::random_range(0.5..1.0));
        self.search = Search::Waiting(Box::pin(tokio::time::sleep(pause)));
    }

    /// Goes on searching for a wire.
    fn look(&mut self, cx: &mut Context<'_>) {
        if let Search::Waiting(pause) = &mut self.search
            && pause.as_mut().poll(cx).is_ready()
        {
            self.connect();
        }
        if let Search::Connecting(connecting) = &mut self.search
            && let Poll::Ready(outcome) = connecting.as_mut().poll(cx)
        {
            self.search = Search::Idle;
            match outcome {
                Ok(wire) => {
                    self.driver.connect(wire);
                }
                Err(error) => self.failed(cx, error),
            }
        }
        if let Some(better) = &mut self.better
            && let Poll::Ready(wire) = better.as_mut().poll(cx)
        {
            self.better = None;
            self.moving = Some(self.driver.connect(wire));
        }
        if self.moving.is_some_and(|path| !self.driver.has(path)) {
            // The better wire was lost before the session was there. The best one then is tried, once.
            self.moving = None;
            self.pause();
            cx.waker().wake_by_ref();
        }
    }

    fn failed(&mut self, cx: &mut Context<'_>, error: ConnectError) {
        let is_open = self.report.opened.is_none();
        if is_open && self.lost_since.is_none() {
            // A move that did not work; the session lives where it was.
            self.attempt = 0;
            return;
        }
        (self.last_error, self.tried) = (error.message, error.tried);
        let waited = self.lost_since.map(|since| driver::now() - since);
        let tired = self
            .give_up_after
            .is_some_and(|limit| waited.is_some_and(|waited| waited >= limit));
        if error.fatal || tired || (!is_open && self.attempt >= OPEN_ATTEMPTS) {
            let session = self.driver.session_mut();
            session.abort(driver::now(), Code::CONNECT_FAILED, &self.last_error);
            return;
        }
        if is_open {
            self.show(SessionStatus::Reconnecting {
                attempt: self.attempt,
                last_error: self.last_error.clone(),
            });
        }
        self.pause();
        // The pause has to be polled once.
        cx.waker().wake_by_ref();
    }
}
