//! Both roles on virtual time, with calls that are told what happens to them.

use proptest::prelude::*;

use super::*;
use crate::frames::frame::Failure;

const CHROMIUM: &str = include_str!("../../proto/sdp/real/chromium-offer.sdp");
const FIREFOX: &str = include_str!("../../proto/sdp/real/firefox-offer.sdp");
const FALLBACK: Duration = Duration::from_secs(6);
const WEBRTC_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_secs(5);
const TIMING: Timing = Timing {
    fallback: FALLBACK,
    webrtc: WEBRTC_TIMEOUT,
    retry: FIRST_RETRY,
};

/// A conversation and its clock.
struct Talk {
    conversation: Conversation,
    now: Instant,
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Talk {
    fn new(role: Side) -> Self {
        #[expect(clippy::disallowed_methods, reason = "a time to begin with")]
        let now = Instant::now();
        let conversation = Conversation::new(role, now, TIMING);
        Self { conversation, now }
    }

    /// A dialer whose offer was sent.
    fn dialer() -> Self {
        let mut talk = Self::new(Side::Dialer);
        assert_eq!(talk.todo(), [Action::Offer]);
        talk.offer();
        talk
    }

    /// A dialer whose call is up.
    fn connected() -> Self {
        let mut talk = Self::dialer();
        talk.hear(Frame::WebRtcAnswer("answer".to_owned()));
        talk.todo();
        talk.conversation.call_is_up(talk.now);
        talk
    }

    /// The call has its offer.
    fn offer(&mut self) {
        self.conversation.signal(Signal::Offer("offer".to_owned()));
        let offer = Frame::WebRtcOffer("offer".to_owned());
        assert_eq!(self.todo(), [Action::Send(offer)]);
    }

    /// What is to be done now.
    fn todo(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.conversation.poll_action()).collect()
    }

    fn hear(&mut self, frame: Frame) {
        self.conversation.handle_frame(self.now, frame);
    }

    /// Lets time pass, deadline by deadline; signs of life are exchanged. What is to be done meanwhile, and after how
    /// long.
    fn pass(&mut self, time: Duration) -> Vec<(Duration, Action)> {
        let (start, end) = (self.now, self.now + time);
        let mut all = Vec::new();
        loop {
            let next = self.conversation.poll_timeout().filter(|at| *at <= end);
            let Some(next) = next else {
                self.now = end;
                return all;
            };
            self.now = next.max(self.now);
            self.conversation.handle_timeout(self.now);
            for action in self.todo() {
                match action {
                    Action::Send(Frame::Ping(payload)) => self.hear(Frame::Pong(payload)),
                    other => all.push((self.now - start, other)),
                }
            }
            let still = self.conversation.poll_timeout();
            assert!(
                still.is_none_or(|at| at > self.now),
                "a deadline stays behind"
            );
        }
    }

    /// Waits for the next thing to be done, signs of life aside.
    fn wait(&mut self) -> (Duration, Action) {
        let start = self.now;
        loop {
            let next = self.conversation.poll_timeout();
            let actions = self.pass(next.expect("something will happen") - self.now);
            if let Some((_, action)) = actions.into_iter().next() {
                return (self.now - start, action);
            }
        }
    }

    fn fail(&mut self) -> Vec<Action> {
        self.conversation.call_failed(self.now);
        self.todo()
    }

    /// The peer broke a rule, is told, and nothing more is said.
    fn assert_violated(&mut self) {
        let mut actions = self.todo();
        // A call that was not answered yet goes with the WebSocket.
        actions.retain(|action| *action != Action::Drop);
        let [
            Action::Send(Frame::Close(close)),
            Action::End(Ended::Violation(code, _)),
        ] = &actions[..]
        else {
            panic!("no violation: {actions:?}");
        };
        assert_eq!(
            (close.code, *code),
            (Code::INVALID_STATE, Code::INVALID_STATE)
        );
        assert!(self.conversation.ended);
        self.hear(Frame::Ping(Bytes::new()));
        assert_eq!(self.todo(), []);
    }
}

fn answer(text: &str) -> Frame {
    Frame::WebRtcAnswer(text.to_owned())
}

