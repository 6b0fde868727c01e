//! One run of the scenarios over one connection, each against the clock.

use std::time::{Duration, Instant};

use libp2p::{PeerId, identify};
use libp2p_stream::Control;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    Failure,
    checks::{AFTER_IDLE, Checks},
    dial::DialArgs,
    print,
    protocols::Writer,
};

/// How long a connection or an identify message may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long any other scenario may take.
const AT_MOST: Duration = Duration::from_secs(60);
/// How soon the end of the connection must be noticed when the other side closed it.
const NOTICE: Duration = Duration::from_secs(1);
/// How long it is waited for.
const NOTICE_AT_MOST: Duration = Duration::from_secs(10);

/// What the swarm reports.
pub(crate) enum News {
    /// The connection is up.
    Connected(PeerId),
    /// The other side told who it is.
    Identified(Box<identify::Info>),
    /// A ping came back, or not.
    Pinged(Result<Duration, String>),
    /// The connection is gone.
    Closed(String),
    /// The dial failed.
    Failed(String),
}

/// One run of the scenarios.
pub(crate) struct Session {
    args: DialArgs,
    news: mpsc::Receiver<News>,
    control: Control,
    pings: Vec<Result<Duration, String>>,
    all_good: bool,
}

impl Session {
    /// A run that nothing has happened in.
    pub(crate) fn new(args: DialArgs, news: mpsc::Receiver<News>, control: Control) -> Self {
        Self {
            args,
            news,
            control,
            pings: Vec::new(),
            all_good: true,
        }
    }

    /// Runs everything; true if all of it worked.
    pub(crate) async fn run(mut self, start: Instant) -> bool {
        if let Some(peer) = self.connect(start).await {
            let checks = Checks {
                control: self.control.clone(),
                peer,
                writer: Writer {
                    small_frames: self.args.small_frames,
                },
            };
            self.identify().await;
            self.ping().await;
            self.streams(&checks).await;
            self.rest(&checks).await;
            self.remote_close(&checks).await;
            self.wait_for_close().await;
        }
        self.all_good
    }

    /// Prints a result and remembers failures.
    fn report(&mut self, result: &str, start: Instant, outcome: Result<Value, Failure>) {
        self.all_good &= outcome.is_ok();
        print(&json!({
            "result": result,
            "ok": outcome.is_ok(),
            "ms": ms(start.elapsed()),
            "detail": outcome.unwrap_or_else(|error| json!(error.to_string())),
        }));
    }

    /// Waits for the connection.
    async fn connect(&mut self, start: Instant) -> Option<PeerId> {
        let outcome = match tokio::time::timeout(PATIENCE, self.news.recv()).await {
            Ok(Some(News::Connected(peer))) => Ok(peer),
            Ok(Some(News::Failed(error) | News::Closed(error))) => Err(error),
            Ok(_) => Err("the swarm reported something else first".to_owned()),
            Err(_) => Err(format!("not connected after {} s", PATIENCE.as_secs())),
        };
        let peer = outcome.as_ref().ok().copied();
        let detail = outcome.map(|peer| json!(peer.to_string()));
        self.report("connected", start, detail.map_err(Into::into));
        peer
    }

    /// Waits until the other side has told who it is.
    async fn identify(&mut self) {
        let start = Instant::now();
        let outcome = loop {
            match tokio::time::timeout(PATIENCE, self.news.recv()).await {
                Ok(Some(News::Identified(info))) => {
                    let protocols: Vec<_> = info.protocols.iter().map(AsRef::as_ref).collect();
                    break Ok(json!({ "agent": info.agent_version, "protocols": protocols }));
                }
                Ok(Some(News::Closed(cause) | News::Failed(cause))) => {
                    break Err(format!("the connection closed: {cause}").into());
                }
                Ok(Some(News::Pinged(ping))) => self.pings.push(ping),
                Ok(Some(News::Connected(_))) => {}
                Ok(None) => break Err("the swarm has ended".into()),
                Err(_) => break Err(format!("nothing came for {} s", PATIENCE.as_secs()).into()),
            }
        };
        self.report("identify", start, outcome);
    }

