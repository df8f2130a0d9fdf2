//! The schedule of metadata requests: at most one request at a time, at most one for a burst of reasons, and
//! exponential backoff after failures.

use core::time::Duration;

use fastrand::Rng;

use crate::time::{Instant, random_duration};

/// The first backoff before the first successful request, of which half is jitter. It is short, since records wait for
/// the reply.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
/// The first backoff after a successful request, of which half is jitter, and the minimum time between two requests.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// The longest backoff.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// The longest backoff after the service throttled a ListShards. All clients of a stream share a limit of 1,000 a second
/// (<https://docs.aws.amazon.com/kinesis/latest/APIReference/API_ListShards.html>), and most need only one list, so
/// throttling passes in seconds. DescribeStreamSummary is not sent again as soon: the whole account shares 20 a second.
const THROTTLED_BACKOFF_MAX: Duration = Duration::from_secs(2);

/// The reason why a request has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A retry may succeed as soon as the service is reachable again.
    Transient,
    /// Too many requests were sent, by any producer.
    Throttled,
    Refused,
}

/// The schedule of a repeated request: for the stream's shards, or for its description.
#[derive(Debug)]
pub(crate) struct RefreshSchedule {
    due: Instant,
    /// When the request in flight was sent.
    sent_at: Option<Instant>,
    /// When the last answered request was sent. Its reply covers all changes before that.
    answered_request_sent_at: Option<Instant>,
    /// The next backoff.
    backoff: Duration,
    /// When the last request failed, if the failure is transient.
    failed_at: Option<Instant>,
    /// Whether the first reply has come, or is not waited for.
    finished: bool,
}

impl RefreshSchedule {
    /// Creates a schedule whose first request is due at `due`; with [`Instant::NEVER`], on request only.
    pub(crate) fn new(due: Instant) -> Self {
        Self {
            due,
            sent_at: None,
            answered_request_sent_at: None,
            backoff: FIRST_BACKOFF,
            failed_at: None,
            finished: due == Instant::NEVER,
        }
    }

    /// Whether records still wait for the first reply: there was none, and no call of
    /// [`give_up_waiting`](Self::give_up_waiting).
    pub(crate) fn awaits_first_reply(&self) -> bool {
        !self.finished
    }