fn candidate(text: &str) -> Frame {
    Frame::IceCandidate(IceCandidate {
        candidate: text.to_owned(),
        mid: "0".to_owned(),
        index: 0,
    })
}

fn bytes(data: &'static [u8]) -> Frame {
    Frame::Data(Data {
        bytes: Bytes::from_static(data),
        ..Data::default()
    })
}

fn refusal() -> Action {
    Action::Send(answer(""))
}

#[test]
fn a_dialer_offers_at_once_and_hands_on_what_comes_back() {
    let mut talk = Talk::dialer();
    talk.hear(candidate("candidate:of a call before"));
    assert_eq!(talk.todo(), []);
    talk.hear(answer("answer"));
    talk.hear(candidate("candidate:one"));
    talk.hear(candidate(""));
    let (mid, index) = ("0".to_owned(), 0);
    let one = Signal::Candidate {
        candidate: "candidate:one".to_owned(),
        mid: mid.clone(),
        index,
    };
    let signals = [
        Signal::Answer("answer".to_owned()),
        one.clone(),
        Signal::EndOfCandidates { mid, index },
    ];
    assert_eq!(talk.todo(), signals.clone().map(Action::Signal));
    talk.conversation.signal(one);
    talk.conversation.signal(signals[2].clone());
    let sent = [candidate("candidate:one"), candidate("")];
    assert_eq!(talk.todo(), sent.map(Action::Send));
}

#[test]
fn without_webrtc_in_time_the_plain_lane_begins_and_the_call_goes_on() {
    let mut talk = Talk::dialer();
    talk.hear(answer("answer"));
    talk.todo();
    assert_eq!(talk.pass(secs(9)), [(FALLBACK, Action::StartPlain)]);
    talk.conversation.call_is_up(talk.now);
    assert!(talk.conversation.is_webrtc_up());
    assert_eq!(talk.pass(secs(1000)), [], "nothing is given up any more");
}

#[test]
fn a_connection_that_is_up_begins_no_plain_lane() {
    let mut talk = Talk::connected();
    assert_eq!(talk.pass(secs(1000)), []);
    assert!(talk.conversation.is_webrtc_up());
}

#[test]
fn a_refused_offer_begins_the_plain_lane_at_once() {
    let mut talk = Talk::dialer();
    talk.hear(answer(""));
    assert_eq!(talk.todo(), [Action::Drop, Action::StartPlain]);
    assert_eq!(talk.pass(secs(6)), [(FIRST_RETRY, Action::Offer)]);
}

#[test]
fn further_calls_come_after_longer_and_longer_pauses() {
    let mut talk = Talk::dialer();
    talk.hear(answer("answer"));
    talk.todo();
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let actions = talk.pass(WEBRTC_TIMEOUT);
        assert_eq!(actions.last(), Some(&(WEBRTC_TIMEOUT, Action::Drop)));
        let (pause, action) = talk.wait();
        assert_eq!(action, Action::Offer);
        pauses.push(pause.as_secs());
        talk.offer();
        talk.hear(answer("answer"));
        talk.todo();
    }
    assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
}

#[test]
fn an_answer_that_comes_too_late_is_not_taken_for_another_one() {
    let mut talk = Talk::dialer();
    let actions = talk.pass(secs(60));
    let expected = [
        (FALLBACK, Action::StartPlain),
        (WEBRTC_TIMEOUT, Action::Drop),
    ];
    assert_eq!(
        actions, expected,
        "no offer before the last one was answered"
    );
    talk.hear(answer("of the call that was given up"));
    talk.hear(candidate("candidate:of that call"));
    assert_eq!(talk.todo(), []);
    assert_eq!(talk.pass(secs(1)), [(Duration::ZERO, Action::Offer)]);
    talk.offer();
    talk.hear(answer("of this one"));
    let signal = Signal::Answer("of this one".to_owned());
    assert_eq!(talk.todo(), [Action::Signal(signal)]);
}

