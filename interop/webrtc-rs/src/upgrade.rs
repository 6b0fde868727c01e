//! `webrtc-rs upgrade`: a session that moves to a data channel and back, as often as it is cut.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::{
    Failure,
    client::{Client, Server},
    frame::Frame,
    report::Report,
    stream::{Carried, Way},
};

/// What no step exceeds but those with a limit of their own.
const LIMIT: Duration = Duration::from_secs(30);
/// The protocol's limit from the offer to WEBRTC_READY.
const UPGRADE_LIMIT: Duration = Duration::from_secs(10);
/// A cut is to be repaired by then.
const REPAIR_LIMIT: Duration = Duration::from_secs(10);
/// Candidates of a client that wants to make the server send packets; it takes 64 at most.
const TOO_MANY_CANDIDATES: u32 = 10_000;

/// What happens to the data channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Cut {
    /// The client closes its peer connection, and goes on by WebSocket.
    Close,
    /// UDP is cut without notice. When ICE notices, the client goes on by WebSocket.
    Silent,
    /// UDP is cut without notice, and comes back: ICE is started again on the same peer connection.
    Restart,
    /// The WebSocket is cut, with the channel alive: the session is resumed on another one.
    Websocket,
}

/// Options of `upgrade`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Of the server: ws(s)://HOST:PORT/tunnel or /pty.
    #[arg(value_name = "WS-URL")]
    url: String,
    /// To be let in.
    #[arg(long)]
    token: String,
    /// PEM file with the certificates that are believed for wss://.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// An echo behind the server; without it, what the server has by default has to be one.
    #[arg(long, value_name = "HOST:PORT")]
    to: Option<String>,
    /// The last words of what is shown before the echo begins.
    #[arg(long, value_name = "TEXT")]
    greeting: Option<String>,
    /// Bytes to come back on each way, each time the session is there.
    #[arg(long, default_value_t = 1 << 20)]
    bytes: u64,
    /// What happens, in this order; after each, the session goes back to the data channel.
    #[arg(long, value_delimiter = ',')]
    cut: Vec<Cut>,
    /// First offer what has to be refused, and more candidates than any server takes.
    #[arg(long)]
    hostile: bool,
    /// Take no notice of WEBRTC_READY: stay on the WebSocket.
    #[arg(long)]
    ignore_ready: bool,
    /// The server has to refuse every offer.
    #[arg(long)]
    refused: bool,
    /// What the lengths of pieces begin with.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs all of it. `false` if anything was wrong.
pub(crate) async fn run(args: Args) -> Result<bool, Failure> {
    let mut report = Report::default();
    Ok(scenario(&args, &mut report).await.is_ok())
}

async fn scenario(args: &Args, report: &mut Report) -> Result<(), Failure> {
    let start = Instant::now();
    let opened = open(args).await;
    let (outcome, client) = match opened {
        Ok(client) => (Ok(Value::Null), Some(client)),
        Err(error) => (Err(error), None),
    };
    report.step("handshake", start, outcome)?;
    let mut session = Session {
        client: client.ok_or("no session")?,
        bytes: args.bytes,
        terminal: args.greeting.is_some(),
    };
    session.client.sending = true;
    report.step(
        "websocket",
        Instant::now(),
        session.carry(Way::WebSocket).await,
    )?;
    if args.hostile {
        report.step(
            "offer-without-fingerprint",
            Instant::now(),
            session.without_fingerprint().await,
        )?;
    }
    if args.refused {
        report.step("refused", Instant::now(), session.refused(|sdp| sdp).await)?;
    } else if args.ignore_ready {
        report.step(
            "ready-ignored",
            Instant::now(),
            session.ignore_ready().await,
        )?;
    } else {
        let candidates = if args.hostile { TOO_MANY_CANDIDATES } else { 0 };
        session.move_there(report, "upgrade", candidates).await?;
        for cut in &args.cut {
            session.cut(*cut, report).await?;
        }
    }
    report.step("close", Instant::now(), session.close().await)
}

/// Opens the session and waits until the echo is there.
async fn open(args: &Args) -> Result<Client, Failure> {
    let (host, port) = match &args.to {
        Some(to) => to.rsplit_once(':').ok_or("--to is HOST:PORT")?,
        None => ("", "0"),
    };
    let server = Server {
        url: args.url.clone(),
        ca: args.ca.clone(),
        token: args.token.clone(),
        host: host.to_owned(),
        port: port.parse()?,
    };
    let mut client = Client::open(server, args.seed).await?;
    client.until("SESSION_ID", LIMIT, Client::has_id).await?;
    if let Some(greeting) = &args.greeting {
        // A terminal is begun by its size.
        client
            .control(&Frame::Resize {
                columns: 80,
                rows: 24,
            })
            .await?;
        client.greeted(greeting).await?;
    }
    Ok(client)
}

