//! A second producer of kpl-core that puts into the same streams.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use kpl_core::{Config, Instant, UserRecord};

use crate::Level;
use crate::choices::Choices;
use crate::options::{Callers, ms};
use crate::oracle::{Check, broken};
use crate::service::Service;
use crate::subject::{self, Effect, End, Response, Subject};
use crate::workload::OTHERS;

/// The time from a request to its response.
pub(crate) const LATENCY: Duration = ms(20);

const PROMISE: &str = "a second producer follows its contract and resolves every accepted record";

/// A producer on a network without faults. The service handles its requests as those of the subject, with faults.
pub(crate) struct Companion {
    subject: Box<dyn Subject>,
    puts: u64,
    accepted: u64,
    resolved: u64,
}

impl Companion {
    pub(crate) fn new(config: Config, now: Instant, callers: &Callers, rng: Rng) -> Self {
        Self { subject: subject::make(Level::Core, config, now, callers, rng), puts: 0, accepted: 0, resolved: 0 }
    }

    pub(crate) fn advance(&mut self, now: Instant) {
        self.subject.advance(now);
    }

    pub(crate) fn next_wake(&self) -> Instant {
        self.subject.next_wake()
    }

    /// Puts up to 300 records with random hash keys.
    pub(crate) fn put(&mut self, stream: &Arc<str>, rng: &mut Rng) {
        for _ in 0..rng.usize(1..=300) {
            let record = UserRecord::new(stream.clone(), OTHERS, vec![0; rng.usize(0..=3_000)]);
            self.subject.put(self.puts, record.explicit_hash_key(rng.u128(..).to_string()));
            self.puts += 1;
        }
    }

    pub(crate) fn respond(&mut self, id: u64, response: Response) {
        self.subject.respond(id, response);
    }

    pub(crate) fn close(&mut self) {
        self.subject.end(End::Close(Duration::MAX));
    }

    /// Runs the producer until nothing is due at this time, and passes the responses to its requests to `responded`.
    pub(crate) fn settle(
        &mut self,
        now: Instant,
        service: &mut Service,
        choices: &mut Choices<'_, '_>,
        mut responded: impl FnMut(u64, Response),
    ) -> Check {
        self.subject.settle();
        while let Some(effect) = self.subject.effect() {
            match effect {
                Effect::Accepted(_) => self.accepted += 1,
                Effect::Resolved(..) => self.resolved += 1,
                Effect::PutRecords { id, stream, records } => {
                    responded(id, Response::Put(service.put_records(now, &stream, records)));
                }
                Effect::ListShards { id, request } => {
                    responded(id, Response::List(service.list_shards(now, &request, choices)));
                }
                Effect::DescribeStream { id, stream } => {
                    responded(id, Response::Describe(service.describe(now, &stream, choices)));
                }
                Effect::Broken(how) => return broken!("{how}"),
                _ => {}
            }
        }
        Ok(())
    }

    /// Checks the run as a whole, after the last event.
    pub(crate) fn judge(&self) -> Check {
        if self.resolved == self.accepted {
            return Ok(());
        }
        broken!("{} of {} records are resolved", self.resolved, self.accepted)
    }
}
