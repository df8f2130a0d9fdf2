//! A second producer of ours, which puts into the same streams.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use kpl_core::{Config, Instant, UserRecord};

use crate::Level;
use crate::choices::Choices;
use crate::options::{Callers, ms};
use crate::oracle::Broken;
use crate::service::Service;
use crate::subject::{self, Answer, Effect, End, Subject};
use crate::workload::OTHERS;

/// The time from a request to its answer.
pub(crate) const LATENCY: Duration = ms(20);

const PROMISE: &str = "a producer beside another one resolves every record that it accepted";

/// A producer on a network without faults. Its requests are served, paced and throttled as those of the subject are.
pub(crate) struct Companion {
    subject: Box<dyn Subject>,
    puts: u64,
    accepted: u64,
    resolved: u64,
}

impl Companion {
    pub(crate) fn new(config: Config, now: Instant, callers: &Callers, dice: Rng) -> Self {
        Self { subject: subject::make(Level::Core, config, now, callers, dice), puts: 0, accepted: 0, resolved: 0 }
    }

    pub(crate) fn advance(&mut self, now: Instant) {
        self.subject.advance(now);
    }

    pub(crate) fn next_wake(&self) -> Instant {
        self.subject.next_wake()
    }

    /// Puts up to 300 records of a few keys.
    pub(crate) fn put(&mut self, stream: &Arc<str>, dice: &mut Rng) {
        for _ in 0..dice.usize(1..=300) {
            let record = UserRecord::new(stream.clone(), OTHERS, vec![0; dice.usize(0..=3_000)]);
            self.subject.put(self.puts, record.explicit_hash_key(dice.u128(..).to_string()));
            self.puts += 1;
        }
    }

    pub(crate) fn answer(&mut self, id: u64, answer: Answer) {
        self.subject.answer(id, answer);
    }

    pub(crate) fn close(&mut self) {
        self.subject.end(End::Close(Duration::MAX));
    }

    /// Carries out what the producer does, and passes the answers to its requests to `answered`.
    pub(crate) fn settle(
        &mut self,
        now: Instant,
        service: &mut Service,
        choices: &mut Choices<'_, '_>,
        mut answered: impl FnMut(u64, Answer),
    ) {
        self.subject.settle();
        while let Some(effect) = self.subject.effect() {
            match effect {
                Effect::Taken(_) => self.accepted += 1,
                Effect::Resolved(..) => self.resolved += 1,
                Effect::PutRecords { id, stream, records } => {
                    answered(id, Answer::Put(service.put_records(now, &stream, records)));
                }
                Effect::ListShards { id, request } => {
                    answered(id, Answer::List(service.list_shards(now, &request, choices)));
                }
                Effect::DescribeStream { id, stream } => {
                    answered(id, Answer::Describe(service.describe(now, &stream, choices)));
                }
                _ => {}
            }
        }
    }

    /// Nothing is to come any more.
    pub(crate) fn judge(&self) -> Result<(), Broken> {
        if self.resolved == self.accepted {
            return Ok(());
        }
        let how = format!("{} of {} records are resolved", self.resolved, self.accepted);
        Err(Broken { promise: PROMISE, how })
    }
}
