//! The subject's questions, and what the world answers.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use kpl_core::{Instant, ListShardsRequest, Reply};
use kpl_emulator::api::PutRecordsEntry;

use super::{Event, MISLED_FOR, REQUEST_TIMEOUT, World};
use crate::network::{self, Fate, Garbled};
use crate::options::ms;
use crate::oracle::Broken;
use crate::subject::Answer;
use crate::trace::note;

/// What becomes of a request that the service has got.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    Http500 { stored: bool, back: Duration },
    Served { back: Option<Duration>, garbled: Option<Garbled> },
}

#[derive(Debug)]
pub(super) enum Question {
    Put { sent: Instant, stream: usize, records: Vec<PutRecordsEntry> },
    List { request: ListShardsRequest, incarnation: u32 },
    Describe { stream: Arc<str> },
}

impl World<'_, '_> {
    /// Decides at once what will become of a request.
    pub(super) fn send(&mut self, id: u64, stream: &str, records: Vec<PutRecordsEntry>) -> Result<(), Broken> {
        let stream = self.service.index_of(stream);
        note!(self.trace, self.now, "request {} takes {} Kinesis records to s{}", id, records.len(), stream);
        let service = &self.service;
        self.oracle.sent(self.now, stream, &records, &|| service.open_shards(stream))?;
        let c = &mut self.choices;
        let fate = if self.healed { Fate::HEALED } else { Fate::choose(&self.options.network, c) };
        let panics = !self.healed && c.chance(self.options.callers.panics);
        let arrives = |there, then| (self.now + there, Event::Arrives { id, stream, records: records.clone(), then });
        match fate {
            Fate::NotSent { after } => {
                let answer = Answer::Put(Reply::Failed(network::not_sent()));
                self.calendar.put_down(self.now + after, Event::Answered(id, answer));
            }
            Fate::Lost => {}
            Fate::Http500 { there, stored, back } => {
                let (at, event) = arrives(there, Then::Http500 { stored, back });
                self.calendar.put_down(at, event);
            }
            Fate::Served { there, back, garbled } => {
                let (at, event) = arrives(there, Then::Served { back, garbled });
                self.calendar.put_down(at, event);
            }
        }
        // Whatever else happens, the driver's time-out comes.
        self.calendar.put_down(self.now + REQUEST_TIMEOUT, Event::TimeOut(id));
        if panics {
            let after = c.up_to(ms(100));
            self.calendar.put_down(self.now + after, Event::Answered(id, Answer::Panic));
        }
        self.questions.insert(id, Question::Put { sent: self.now, stream, records });
        Ok(())
    }

    /// A request reaches the service.
    pub(super) fn arrive(&mut self, id: u64, stream: usize, records: Vec<PutRecordsEntry>, then: Then) {
        let Stored { back, reply } = match then {
            Then::Http500 { stored, back } => {
                if stored {
                    self.store(stream, records);
                }
                Stored { back: Some(back), reply: Reply::Failed(network::http_500()) }
            }
            Then::Served { back, garbled } => {
                let mut reply = match self.service.refusal(&mut self.choices) {
                    Some(refusal) => Reply::Failed(refusal),
                    None => self.store(stream, records),
                };
                if let Some(garbled) = garbled.filter(|_| matches!(reply, Reply::Records(_))) {
                    garbled.apply(&mut reply);
                    self.oracle.facts.miscounted = true;
                    if let Some(Question::Put { records, .. }) = self.questions.get(&id) {
                        self.oracle.disturbed(records);
                    }
                }
                Stored { back, reply }
            }
        };
        note!(self.trace, self.now, "request {} arrives: {}", id, Brief(&reply));
        if let Some(back) = back {
            self.calendar.put_down(self.now + back, Event::Answered(id, Answer::Put(reply)));
        }
    }

    fn store(&mut self, stream: usize, records: Vec<PutRecordsEntry>) -> Reply {
        let incarnation = self.service.streams[stream].incarnation;
        let (known, since) = self.shards_of[stream];
        // What was packed by the shards of its predecessor may be on its way for a while.
        if incarnation > 1 && (known != incarnation || self.now < since + MISLED_FOR) {
            self.oracle.misled(&records);
        }
        let name = self.service.streams[stream].name.clone();
        self.service.put_records(self.now, &name, records)
    }