/// A session whose echo runs.
struct Session {
    client: Client,
    bytes: u64,
    terminal: bool,
}

impl Session {
    /// Waits until the bytes of a phase have gone and come this way.
    async fn carry(&mut self, way: Way) -> Result<Value, Failure> {
        let (bytes, before) = (self.bytes, self.client.stream.carried(way));
        let enough = move |client: &Client| {
            let now = client.stream.carried(way);
            now.sent >= before.sent + bytes && now.received >= before.received + bytes
        };
        self.client.until("the stream", LIMIT, enough).await?;
        let Carried { sent, received } = self.client.stream.carried(way);
        Ok(
            json!({ "way": format!("{way:?}"), "sent": sent - before.sent, "received": received - before.received }),
        )
    }

    /// Moves the session to a data channel, and lets the bytes of a phase pass there.
    async fn move_there(
        &mut self,
        report: &mut Report,
        name: &str,
        junk: u32,
    ) -> Result<(), Failure> {
        let start = Instant::now();
        report.step(name, start, self.upgrade(junk).await)?;
        report.step(
            "data-channel",
            Instant::now(),
            self.carry(Way::Channel).await,
        )
    }

    async fn upgrade(&mut self, junk: u32) -> Result<Value, Failure> {
        let candidates = self.client.candidates;
        self.client.offer(|sdp| sdp).await?;
        if junk > 0 {
            // Its own come first: a server that has had enough takes no more.
            let gathered = |client: &Client| client.progress().gathered;
            self.client.until("all addresses", LIMIT, gathered).await?;
        }
        for number in 0..junk {
            self.client.control(&junk_candidate(number)).await?;
        }
        let usable = |client: &Client| {
            let progress = client.progress();
            progress.refused || progress.closed || (progress.ready && progress.open)
        };
        self.client
            .until("WEBRTC_READY", UPGRADE_LIMIT, usable)
            .await?;
        let progress = self.client.progress();
        if progress.refused || progress.closed {
            return Err(format!("no data channel: {progress:?}").into());
        }
        // The server waits for us, as long as we like: what comes meanwhile comes by WebSocket.
        self.carry(Way::WebSocket).await?;
        self.client.way = Way::Channel;
        self.client.ping(Way::Channel).await?;
        let answered = |client: &Client| !client.is_pinging();
        self.client
            .until("PONG by the channel", LIMIT, answered)
            .await?;
        if self.terminal {
            // It belongs on the WebSocket; a server shall bear that some client sends it here.
            let resize = Frame::Resize {
                columns: 100,
                rows: 30,
            };
            self.client.on_channel(&resize).await?;
        }
        Ok(json!({ "candidates": self.client.candidates - candidates }))
    }

    /// One cut, the way back to a working session, and from there to a data channel.
    async fn cut(&mut self, cut: Cut, report: &mut Report) -> Result<(), Failure> {
        let start = Instant::now();
        match cut {
            Cut::Close => report.step("cut-close", start, self.fall_back().await)?,
            Cut::Silent => report.step("cut-silent", start, self.cut_silently().await)?,
            Cut::Websocket => report.step("cut-websocket", start, self.cut_websocket().await)?,
            Cut::Restart => {
                report.step("cut-restart", start, self.cut_and_restart().await)?;
                let start = Instant::now();
                return report.step("data-channel", start, self.carry(Way::Channel).await);
            }
        }
        report.step(
            "websocket",
            Instant::now(),
            self.carry(Way::WebSocket).await,
        )?;
        self.move_there(report, "return", 0).await
    }

    /// Leaves the channel and goes on by the living WebSocket.
    async fn fall_back(&mut self) -> Result<Value, Failure> {
        self.client.leave_call();
        self.client.ask_to_resume().await?;
        self.resumed().await
    }

    /// Waits for the answer to RESUME_REQUEST, and for the first byte behind it.
    async fn resumed(&mut self) -> Result<Value, Failure> {
        let resumed = |client: &Client| !client.is_resuming();
        self.client
            .until("RESUME_RESPONSE", REPAIR_LIMIT, resumed)
            .await?;
        let repeated = self.client.stream.to_repeat();
        self.next_byte(REPAIR_LIMIT).await?;
        Ok(json!({ "repeated": repeated }))
    }

    async fn next_byte(&mut self, limit: Duration) -> Result<(), Failure> {
        let received = self.client.stream.received();
        let more = move |client: &Client| client.stream.received() > received;
        self.client.until("a byte", limit, more).await
    }

