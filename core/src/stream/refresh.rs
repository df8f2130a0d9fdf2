//! When to ask the service about a stream: at most one question at a time, at most one for a burst of reasons, and
//! later and later while it does not answer.

use core::time::Duration;

use fastrand::Rng;

use crate::time::{Instant, random_duration};

/// The first wait after a failure before anything is known, of which half is jitter: records wait for the answer.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
/// The first wait after a later failure, of which half is jitter, and the least time between two requests.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// The longest wait after failures.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// The state of a question that is asked again and again: the stream's shards, or its description.
#[derive(Debug)]
pub(crate) struct RefreshSchedule {
    due: Instant,
    /// When the question under way was asked.
    sent_at: Option<Instant>,
    /// When the last answered question was asked: what happened before that, the answer tells.
    answered_request_sent_at: Option<Instant>,
    /// The next wait after a failure.
    backoff: Duration,
    /// When the last question failed, if trying again might help.
    failed_at: Option<Instant>,
    finished: bool,
}

impl RefreshSchedule {
    /// A question to be asked at `due` ([`Instant::NEVER`]: not unless wanted).
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

    /// Whether the first answer is still to come: a good one, or a failure that [settles](Self::give_up_waiting) it.
    pub(crate) fn awaits_first_answer(&self) -> bool {
        !self.finished
    }

