//! The dialer's half of ICE: connectivity checks until one is answered, consent checks after that.
//!
//! webrtc-direct needs no candidates and no nomination logic: the listener is ICE-lite with one address (RFC 8445
//! section 2.5), so the dialer repeats one check, with USE-CANDIDATE, and every answer is proof that the path works
//! (RFC 7675). Owns the credentials and open transactions of one dial; the connection calls it and sends what it
//! writes. Choosing what an answer means for DTLS is the connection's job.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use rand::{Rng, RngExt};

use super::{
    credentials::{DialCredentials, IceVersion},
    event::DialPolicy,
    stun::{self, BindingRequest, BindingResponse, IceRole, RequestParams, TransactionId},
};

/// First repetition of an unanswered check; it doubles up to [`MAX_INTERVAL`] (RFC 8489 section 6.2.1 starts at
/// 500 ms; a check is one small packet and a lost one delays the whole dial).
const FIRST_INTERVAL: Duration = Duration::from_millis(100);
/// Longest wait between unanswered checks.
const MAX_INTERVAL: Duration = Duration::from_millis(1600);
/// When version 2 joins an unanswered version 1, see "Which handshake a native dialer uses" in the architecture notes.
const SECOND_VERSION_AFTER: Duration = Duration::from_secs(1);
/// Transactions that may still be answered.
const MAX_OPEN: usize = 16;
/// Priority of a host candidate (RFC 8445 section 5.1.2.1: 126 << 24 | 65535 << 8 | 255).
const PRIORITY: u32 = (126 << 24) | (65_535 << 8) | 255;

/// Checks of one dial.
#[derive(Debug)]
pub(crate) struct Prober {
    first: DialCredentials,
    second: Option<DialCredentials>,
    second_from: Instant,
    tie_breaker: u64,
    open: VecDeque<(TransactionId, IceVersion)>,
    answered: Option<IceVersion>,
    next: Instant,
    interval: Duration,
    keepalive: Duration,
}

impl Prober {
    /// Prepares the checks; the first is due at once.
    pub(crate) fn new(
        policy: DialPolicy,
        keepalive: Duration,
        rng: &mut impl Rng,
        now: Instant,
    ) -> Self {
        let (first, second) = match policy {
            DialPolicy::V1 => (IceVersion::V1, None),
            DialPolicy::V2 => (IceVersion::V2, None),
            DialPolicy::Auto => (IceVersion::V1, Some(IceVersion::V2)),
        };
        Self {
            first: DialCredentials::generate(first, rng),
            second: second.map(|version| DialCredentials::generate(version, rng)),
            second_from: now + SECOND_VERSION_AFTER,
            tie_breaker: rng.random(),
            open: VecDeque::new(),
            answered: None,
            next: now,
            interval: FIRST_INTERVAL,
            keepalive,
        }
    }

    /// Our tie-breaker.
    pub(crate) fn tie_breaker(&self) -> u64 {
        self.tie_breaker
    }

    /// Which credentials the peer answered.
    pub(crate) fn answered(&self) -> Option<IceVersion> {
        self.answered
    }

    /// When [`Self::checks`] is due.
    pub(crate) fn poll_timeout(&self) -> Instant {
        self.next
    }

    /// Writes the checks that are due now, each as one datagram. Those of a path that works come twice as often with
    /// `urgent`.
    pub(crate) fn checks(
        &mut self,
        now: Instant,
        urgent: bool,
        rng: &mut impl Rng,
        mut send: impl FnMut(&[u8]),
    ) {
        if now < self.next {
            return;
        }
        let wait = if self.answered.is_some() {
            // Randomised so that many connections do not beat in time (RFC 7675 section 5.1).
            let pause = if urgent {
                self.keepalive / 2
            } else {
                self.keepalive
            };
            pause.mul_f64(rng.random_range(0.8..1.2))
        } else {
            let wait = self.interval;
            self.interval = (self.interval * 2).min(MAX_INTERVAL);
            wait
        };
        self.next = now + wait;
        let both = self.answered.is_none() && now >= self.second_from;
        let versions = match self.answered {
            Some(version) => [Some(version), None],
            None => [
                Some(self.first.version),
                self.second
                    .as_ref()
                    .filter(|_| both)
                    .map(|second| second.version),
            ],
        };
        for version in versions.into_iter().flatten() {
            let datagram = self.check(version, rng);
            send(&datagram);
        }
        if !both && self.answered.is_none() && self.second.is_some() {
            self.next = self.next.min(self.second_from);
        }
    }

    fn credentials(&self, version: IceVersion) -> &DialCredentials {
        match &self.second {
            Some(second) if second.version == version => second,
            _ => &self.first,
        }
    }

    fn check(&mut self, version: IceVersion, rng: &mut impl Rng) -> Vec<u8> {
        let transaction_id = TransactionId::random(rng);
        if self.open.len() >= MAX_OPEN {
            self.open.pop_front();
        }
        self.open.push_back((transaction_id, version));
        let credentials = self.credentials(version);
        let mut datagram = Vec::with_capacity(256);
        stun::encode_binding_request(
            &RequestParams {
                transaction_id,
                username: &credentials.username(),
                key: credentials.server_ufrag.as_bytes(),
                role: IceRole::Controlling(self.tie_breaker),
                priority: PRIORITY,
                use_candidate: true,
            },
            &mut datagram,
        );
        datagram
    }