#[test]
fn a_lost_path_is_restarted_while_the_plain_lane_begins() {
    let mut talk = Talk::connected();
    talk.conversation.path_lost(talk.now);
    assert_eq!(talk.todo(), [Action::Restart, Action::StartPlain]);
    assert!(!talk.conversation.is_webrtc_up());
    talk.offer();
    talk.hear(candidate("candidate:may be one of before"));
    assert_eq!(talk.todo().len(), 1, "the call knows which are of use");
    talk.hear(answer("again"));
    talk.todo();
    talk.pass(secs(9));
    talk.conversation.path_found();
    assert!(talk.conversation.is_webrtc_up());
    assert_eq!(talk.pass(secs(1000)), []);
}

#[test]
fn what_does_not_come_back_is_given_up_and_tried_anew() {
    let mut talk = Talk::connected();
    talk.pass(secs(100));
    talk.conversation.path_lost(talk.now);
    talk.todo();
    talk.offer();
    talk.hear(answer("again"));
    talk.todo();
    let actions = talk.pass(WEBRTC_TIMEOUT + FIRST_RETRY);
    let retry = WEBRTC_TIMEOUT + FIRST_RETRY;
    assert_eq!(
        actions,
        [(WEBRTC_TIMEOUT, Action::Drop), (retry, Action::Offer)]
    );
}

#[test]
fn a_refused_restart_ends_the_call() {
    let mut talk = Talk::connected();
    talk.conversation.path_lost(talk.now);
    talk.todo();
    talk.offer();
    talk.hear(answer(""));
    assert_eq!(talk.todo(), [Action::Drop]);
}

#[test]
fn only_a_call_that_lasted_makes_the_next_pause_short_again() {
    for (lasts, pause) in [(secs(59), secs(10)), (secs(60), secs(5))] {
        let mut talk = Talk::dialer();
        talk.hear(answer("answer"));
        talk.todo();
        talk.fail();
        assert_eq!(talk.pass(FIRST_RETRY), [(FIRST_RETRY, Action::Offer)]);
        talk.offer();
        talk.hear(answer("answer"));
        talk.todo();
        talk.conversation.call_is_up(talk.now);
        talk.pass(lasts);
        assert_eq!(talk.fail(), [Action::Drop]);
        assert_eq!(talk.pass(pause), [(pause, Action::Offer)]);
    }
}

#[test]
fn a_change_of_the_network_ends_the_pause_but_not_patience() {
    let mut talk = Talk::dialer();
    talk.hear(answer("answer"));
    talk.todo();
    assert!(!talk.conversation.waits_for_network());
    talk.conversation.network_changed(talk.now);
    assert_eq!(talk.pass(secs(1)), [], "a call is on its way");
    talk.fail();
    assert!(talk.conversation.waits_for_network());
    talk.conversation.network_changed(talk.now);
    assert_eq!(talk.pass(secs(1)), [(Duration::ZERO, Action::Offer)]);
    talk.offer();
    // Refused at once, and the network changes all the time: a call a second.
    talk.hear(answer(""));
    talk.conversation.network_changed(talk.now);
    assert_eq!(talk.todo(), [Action::Drop]);
    assert_eq!(
        talk.pass(MIN_RETRY),
        [(Duration::ZERO, Action::Offer)],
        "the last one began a second ago"
    );
}

#[test]
fn without_its_websocket_a_call_goes_on_as_long_as_its_path_is_there() {
    let mut talk = Talk::connected();
    talk.conversation.socket_lost();
    assert_eq!(talk.todo(), [Action::Probe, Action::End(Ended::Lost)]);
    assert!(talk.conversation.is_webrtc_up() && talk.conversation.ended);
    assert_eq!(talk.pass(secs(1000)), []);
    talk.conversation.path_lost(talk.now);
    assert_eq!(
        talk.todo(),
        [Action::Drop],
        "nobody could be told of a restart"
    );
    assert!(!talk.conversation.has_call());
}

#[test]
fn a_silent_call_ends_with_its_websocket() {
    let mut talk = Talk::connected();
    talk.conversation.path_lost(talk.now);
    talk.todo();
    talk.conversation.socket_lost();
    assert_eq!(talk.todo(), [Action::Drop, Action::End(Ended::Lost)]);
    assert_eq!(talk.pass(secs(1000)), []);
}