    pub(super) fn answer(&mut self, id: u64, answer: Answer) {
        let Some(question) = self.questions.remove(&id) else { return };
        match (&question, &answer) {
            (Question::Put { sent, stream, records }, Answer::Put(reply)) => {
                note!(self.trace, self.now, "request {} is answered: {}", id, Brief(reply));
                match reply {
                    Reply::Records(results) => {
                        for code in results.iter().filter_map(|result| result.error_code.as_ref()) {
                            self.oracle.error(*stream, code);
                        }
                    }
                    Reply::Failed(error) => {
                        self.oracle.error(*stream, &error.code);
                        if error.delivery == kpl_core::Delivery::Unanswered {
                            self.oracle.disturbed(records);
                        }
                    }
                    _ => {}
                }
                self.oracle.answered(self.now, *sent);
            }
            (Question::Put { sent, records, .. }, _) => {
                note!(self.trace, self.now, "request {} ends by a panic", id);
                self.oracle.disturbed(records);
                self.oracle.answered(self.now, *sent);
            }
            (Question::List { request, incarnation }, Answer::List(reply)) => {
                let stream = self.service.index_of(&request.stream);
                let listed = reply.as_ref().map_or(0, |page| page.shards.len());
                note!(self.trace, self.now, "{} shards of s{} are listed", listed, stream);
                if reply.is_ok() && self.shards_of[stream].0 != *incarnation {
                    self.shards_of[stream] = (*incarnation, self.now);
                }
                match reply {
                    Ok(page) if page.next_token.is_some() => {}
                    reply => self.oracle.list_answered(self.now, stream, reply),
                }
            }
            (Question::Describe { stream }, answer) => {
                let well = matches!(answer, Answer::Describe(Ok(_)));
                let stream = self.service.index_of(stream);
                note!(self.trace, self.now, "s{} is described: {}", stream, well);
                self.oracle.described(self.now, stream);
            }
            (Question::List { .. }, _) => {}
        }
        self.subject.answer(id, answer);
    }

    pub(super) fn time_out(&mut self, id: u64) {
        let answer = match self.questions.get(&id) {
            Some(Question::Put { .. }) => Answer::Put(Reply::Failed(network::time_out())),
            Some(Question::List { .. }) => Answer::List(Err(network::time_out())),
            Some(Question::Describe { .. }) => Answer::Describe(Err(network::time_out())),
            None => return,
        };
        self.answer(id, answer);
    }

    pub(super) fn list_shards(&mut self, id: u64, request: ListShardsRequest) -> Result<(), Broken> {
        let stream = self.service.index_of(&request.stream);
        note!(self.trace, self.now, "the shards of s{} are asked for", stream);
        self.oracle.asked_for_shards(self.now, stream, request.next_token.is_none())?;
        let reply = self.service.list_shards(self.now, &request, &mut self.choices);
        let late = if self.healed { Duration::ZERO } else { self.options.service.list_late };
        self.answer_later(id, late, Answer::List(reply));
        let incarnation = self.service.streams[stream].incarnation;
        self.questions.insert(id, Question::List { request, incarnation });
        Ok(())
    }

    pub(super) fn describe(&mut self, id: u64, stream: Arc<str>) -> Result<(), Broken> {
        let index = self.service.index_of(&stream);
        note!(self.trace, self.now, "s{} is to be described", index);
        self.oracle.asked_for_summary(self.now, index)?;
        let reply = self.service.describe(self.now, &stream, &mut self.choices);
        self.answer_later(id, Duration::ZERO, Answer::Describe(reply));
        self.questions.insert(id, Question::Describe { stream });
        Ok(())
    }

    fn answer_later(&mut self, id: u64, late: Duration, answer: Answer) {
        self.calendar.put_down(self.now + REQUEST_TIMEOUT, Event::TimeOut(id));
        if self.is_out() {
            return;
        }
        let delay = if self.healed { ms(10) } else { network::latency(&self.options.network, &mut self.choices) * 2 };
        self.calendar.put_down(self.now + delay + late, Event::Answered(id, answer));
    }

    pub(super) fn is_out(&self) -> bool {
        !self.healed && self.now < self.out_until
    }
}

struct Stored {
    back: Option<Duration>,
    reply: Reply,
}

/// A reply in short.
struct Brief<'a>(&'a Reply);

impl Hash for Brief<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.0 {
            Reply::Records(records) => {
                records.iter().for_each(|record| record.sequence_number.is_some().hash(state));
            }
            Reply::Failed(error) => error.code.hash(state),
            _ => {}
        }
    }
}

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Reply::Records(records) => {
                let stored = records.iter().filter(|record| record.sequence_number.is_some()).count();
                write!(f, "{stored} of {} stored", records.len())
            }
            Reply::Failed(error) => write!(f, "{error}"),
            other => write!(f, "{other:?}"),
        }
    }
}