    /// Takes an answer. True if it is a valid one to a check of ours.
    pub(crate) fn handle_success(&mut self, now: Instant, response: &BindingResponse<'_>) -> bool {
        let Some(index) = self
            .open
            .iter()
            .position(|(id, _)| *id == response.transaction_id())
        else {
            return false;
        };
        let (_, version) = self.open[index];
        if !response.verify(self.credentials(version).server_ufrag.as_bytes()) {
            return false;
        }
        self.open.clear();
        self.open.shrink_to_fit();
        if self.answered.is_none() {
            self.answered = Some(version);
            self.next = now + self.keepalive;
            self.forget_other_credentials(version);
        }
        true
    }

    fn forget_other_credentials(&mut self, version: IceVersion) {
        if let Some(second) = self.second.take()
            && second.version == version
        {
            self.first = second;
        }
    }

    /// Whether a check from the peer is meant for this dial (a full ICE agent on the other side sends some). Its
    /// answer is keyed with the returned password.
    pub(crate) fn key_for(&self, request: &BindingRequest<'_>) -> Option<&[u8]> {
        let username = request.username()?;
        let (ours, _) = username.split_once(':')?;
        let mine = [Some(&self.first), self.second.as_ref()];
        mine.into_iter()
            .flatten()
            .find(|credentials| {
                credentials.client_ufrag == ours
                    && request.verify(credentials.client_pwd.as_bytes())
            })
            .map(|credentials| credentials.client_pwd.as_bytes())
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "an arbitrary origin for virtual time"
)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::proto::stun::Message;

    struct Setup {
        prober: Prober,
        rng: StdRng,
        start: Instant,
    }

    impl Setup {
        fn new(policy: DialPolicy) -> Self {
            let mut rng = StdRng::seed_from_u64(7);
            let start = Instant::now();
            let prober = Prober::new(policy, Duration::from_secs(5), &mut rng, start);
            Self { prober, rng, start }
        }

        fn checks_at(&mut self, ms: u64) -> Vec<Vec<u8>> {
            let mut sent = Vec::new();
            self.prober.checks(
                self.start + Duration::from_millis(ms),
                false,
                &mut self.rng,
                |check| sent.push(check.to_vec()),
            );
            sent
        }

        fn answer(&mut self, check: &[u8], key: Option<&[u8]>, ms: u64) -> bool {
            let Ok(Message::BindingRequest(request)) = stun::parse(check) else {
                panic!("no request")
            };
            let (server, _) = request.username().unwrap().split_once(':').unwrap();
            let mut out = Vec::new();
            let from = "127.0.0.1:9".parse().unwrap();
            stun::encode_binding_success(
                request.transaction_id(),
                from,
                key.unwrap_or(server.as_bytes()),
                &mut out,
            );
            let Ok(Message::BindingSuccess(response)) = stun::parse(&out) else {
                panic!("no response")
            };
            self.prober
                .handle_success(self.start + Duration::from_millis(ms), &response)
        }
    }

    fn version(check: &[u8]) -> String {
        let Ok(Message::BindingRequest(request)) = stun::parse(check) else {
            panic!("no request")
        };
        request.username().unwrap()[..17].to_owned()
    }

    #[test]
    fn automatic_dials_add_version_2_after_a_second_without_an_answer() {
        let mut setup = Setup::new(DialPolicy::Auto);
        assert_eq!(
            setup
                .checks_at(0)
                .iter()
                .map(|c| version(c))
                .collect::<Vec<_>>(),
            ["libp2p+webrtc+v1/"]
        );
        setup.checks_at(900);
        let both: Vec<_> = setup
            .checks_at(2600)
            .iter()
            .map(|check| version(check))
            .collect();
        assert_eq!(both, ["libp2p+webrtc+v1/", "libp2p+webrtc+v2/"]);
    }

    #[test]
    fn an_answer_fixes_the_version_and_later_checks_keep_it() {
        let mut setup = Setup::new(DialPolicy::Auto);
        setup.checks_at(0);
        let both = setup.checks_at(1500);
        assert!(setup.answer(&both[1], None, 1600));
        assert_eq!(setup.prober.answered(), Some(IceVersion::V2));
        assert!(setup.checks_at(3000).is_empty());
        let consent: Vec<_> = setup
            .checks_at(8000)
            .iter()
            .map(|check| version(check))
            .collect();
        assert_eq!(consent, ["libp2p+webrtc+v2/"]);
    }

    #[test]
    fn answers_with_a_foreign_key_or_id_do_not_count() {
        let mut setup = Setup::new(DialPolicy::V1);
        let checks = setup.checks_at(0);
        assert!(!setup.answer(&checks[0], Some(b"another password that is wrong"), 1));
        let mut other = Setup::new(DialPolicy::V2);
        let foreign = other.checks_at(0);
        assert!(!setup.answer(&foreign[0], None, 1));
        assert_eq!(setup.prober.answered(), None);
    }

    #[test]
    fn unanswered_checks_are_repeated_with_growing_pauses() {
        let mut setup = Setup::new(DialPolicy::V1);
        let times: Vec<u64> = (0..10_000)
            .step_by(10)
            .filter(|&ms| !setup.checks_at(ms).is_empty())
            .collect();
        assert_eq!(times[..4], [0, 100, 300, 700]);
        assert!(times.len() < 14);
    }
}