#[test]
fn a_dialer_takes_nothing_that_only_dialers_send() {
    for frame in [Frame::WebRtcOffer(CHROMIUM.to_owned()), bytes(b"first")] {
        let mut talk = Talk::dialer();
        talk.hear(frame);
        talk.assert_violated();
    }
    let mut talk = Talk::connected();
    talk.hear(answer("to nothing"));
    talk.assert_violated();
}

#[test]
fn silence_is_asked_about_and_ends_the_websocket() {
    for role in [Side::Dialer, Side::Listener] {
        let mut talk = Talk::new(role);
        talk.todo();
        talk.conversation.webrtc = WebRtc::Up { since: talk.now };
        talk.conversation.fallback = None;
        assert_eq!(talk.pass(secs(1000)), [], "who answers is alive");
        talk.now += PING_INTERVAL;
        talk.conversation.handle_timeout(talk.now);
        let asked = talk.todo();
        assert!(
            matches!(asked[..], [Action::Send(Frame::Ping(_))]),
            "{asked:?}"
        );
        talk.now += PING_TIMEOUT;
        talk.conversation.handle_timeout(talk.now);
        let actions = talk.todo();
        let [
            Action::Send(Frame::Close(close)),
            Action::Probe,
            Action::End(Ended::Silent),
        ] = &actions[..]
        else {
            panic!("{actions:?}");
        };
        assert_eq!(close.code, Code::PING_TIMEOUT);
        assert_eq!(talk.conversation.poll_timeout(), None);
    }
}

#[test]
fn signs_of_life_and_goodbyes_are_answered() {
    let mut talk = Talk::new(Side::Listener);
    let payload = Bytes::from_static(b"any");
    talk.hear(Frame::Ping(payload.clone()));
    assert_eq!(talk.todo(), [Action::Send(Frame::Pong(payload))]);
    for frame in [
        Frame::Pong(Bytes::new()),
        Frame::Unknown(0x7f),
        Frame::WebRtcReady,
    ] {
        talk.hear(frame);
    }
    assert_eq!(talk.todo(), []);
    let close = Close {
        by_client: true,
        code: Code::GOING_AWAY,
        message: "bye".to_owned(),
    };
    talk.hear(Frame::Close(close.clone()));
    let ended = Ended::Remote(Code::GOING_AWAY, "bye".to_owned());
    assert_eq!(
        talk.todo(),
        [Action::Send(Frame::Close(close)), Action::End(ended)]
    );
}

#[test]
fn an_error_of_the_server_is_the_end() {
    let mut talk = Talk::dialer();
    talk.hear(Frame::Error(Failure::new(Code::AUTH_FAILED, "no")));
    let ended = Ended::Remote(Code::AUTH_FAILED, "no".to_owned());
    assert_eq!(talk.todo(), [Action::Drop, Action::End(ended)]);
}

#[test]
fn a_call_without_a_path_ends_with_its_websocket() {
    for is_answered in [true, false] {
        let mut talk = Talk::dialer();
        if is_answered {
            talk.hear(answer("answer"));
            talk.todo();
        }
        talk.conversation.socket_lost();
        assert_eq!(talk.todo(), [Action::Drop, Action::End(Ended::Lost)]);
        assert!(!talk.conversation.has_call(), "{is_answered}");
    }
    let mut talk = Talk::new(Side::Listener);
    talk.hear(Frame::WebRtcOffer(CHROMIUM.to_owned()));
    talk.conversation.signal(Signal::Answer("yes".to_owned()));
    talk.todo();
    talk.conversation.socket_lost();
    assert_eq!(talk.todo(), [Action::Drop, Action::End(Ended::Lost)]);
    assert_eq!(talk.pass(secs(60)), []);
}