    /// The pings of the swarm itself, from the start of the connection.
    async fn ping(&mut self) {
        let wanted = self.args.pings;
        if wanted == 0 {
            return;
        }
        let start = Instant::now();
        let trouble = loop {
            if self.pings.len() >= wanted {
                break None;
            }
            match tokio::time::timeout(PATIENCE, self.news.recv()).await {
                Ok(Some(News::Pinged(ping))) => self.pings.push(ping),
                Ok(Some(News::Closed(cause) | News::Failed(cause))) => {
                    break Some(format!("the connection closed: {cause}"));
                }
                Ok(Some(_)) => {}
                Ok(None) => break Some("the swarm has ended".to_owned()),
                Err(_) => break Some(format!("nothing came for {} s", PATIENCE.as_secs())),
            }
        };
        let times: Result<Vec<Duration>, String> =
            std::mem::take(&mut self.pings).into_iter().collect();
        let outcome = match (trouble, times) {
            (None, Ok(times)) => {
                let times: Vec<f64> = times.into_iter().map(ms).collect();
                Ok(json!({ "rtts_ms": times }))
            }
            (_, Err(error)) | (Some(error), _) => Err(error.into()),
        };
        self.report("ping", start, outcome);
    }

    /// The scenarios on streams.
    async fn streams(&mut self, checks: &Checks) {
        let args = self.args.clone();
        if args.echo > 0 {
            self.timed("echo", silent(checks.echo(args.echo))).await;
        }
        if args.half_close > 0 {
            let work = silent(checks.half_close(args.half_close));
            self.timed("half-close", work).await;
        }
        if args.streams > 0 {
            let work = silent(checks.in_turn(args.streams));
            self.timed("streams-in-turn", work).await;
            let work = silent(checks.parallel(args.streams));
            self.timed("streams-parallel", work).await;
        }
        if args.in_turn > 0 {
            let work = silent(checks.in_turn(args.in_turn));
            self.timed("streams-in-turn", work).await;
        }
        if args.reset {
            let work = async { Ok(json!(checks.reset().await?)) };
            self.timed("reset", work).await;
        }
    }

    /// Runs a scenario against the clock.
    async fn timed(&mut self, result: &str, work: impl Future<Output = Result<Value, Failure>>) {
        let start = Instant::now();
        let outcome = match tokio::time::timeout(AT_MOST, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no end after {} s", AT_MOST.as_secs()).into()),
        };
        self.report(result, start, outcome);
    }

    /// The idle scenario.
    async fn rest(&mut self, checks: &Checks) {
        if self.args.idle == 0 {
            return;
        }
        let start = Instant::now();
        let rest = Duration::from_secs(self.args.idle);
        let outcome = match tokio::time::timeout(rest, self.closed()).await {
            Ok(cause) => Err(format!("the connection closed: {cause}").into()),
            Err(_) => match tokio::time::timeout(AT_MOST, checks.echo(AFTER_IDLE)).await {
                Ok(outcome) => outcome,
                Err(_) => Err("no echo afterwards".into()),
            },
        };
        self.report("idle", start, outcome.map(|()| Value::Null));
    }

    /// The scenario in which the other side closes because it is asked to.
    async fn remote_close(&mut self, checks: &Checks) {
        if !self.args.remote_close {
            return;
        }
        let start = Instant::now();
        let outcome = match checks.ask_for_close().await {
            Ok(()) => self.notice(start, NOTICE, NOTICE_AT_MOST).await,
            Err(error) => Err(error),
        };
        self.report("remote-close", start, outcome);
    }

    /// The scenario in which the other side ends.
    async fn wait_for_close(&mut self) {
        if self.args.wait_close == 0 {
            return;
        }
        print(&json!({ "event": "waiting" }));
        let start = Instant::now();
        let at_most = Duration::from_secs(self.args.wait_close);
        let outcome = self.notice(start, at_most, at_most).await;
        self.report("wait-close", start, outcome);
    }

    /// Waits for the end of the connection.
    async fn notice(
        &mut self,
        start: Instant,
        limit: Duration,
        at_most: Duration,
    ) -> Result<Value, Failure> {
        let Ok(cause) = tokio::time::timeout(at_most, self.closed()).await else {
            return Err(format!("still connected after {} s", at_most.as_secs()).into());
        };
        let took = start.elapsed();
        if took > limit {
            return Err(format!("noticed after {:.0} ms only: {cause}", ms(took)).into());
        }
        Ok(json!({ "noticed_ms": ms(took), "cause": cause }))
    }

    /// Waits until the connection is closed.
    async fn closed(&mut self) -> String {
        loop {
            match self.news.recv().await {
                Some(News::Closed(cause)) => return cause,
                Some(_) => {}
                None => return "the swarm ended".to_owned(),
            }
        }
    }
}

/// A check that has nothing to tell.
async fn silent(work: impl Future<Output = Result<(), Failure>>) -> Result<Value, Failure> {
    work.await.map(|()| Value::Null)
}

/// Milliseconds with three digits behind the point.
fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