    async fn cut_silently(&mut self) -> Result<Value, Failure> {
        let cut = Instant::now();
        self.close_gate()?;
        let silent = |client: &Client| client.progress().silent || client.progress().closed;
        self.client
            .until("ICE to notice", REPAIR_LIMIT, silent)
            .await?;
        let noticed = cut.elapsed();
        self.fall_back().await?;
        within(cut, json!({ "noticed_ms": noticed.as_millis() }))
    }

    fn close_gate(&self) -> Result<(), Failure> {
        let upgrade = self.client.upgrade.as_ref().ok_or("no call")?;
        upgrade.call.gate.close();
        Ok(())
    }

    async fn cut_and_restart(&mut self) -> Result<Value, Failure> {
        let cut = Instant::now();
        self.close_gate()?;
        let silent = |client: &Client| client.progress().silent || client.progress().closed;
        self.client
            .until("ICE to notice", REPAIR_LIMIT, silent)
            .await?;
        let noticed = cut.elapsed();
        let upgrade = self.client.upgrade.as_ref().ok_or("no call")?;
        upgrade.call.gate.open();
        self.client.restart().await?;
        self.next_byte(REPAIR_LIMIT.saturating_sub(cut.elapsed()))
            .await?;
        if self.client.progress().closed {
            return Err("the call did not survive".into());
        }
        within(cut, json!({ "noticed_ms": noticed.as_millis() }))
    }

    async fn cut_websocket(&mut self) -> Result<Value, Failure> {
        self.client.reconnect().await?;
        self.client.leave_call();
        self.client.ask_to_resume().await?;
        self.resumed().await
    }

    /// An offer that the server has to refuse. It is to say so, and to go on.
    async fn refused(&mut self, change: impl FnOnce(String) -> String) -> Result<Value, Failure> {
        self.client.offer(change).await?;
        let answered = |client: &Client| client.progress().refused;
        self.client
            .until("an empty WEBRTC_ANSWER", UPGRADE_LIMIT, answered)
            .await?;
        self.client.leave_call();
        self.carry(Way::WebSocket).await
    }

    async fn without_fingerprint(&mut self) -> Result<Value, Failure> {
        self.refused(|sdp| {
            let lines = sdp.split_inclusive('\n');
            lines
                .filter(|line| !line.starts_with("a=fingerprint"))
                .collect()
        })
        .await
    }

    /// The server has its end of the channel and says so; the client goes on as if it had not heard.
    async fn ignore_ready(&mut self) -> Result<Value, Failure> {
        self.client.offer(|sdp| sdp).await?;
        let ready = |client: &Client| client.progress().ready;
        self.client
            .until("WEBRTC_READY", UPGRADE_LIMIT, ready)
            .await?;
        self.carry(Way::WebSocket).await
    }

    /// Everything has to be back before the session ends, and it has to end as it should.
    async fn close(&mut self) -> Result<Value, Failure> {
        self.client.sending = false;
        let complete = |client: &Client| client.stream.is_complete();
        self.client.until("the last byte", LIMIT, complete).await?;
        if self.client.way == Way::Channel {
            self.client.ping(Way::Channel).await?;
            let answered = |client: &Client| !client.is_pinging();
            self.client.until("the last PONG", LIMIT, answered).await?;
        }
        let close = Frame::Close {
            by_client: true,
            code: 0,
            message: String::new(),
        };
        self.client.control(&close).await?;
        let answered = |client: &Client| client.closed.is_some();
        self.client
            .until("the answer to CLOSE", LIMIT, answered)
            .await?;
        match &self.client.closed {
            Some((true, 0, _)) => {}
            other => return Err(format!("CLOSE was answered by {other:?}").into()),
        }
        let ended = |client: &Client| client.ended;
        self.client
            .until("the end of the WebSocket", LIMIT, ended)
            .await?;
        self.client.leave_call();
        Ok(json!({
            "bytes": self.client.stream.received(),
            "doubled_pieces": self.client.stream.doubled,
        }))
    }
}

/// Whether a repair was quick enough.
fn within(cut: Instant, detail: Value) -> Result<Value, Failure> {
    match cut.elapsed() {
        time if time <= REPAIR_LIMIT => Ok(detail),
        time => Err(format!("the session stood still for {time:?}").into()),
    }
}

/// A candidate on a loopback address where nobody is.
fn junk_candidate(number: u32) -> Frame {
    Frame::Candidate {
        candidate: format!(
            "candidate:{number} 1 udp 2130706431 127.77.{}.{} 9 typ host",
            number / 250 % 250,
            number % 250 + 1
        ),
        mid: String::new(),
        index: 0,
    }
}