#[test]
fn a_call_with_a_path_may_come_up_although_the_websocket_is_gone() {
    for role in [Side::Dialer, Side::Listener] {
        let mut talk = match role {
            Side::Dialer => Talk::dialer(),
            Side::Listener => Talk::new(role),
        };
        match role {
            Side::Dialer => talk.hear(answer("answer")),
            Side::Listener => {
                talk.hear(Frame::WebRtcOffer(CHROMIUM.to_owned()));
                talk.conversation.signal(Signal::Answer("yes".to_owned()));
            }
        }
        talk.conversation.path_found();
        talk.todo();
        talk.conversation.socket_lost();
        assert_eq!(talk.todo(), [Action::End(Ended::Lost)]);
        assert!(talk.conversation.has_call(), "{role:?}");
        assert_eq!(talk.pass(secs(60)).len(), 1, "the call's end");
    }
    // The path is one of the call, and not of the one that follows.
    let mut talk = Talk::new(Side::Listener);
    talk.hear(Frame::WebRtcOffer(CHROMIUM.to_owned()));
    talk.conversation.signal(Signal::Answer("yes".to_owned()));
    talk.conversation.path_found();
    talk.hear(Frame::WebRtcOffer(FIREFOX.to_owned()));
    talk.conversation.socket_lost();
    assert!(!talk.conversation.has_call());
}

#[test]
fn frames_of_sessions_and_nonsense_are_refused_with_their_code() {
    let mut talk = Talk::new(Side::Listener);
    talk.hear(Frame::Resize(crate::frames::frame::Size::default()));
    talk.assert_violated();
    let mut talk = Talk::new(Side::Listener);
    talk.conversation
        .handle_nonsense(&FrameError::ShortHeader(0));
    let actions = talk.todo();
    let [Action::Send(Frame::Close(close)), Action::End(_)] = &actions[..] else {
        panic!("{actions:?}");
    };
    assert_eq!(
        (close.code, close.by_client),
        (Code::INVALID_MESSAGE, false)
    );
}

#[test]
fn a_listener_answers_each_offer_once() {
    let mut talk = Talk::new(Side::Listener);
    talk.hear(Frame::WebRtcOffer(CHROMIUM.to_owned()));
    assert_eq!(talk.todo(), [Action::Answer(CHROMIUM.to_owned())]);
    talk.conversation.signal(Signal::Answer("yes".to_owned()));
    assert_eq!(talk.todo(), [Action::Send(answer("yes"))]);
    // The same certificate: ICE is restarted.
    talk.hear(Frame::WebRtcOffer(CHROMIUM.to_owned()));
    let restart = Signal::Offer(CHROMIUM.to_owned());
    assert_eq!(talk.todo(), [Action::Signal(restart)]);
    talk.conversation.signal_refused(talk.now);
    assert_eq!(talk.todo(), [refusal()]);
    assert!(talk.conversation.has_call(), "the call is as it was");
    // Another one: another call, in the place of the first.
    talk.hear(Frame::WebRtcOffer(FIREFOX.to_owned()));
    assert_eq!(talk.todo(), [Action::Answer(FIREFOX.to_owned())]);
    assert_eq!(talk.fail(), [Action::Drop, refusal()]);
    assert_eq!(talk.fail(), []);
}

#[test]
fn offers_that_cannot_be_used_or_come_too_often_are_refused() {
    let mut talk = Talk::new(Side::Listener);
    for text in ["", "v=0\r\n", "nonsense"] {
        talk.hear(Frame::WebRtcOffer(text.to_owned()));
        assert_eq!(talk.todo(), [refusal()], "{text}");
    }
    let mut refused = 0;
    for round in 0..100 {
        let sdp = if round % 2 == 0 { CHROMIUM } else { FIREFOX };
        talk.hear(Frame::WebRtcOffer(sdp.to_owned()));
        let actions = talk.todo();
        refused += usize::from(actions == [refusal()]);
        talk.conversation.signal(Signal::Answer("yes".to_owned()));
        talk.todo();
    }
    assert_eq!(refused, 99, "one was left of the four");
}

#[test]
fn a_second_offer_replaces_the_first_or_must_wait_for_its_answer() {
    let mut talk = Talk::new(Side::Listener);
    talk.hear(Frame::WebRtcOffer(CHROMIUM.to_owned()));
    talk.todo();
    talk.hear(Frame::WebRtcOffer(FIREFOX.to_owned()));
    assert_eq!(talk.todo(), [refusal(), Action::Answer(FIREFOX.to_owned())]);
    talk.hear(Frame::WebRtcOffer(FIREFOX.to_owned()));
    talk.assert_violated();
}