    /// Whether a request is in flight.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.sent_at.is_some()
    }

    /// Ends the wait for the first reply.
    pub(crate) fn give_up_waiting(&mut self) {
        self.finished = true;
    }

    /// Returns when the last answered request was sent.
    pub(crate) fn last_answered_at(&self) -> Option<Instant> {
        self.answered_request_sent_at
    }

    /// Schedules a request, because an event at `seen` shows that the last reply is out of date. A burst of events
    /// makes one request.
    pub(crate) fn request(&mut self, now: Instant, seen: Instant) {
        let is_covered = self.sent_at.max(self.answered_request_sent_at).is_some_and(|sent_at| seen < sent_at);
        if self.due == Instant::NEVER && self.sent_at.is_none() && !is_covered {
            let earliest = self.answered_request_sent_at.map_or(now, |sent_at| sent_at + BACKOFF_MIN);
            self.due = earliest.max(now);
        }
    }

    /// Resets the backoff, because the last reply was complete.
    pub(crate) fn settle(&mut self) {
        self.backoff = BACKOFF_MIN;
    }

    /// Schedules a request after the backoff, because the last reply was not complete.
    pub(crate) fn request_after_backoff(&mut self, now: Instant, rng: &mut Rng) {
        if self.due == Instant::NEVER && self.sent_at.is_none() {
            self.due = now + self.next_backoff(rng);
        }
    }

    /// Shortens the backoff after a transient failure, because the service replies again.
    pub(crate) fn expedite(&mut self, now: Instant) {
        if let Some(failed_at) = self.failed_at {
            self.due = self.due.min(now.max(failed_at + BACKOFF_MIN));
        }
    }

    /// Returns when the next request is due.
    pub(crate) fn next(&self) -> Instant {
        self.due
    }

    /// Returns whether a request is due at `now`. If so, it counts as sent.
    pub(crate) fn take_due(&mut self, now: Instant) -> bool {
        if self.due > now {
            return false;
        }
        self.due = Instant::NEVER;
        self.sent_at = Some(now);
        self.failed_at = None;
        true
    }

    /// Ends the request in flight with a reply; then call [`settle`](Self::settle) if the reply is complete, or
    /// [`request_after_backoff`](Self::request_after_backoff) if not. Returns false if no request is in flight.
    pub(crate) fn succeeded(&mut self) -> bool {
        let Some(sent_at) = self.sent_at.take() else { return false };
        self.answered_request_sent_at = Some(sent_at);
        self.finished = true;
        self.backoff = self.backoff.max(BACKOFF_MIN);
        true
    }

    /// Ends the request in flight with a failure, and schedules the next one. Returns the backoff; `None` if no request
    /// is in flight.
    pub(crate) fn failed(&mut self, now: Instant, failure: Failure, rng: &mut Rng) -> Option<Duration> {
        self.sent_at.take()?;
        self.failed_at = (failure == Failure::Transient).then_some(now);
        if failure == Failure::Throttled {
            self.backoff = self.backoff.min(THROTTLED_BACKOFF_MAX);
        }
        let wait = self.next_backoff(rng);
        self.due = now + wait;
        Some(wait)
    }

    /// Returns the backoff and doubles the next one. Half of it is jitter, since many producers fail at the same time.
    fn next_backoff(&mut self, rng: &mut Rng) -> Duration {
        let wait = self.backoff / 2 + random_duration(rng, self.backoff / 2);
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ms;
    use alloc::vec::Vec;
    use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
    use proptest::sample::select;

    #[derive(Clone, Debug)]
    enum Step {
        Request { ago: u64 },
        RequestAfterBackoff,
        Expedite,
        Succeed,
        Fail(Failure),
        Pass { millis: u64 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0..3_000_u64).prop_map(|ago| Step::Request { ago }),
            1 => Just(Step::RequestAfterBackoff),
            2 => Just(Step::Expedite),
            2 => Just(Step::Succeed),
            2 => select(&[Failure::Transient, Failure::Throttled, Failure::Refused][..]).prop_map(Step::Fail),
            4 => (0..3_000_u64).prop_map(|millis| Step::Pass { millis }),
        ];
        proptest::collection::vec(step, 0..100)
    }

    proptest! {
        #[test]
        fn one_request_at_a_time_spaced_out_and_never_lost(steps in steps(), seed in any::<u64>()) {
            let mut rng = Rng::with_seed(seed);
            let mut schedule = RefreshSchedule::new(ms(10_000));
            let mut now = 10_000;
            let (mut in_flight, mut answered, mut last_sent) = (false, false, None);
            for step in steps {
                match step {
                    Step::Request { ago } => {
                        let seen = ms(now - ago);
                        schedule.request(ms(now), seen);
                        if !in_flight && last_sent.is_none_or(|sent_at| seen >= sent_at) {
                            prop_assert!(schedule.next() <= ms(now) + BACKOFF_MAX, "a newer reason is not lost");
                        }
                    }
                    Step::RequestAfterBackoff => {
                        schedule.request_after_backoff(ms(now), &mut rng);
                        prop_assert!(in_flight || schedule.next() <= ms(now) + BACKOFF_MAX);
                    }
                    Step::Expedite => schedule.expedite(ms(now)),
                    Step::Succeed => {
                        prop_assert_eq!(schedule.succeeded(), in_flight);
                        answered |= in_flight;
                        in_flight = false;
                    }
                    Step::Fail(failure) => {
                        let wait = schedule.failed(ms(now), failure, &mut rng);
                        prop_assert_eq!(wait.is_some(), in_flight);
                        if let Some(wait) = wait {
                            let min = if answered { BACKOFF_MIN } else { FIRST_BACKOFF };
                            let max = if failure == Failure::Throttled { THROTTLED_BACKOFF_MAX } else { BACKOFF_MAX };
                            prop_assert!(min / 2 <= wait && wait <= max);
                            prop_assert_eq!(schedule.next(), ms(now) + wait);
                        }
                        in_flight = false;
                    }
                    Step::Pass { millis } => now += millis,
                }
                if in_flight {
                    prop_assert_eq!(schedule.next(), Instant::NEVER, "one at a time");
                }
                let due = schedule.next() <= ms(now);
                prop_assert_eq!(schedule.take_due(ms(now)), due);
                if due {
                    let pause = last_sent.map(|sent_at| ms(now).saturating_since(sent_at));
                    let min = if answered { BACKOFF_MIN } else { FIRST_BACKOFF };
                    prop_assert!(pause.is_none_or(|pause| pause >= min / 2), "{:?}", pause);
                    (in_flight, last_sent) = (true, Some(ms(now)));
                }
                prop_assert_eq!(schedule.awaits_first_reply(), !answered);
            }
        }
    }

    #[test]
    fn a_burst_of_reasons_makes_one_request() {
        let mut schedule = RefreshSchedule::new(ms(0));
        assert!(schedule.awaits_first_reply() && !schedule.is_in_flight());
        assert!(schedule.take_due(ms(0)) && !schedule.take_due(ms(0)));
        assert!(schedule.is_in_flight());
        assert!(schedule.succeeded());
        assert!(!schedule.awaits_first_reply());
        assert!(!schedule.succeeded(), "no request in flight");

        for i in 0..100 {
            schedule.request(ms(2_000 + i), ms(1_900 + i));
        }
        assert!(schedule.take_due(ms(2_000)));
        schedule.request(ms(2_001), ms(1_999));
        assert!(schedule.succeeded());
        schedule.request(ms(2_100), ms(1_999));
        assert_eq!(schedule.next(), Instant::NEVER, "the reply is newer than the reason");
        schedule.request(ms(2_100), ms(2_050));
        assert_eq!(schedule.next(), ms(3_000), "a newer reason waits until a second has passed");
    }

    #[test]
    fn the_backoff_doubles_up_to_thirty_seconds() {
        let mut schedule = RefreshSchedule::new(ms(0));
        let mut rng = Rng::with_seed(1);
        let mut now = ms(0);
        for expected in [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            assert!(schedule.take_due(now));
            let wait = schedule.failed(now, Failure::Transient, &mut rng).unwrap();
            let expected = Duration::from_millis(expected);
            assert!(expected / 2 <= wait && wait <= expected, "{wait:?} of {expected:?}");
            schedule.request(now, now);
            assert_eq!(schedule.next(), now + wait, "new reasons do not shorten the wait");
            now = now + wait;
        }
        schedule.expedite(now);
        assert_eq!(schedule.next(), now, "the service replies again");
        assert!(schedule.take_due(now));
        schedule.failed(now, Failure::Refused, &mut rng).unwrap();
        let next = schedule.next();
        schedule.expedite(now);
        assert_eq!(schedule.next(), next, "a refused request keeps its backoff");
        now = next;
        assert!(schedule.take_due(now) && schedule.succeeded());
        schedule.request_after_backoff(now, &mut rng);
        assert!(schedule.next() >= now + BACKOFF_MAX / 2, "a reply alone does not reset the backoff");
        now = schedule.next();
        assert!(schedule.take_due(now) && schedule.succeeded());
        schedule.settle();
        schedule.request_after_backoff(now, &mut rng);
        assert!(schedule.next() <= now + BACKOFF_MIN, "a reply that is good enough does");
    }
}