    /// Whether a request was sent and not answered yet.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.sent_at.is_some()
    }

    /// A good answer is not worth waiting for any more.
    pub(crate) fn give_up_waiting(&mut self) {
        self.finished = true;
    }

    /// When the last answered request was sent.
    pub(crate) fn last_answered(&self) -> Option<Instant> {
        self.answered_request_sent_at
    }

    /// Something at `seen` says that the last answer is out of date. A burst of those makes one question.
    pub(crate) fn request(&mut self, now: Instant, seen: Instant) {
        let told = self.sent_at.max(self.answered_request_sent_at).is_some_and(|asked| seen < asked);
        if self.due == Instant::NEVER && self.sent_at.is_none() && !told {
            let earliest = self.answered_request_sent_at.map_or(now, |asked| asked + BACKOFF_MIN);
            self.due = earliest.max(now);
        }
    }

    /// The last answer was good enough: the next wait starts small again.
    pub(crate) fn settle(&mut self) {
        self.backoff = BACKOFF_MIN;
    }

    /// The last answer was not good enough: asks again after the backoff, whatever else is known.
    pub(crate) fn request_after_backoff(&mut self, now: Instant, rng: &mut Rng) {
        if self.due == Instant::NEVER && self.sent_at.is_none() {
            self.due = now + self.next_backoff(rng);
        }
    }

    /// The service answers again: a wait that grew while it did not is over.
    pub(crate) fn expedite(&mut self, now: Instant) {
        if let Some(failed_at) = self.failed_at {
            self.due = self.due.min(now.max(failed_at + BACKOFF_MIN));
        }
    }

    /// When the question is to be asked.
    pub(crate) fn next(&self) -> Instant {
        self.due
    }

    /// Whether the question is to be asked now; then it counts as asked.
    pub(crate) fn take_due(&mut self, now: Instant) -> bool {
        if self.due > now {
            return false;
        }
        self.due = Instant::NEVER;
        self.sent_at = Some(now);
        self.failed_at = None;
        true
    }

    /// The answer is there; whether it is good enough, [`settle`](Self::settle) or [`request_after_backoff`](Self::request_after_backoff) tells.
    /// Answers to questions that were not asked are told apart.
    pub(crate) fn succeeded(&mut self) -> bool {
        let Some(asked) = self.sent_at.take() else { return false };
        self.answered_request_sent_at = Some(asked);
        self.finished = true;
        self.backoff = self.backoff.max(BACKOFF_MIN);
        true
    }

    /// No answer: asks again after a while, which is returned. Whether that might help as soon as the service can be
    /// reached again is for the caller to say.
    pub(crate) fn failed(&mut self, now: Instant, passing: bool, rng: &mut Rng) -> Option<Duration> {
        self.sent_at.take()?;
        self.failed_at = passing.then_some(now);
        let wait = self.next_backoff(rng);
        self.due = now + wait;
        Some(wait)
    }

    /// Doubles the backoff; half of it is jitter, since many producers meet the same trouble at the same time.
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

    #[derive(Clone, Debug)]
    enum Step {
        Want { ago: u64 },
        WantLater,
        Hurry,
        Succeed,
        Fail { passing: bool },
        Pass { millis: u64 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0..3_000_u64).prop_map(|ago| Step::Want { ago }),
            1 => Just(Step::WantLater),
            2 => Just(Step::Hurry),
            2 => Just(Step::Succeed),
            2 => any::<bool>().prop_map(|passing| Step::Fail { passing }),
            4 => (0..3_000_u64).prop_map(|millis| Step::Pass { millis }),
        ];
        proptest::collection::vec(step, 0..100)
    }

    proptest! {
        #[test]
        fn one_question_at_a_time_never_in_a_row_and_never_forgotten(steps in steps(), seed in any::<u64>()) {
            let mut rng = Rng::with_seed(seed);
            let mut schedule = RefreshSchedule::new(ms(10_000));
            let mut now = 10_000;
            let (mut under_way, mut answered, mut last_asked) = (false, false, None);
            for step in steps {
                match step {
                    Step::Want { ago } => {
                        let seen = ms(now - ago);
                        schedule.request(ms(now), seen);
                        if !under_way && last_asked.is_none_or(|asked| seen >= asked) {
                            prop_assert!(schedule.next() <= ms(now) + BACKOFF_MAX, "a reason that is news is not lost");
                        }
                    }
                    Step::WantLater => {
                        schedule.request_after_backoff(ms(now), &mut rng);
                        prop_assert!(under_way || schedule.next() <= ms(now) + BACKOFF_MAX);
                    }
                    Step::Hurry => schedule.expedite(ms(now)),
                    Step::Succeed => {
                        prop_assert_eq!(schedule.succeeded(), under_way);
                        answered |= under_way;
                        under_way = false;
                    }
                    Step::Fail { passing } => {
                        let wait = schedule.failed(ms(now), passing, &mut rng);
                        prop_assert_eq!(wait.is_some(), under_way);
                        if let Some(wait) = wait {
                            let min = if answered { BACKOFF_MIN } else { FIRST_BACKOFF };
                            prop_assert!(min / 2 <= wait && wait <= BACKOFF_MAX);
                            prop_assert_eq!(schedule.next(), ms(now) + wait);
                        }
                        under_way = false;
                    }
                    Step::Pass { millis } => now += millis,
                }
                if under_way {
                    prop_assert_eq!(schedule.next(), Instant::NEVER, "one at a time");
                }
                let due = schedule.next() <= ms(now);
                prop_assert_eq!(schedule.take_due(ms(now)), due);
                if due {
                    let pause = last_asked.map(|asked| ms(now).saturating_since(asked));
                    let min = if answered { BACKOFF_MIN } else { FIRST_BACKOFF };
                    prop_assert!(pause.is_none_or(|pause| pause >= min / 2), "{:?}", pause);
                    (under_way, last_asked) = (true, Some(ms(now)));
                }
                prop_assert_eq!(schedule.awaits_first_answer(), !answered);
            }
        }
    }

    #[test]
    fn a_burst_of_reasons_makes_one_question() {
        let mut schedule = RefreshSchedule::new(ms(0));
        assert!(schedule.awaits_first_answer() && !schedule.is_in_flight());
        assert!(schedule.take_due(ms(0)) && !schedule.take_due(ms(0)));
        assert!(schedule.is_in_flight());
        assert!(schedule.succeeded());
        assert!(!schedule.awaits_first_answer());
        assert!(!schedule.succeeded(), "nobody asked");

        for i in 0..100 {
            schedule.request(ms(2_000 + i), ms(1_900 + i));
        }
        assert!(schedule.take_due(ms(2_000)));
        schedule.request(ms(2_001), ms(1_999));
        assert!(schedule.succeeded());
        schedule.request(ms(2_100), ms(1_999));
        assert_eq!(schedule.next(), Instant::NEVER, "the answer is newer than the reason");
        schedule.request(ms(2_100), ms(2_050));
        assert_eq!(schedule.next(), ms(3_000), "a newer reason waits until a second has passed");
    }

    #[test]
    fn failures_wait_longer_and_longer_up_to_half_a_minute() {
        let mut schedule = RefreshSchedule::new(ms(0));
        let mut rng = Rng::with_seed(1);
        let mut now = ms(0);
        for expected in [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            assert!(schedule.take_due(now));
            let wait = schedule.failed(now, true, &mut rng).unwrap();
            let expected = Duration::from_millis(expected);
            assert!(expected / 2 <= wait && wait <= expected, "{wait:?} of {expected:?}");
            schedule.request(now, now);
            assert_eq!(schedule.next(), now + wait, "new reasons do not shorten the wait");
            now = now + wait;
        }
        schedule.expedite(now);
        assert_eq!(schedule.next(), now, "the service answers again");
        assert!(schedule.take_due(now));
        schedule.failed(now, false, &mut rng).unwrap();
        let next = schedule.next();
        schedule.expedite(now);
        assert_eq!(schedule.next(), next, "what was refused is not asked for again and again");
        now = next;
        assert!(schedule.take_due(now) && schedule.succeeded());
        schedule.request_after_backoff(now, &mut rng);
        assert!(schedule.next() >= now + BACKOFF_MAX / 2, "an answer that is not good enough ends no backoff");
        now = schedule.next();
        assert!(schedule.take_due(now) && schedule.succeeded());
        schedule.settle();
        schedule.request_after_backoff(now, &mut rng);
        assert!(schedule.next() <= now + BACKOFF_MIN, "one that is does");
    }
}