#[test]
fn an_offer_that_is_refused_unread_is_refused_behind_the_one_that_waits() {
    let unread = || Frame::WebRtcOffer("nonsense".to_owned());
    let mut talk = Talk::new(Side::Listener);
    talk.hear(Frame::WebRtcOffer(CHROMIUM.to_owned()));
    talk.todo();
    talk.hear(unread());
    assert_eq!(talk.todo(), [], "it would be taken for that of the first");
    talk.conversation.signal(Signal::Answer("yes".to_owned()));
    assert_eq!(talk.todo(), [Action::Send(answer("yes")), refusal()]);
    // Of one that is replaced, and of those behind it.
    let mut talk = Talk::new(Side::Listener);
    talk.hear(Frame::WebRtcOffer(CHROMIUM.to_owned()));
    talk.hear(unread());
    talk.todo();
    talk.hear(Frame::WebRtcOffer(FIREFOX.to_owned()));
    let begun = Action::Answer(FIREFOX.to_owned());
    assert_eq!(talk.todo(), [refusal(), refusal(), begun]);
    // Nobody who keeps to the rules offers on and on.
    for _ in 0..3 {
        assert!(!talk.conversation.ended);
        talk.hear(unread());
    }
    talk.assert_violated();
}

#[test]
fn a_listener_gives_a_call_up_later_than_its_dialer() {
    let mut talk = Talk::new(Side::Listener);
    talk.hear(Frame::WebRtcOffer(CHROMIUM.to_owned()));
    talk.conversation.signal(Signal::Answer("yes".to_owned()));
    talk.todo();
    let time = WEBRTC_TIMEOUT + LISTENER_GRACE;
    assert_eq!(talk.pass(secs(60)), [(time, Action::Drop)]);
    talk.conversation.webrtc = WebRtc::Up { since: talk.now };
    talk.conversation.path_lost(talk.now);
    assert_eq!(
        talk.pass(secs(60)),
        [(time, Action::Drop)],
        "and does nothing else about it"
    );
}

#[test]
fn data_begins_the_plain_lane_of_a_listener() {
    let mut talk = Talk::new(Side::Listener);
    talk.hear(bytes(b""));
    assert_eq!(talk.todo(), [], "empty DATA has no effect");
    talk.hear(bytes(b"first"));
    talk.hear(bytes(b"second"));
    let end = Data {
        end: true,
        ..Data::default()
    };
    talk.hear(Frame::Data(end.clone()));
    let first = Action::Data(Bytes::from_static(b"first"));
    let second = Action::Data(Bytes::from_static(b"second"));
    assert_eq!(
        talk.todo(),
        [Action::StartPlain, first, second, Action::EndOfData]
    );
    talk.hear(bytes(b"more"));
    talk.assert_violated();
}

#[test]
fn numbers_in_data_are_a_fault() {
    let mut talk = Talk::new(Side::Listener);
    talk.hear(Frame::Data(Data {
        number: Some(1),
        ..Data::default()
    }));
    talk.assert_violated();
}

#[test]
fn data_for_a_lane_that_is_over_is_thrown_away() {
    let mut talk = Talk::new(Side::Listener);
    talk.hear(bytes(b"first"));
    talk.todo();
    talk.conversation.plain_is_over();
    talk.hear(bytes(b"late"));
    assert_eq!(talk.todo(), []);
    assert!(!talk.conversation.ended);
}

#[test]
fn candidates_without_a_call_or_without_end_are_not_handed_on() {
    let mut talk = Talk::new(Side::Listener);
    talk.hear(candidate("candidate:early"));
    assert_eq!(talk.todo(), []);
    talk.hear(Frame::WebRtcOffer(CHROMIUM.to_owned()));
    talk.todo();
    for _ in 0..2 * MAX_CANDIDATES {
        talk.hear(candidate("candidate:one of many"));
    }
    assert_eq!(talk.todo().len(), MAX_CANDIDATES);
}

#[test]
fn each_restart_has_candidates_of_its_own() {
    let candidates = |talk: &mut Talk| {
        for _ in 0..2 * MAX_CANDIDATES {
            talk.hear(candidate("candidate:one of many"));
        }
        talk.todo().len()
    };
    let mut listener = Talk::new(Side::Listener);
    for _ in 0..3 {
        listener.hear(Frame::WebRtcOffer(CHROMIUM.to_owned()));
        let answered = Signal::Answer("answer".to_owned());
        listener.conversation.signal(answered);
        listener.todo();
        assert_eq!(candidates(&mut listener), MAX_CANDIDATES);
    }
    let mut dialer = Talk::connected();
    assert_eq!(candidates(&mut dialer), MAX_CANDIDATES);
    dialer.conversation.path_lost(dialer.now);
    dialer.todo();
    dialer.offer();
    assert_eq!(candidates(&mut dialer), 0, "they are of the last one");
    dialer.hear(answer("again"));
    dialer.todo();
    assert_eq!(candidates(&mut dialer), MAX_CANDIDATES);
}

#[test]
fn who_leaves_begins_nothing_new() {
    let mut talk = Talk::connected();
    talk.conversation.leave();
    assert_eq!(talk.fail(), [Action::Drop]);
    assert_eq!(talk.pass(secs(1000)), []);
    talk.conversation.close();
    let actions = talk.todo();
    let [Action::Send(Frame::Close(close)), Action::End(Ended::Local)] = &actions[..] else {
        panic!("{actions:?}");
    };
    assert!(close.by_client && close.code == Code::NORMAL);
    let mut talk = Talk::new(Side::Listener);
    talk.conversation.leave();
    talk.hear(Frame::WebRtcOffer(CHROMIUM.to_owned()));
    talk.hear(bytes(b"late"));
    assert_eq!(talk.todo(), [refusal()]);
}

/// What can happen to a dialer and a listener that are connected.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The dialer or the listener hears the next message.
    Hear(bool),
    /// The call there has what it owes: its offer or answer.
    Describe(bool),
    Up(bool),
    Lose(bool),
    Find(bool),
    Fail(bool),
    Wait(u16),
    Network,
}

fn step() -> impl Strategy<Value = Step> {
    let side = any::<bool>();
    prop_oneof![
        4 => side.prop_map(Step::Hear),
        4 => side.prop_map(Step::Describe),
        1 => side.prop_map(Step::Up),
        1 => side.prop_map(Step::Lose),
        1 => side.prop_map(Step::Find),
        1 => side.prop_map(Step::Fail),
        2 => (0..20_000_u16).prop_map(Step::Wait),
        1 => Just(Step::Network),
    ]
}

/// Both ends, and what is on the way to each of them.
struct Pair {
    ends: [Conversation; 2],
    way: [VecDeque<Frame>; 2],
    /// Descriptions that the calls are to give.
    owed: [VecDeque<Signal>; 2],
    offers: usize,
    answers: usize,
    now: Instant,
}

impl Pair {
    fn carry_out(&mut self) {
        for side in 0..2 {
            let mut count = 0;
            while let Some(action) = self.ends[side].poll_action() {
                count += 1;
                assert!(count <= 8, "one thing leads to too many");
                match action {
                    Action::Send(frame) => {
                        match &frame {
                            Frame::WebRtcOffer(_) => {
                                assert_eq!(self.offers, self.answers, "one offer at a time");
                                self.offers += 1;
                            }
                            Frame::WebRtcAnswer(_) => {
                                self.answers += 1;
                                assert!(self.answers <= self.offers, "no answer without an offer");
                            }
                            Frame::Close(close) => assert_eq!(close.code, Code::PING_TIMEOUT),
                            _ => {}
                        }
                        self.way[1 - side].push_back(frame);
                    }
                    Action::Offer => {
                        self.owed[side] = VecDeque::from([Signal::Offer(CHROMIUM.to_owned())]);
                    }
                    Action::Restart => {
                        self.owed[side].push_back(Signal::Offer(CHROMIUM.to_owned()));
                    }
                    Action::Answer(_) => {
                        self.owed[side] = VecDeque::from([Signal::Answer("yes".to_owned())]);
                    }
                    Action::Signal(Signal::Offer(_)) => {
                        self.owed[side].push_back(Signal::Answer("yes".to_owned()));
                    }
                    Action::Drop => self.owed[side].clear(),
                    _ => {}
                }
            }
        }
    }

    fn take(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Hear(side) => {
                if let Some(frame) = self.way[usize::from(side)].pop_front() {
                    self.ends[usize::from(side)].handle_frame(now, frame);
                }
            }
            Step::Describe(side) => {
                if let Some(signal) = self.owed[usize::from(side)].pop_front() {
                    self.ends[usize::from(side)].signal(signal);
                }
            }
            Step::Up(side) => {
                let end = &mut self.ends[usize::from(side)];
                // No call comes up before it was answered.
                let is_answered = end.awaiting.is_none() && self.owed[usize::from(side)].is_empty();
                if end.has_call() && is_answered {
                    end.call_is_up(now);
                }
            }
            Step::Lose(side) => self.ends[usize::from(side)].path_lost(now),
            Step::Find(side) => self.ends[usize::from(side)].path_found(),
            Step::Fail(side) => self.ends[usize::from(side)].call_failed(now),
            Step::Wait(milliseconds) => {
                self.now += Duration::from_millis(milliseconds.into());
                for end in &mut self.ends {
                    end.handle_timeout(self.now);
                }
            }
            Step::Network => self.ends[0].network_changed(now),
        }
        self.carry_out();
    }
}

proptest! {
    /// Whatever happens, in whatever order: the two never take each other for somebody who breaks the rules, there is one
    /// offer at a time and one answer to it, and nothing leads to more than a few things.
    #[test]
    fn two_ends_understand_each_other(steps in prop::collection::vec(step(), 0..200)) {
        #[expect(clippy::disallowed_methods, reason = "a time to begin with")]
        let now = Instant::now();
        let ends = [Side::Dialer, Side::Listener].map(|role| Conversation::new(role, now, TIMING));
        let mut pair = Pair {
            ends,
            way: Default::default(),
            owed: Default::default(),
            offers: 0,
            answers: 0,
            now,
        };
        pair.carry_out();
        for step in steps {
            pair.take(step);
        }
    }
}

/// A frame as strangers make them.
fn any_frame() -> impl Strategy<Value = Frame> {
    let text = prop_oneof![
        Just(CHROMIUM.to_owned()),
        Just(FIREFOX.to_owned()),
        "[ -~]{0,20}"
    ];
    let data = (any::<bool>(), any::<bool>(), "[ -~]{0,3}");
    prop_oneof![
        text.clone().prop_map(Frame::WebRtcOffer),
        text.prop_map(Frame::WebRtcAnswer),
        "[ -~]{0,20}".prop_map(|text| candidate(&text)),
        data.prop_map(|(numbered, end, bytes)| Frame::Data(Data {
            number: numbered.then_some(1),
            end: end && bytes.is_empty(),
            bytes: bytes.into_bytes().into(),
        })),
        Just(Frame::Ping(Bytes::new())),
        Just(Frame::Pong(Bytes::new())),
        Just(Frame::WebRtcReady),
        Just(Frame::Resize(crate::frames::frame::Size::default())),
        Just(Frame::Unknown(1)),
        Just(Frame::Error(Failure::new(Code::AUTH_FAILED, ""))),
    ]
}

proptest! {
    /// Whatever a stranger sends leads to a few things at the most, and to none behind a goodbye.
    #[test]
    fn any_frame_has_few_consequences(
        frames in prop::collection::vec((any_frame(), 0..5_000_u64), 0..60),
        is_dialer in any::<bool>(),
    ) {
        let mut talk = Talk::new(if is_dialer { Side::Dialer } else { Side::Listener });
        talk.todo();
        for (frame, wait) in frames {
            let was_over = talk.conversation.ended;
            talk.hear(frame);
            let actions = talk.todo();
            prop_assert!(actions.len() <= 4, "{actions:?}");
            prop_assert!(!was_over || actions.is_empty(), "{actions:?}");
            talk.now += Duration::from_millis(wait);
            talk.conversation.handle_timeout(talk.now);
            let later = talk.todo();
            let sends = later.iter().filter(|action| matches!(action, Action::Send(_)));
            prop_assert!(sends.count() <= 2, "{later:?}");
        }
    }
}
