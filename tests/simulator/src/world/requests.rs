//! The subject's requests and the world's responses.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use kpl_core::{Instant, ListShardsRequest, RecordReply, Reply};
use kpl_emulator::api::PutRecordsEntry;

use super::{Event, STALE_SHARDS_MAX, World};
use crate::network::{self, Fate, Garbled};
use crate::options::{REQUEST_TIMEOUT, ms};
use crate::oracle::Broken;
use crate::subject::Response;
use crate::trace::note;

/// The handling of a request that has reached the service.
#[derive(Clone, Copy, Debug)]
pub(super) enum Handling {
    Http500 { stored: bool, reply_delay: Duration },
    Served { reply_delay: Option<Duration>, garbled: Option<Garbled> },
}

#[derive(Debug)]
pub(super) enum Request {
    Put { sent: Instant, stream: usize, records: Vec<PutRecordsEntry> },
    List { request: ListShardsRequest, incarnation: u32 },
    Describe { stream: Arc<str> },
}

impl World<'_, '_> {
    /// Sends a request and chooses its outcome.
    pub(super) fn send(&mut self, id: u64, stream: &str, records: Vec<PutRecordsEntry>) -> Result<(), Broken> {
        let stream = self.service.index_of(stream);
        note!(self.trace, self.now, "request {} with {} Kinesis records is sent to s{}", id, records.len(), stream);
        let service = &self.service;
        self.oracle.sent(self.now, stream, &records, &|| service.open_shards(stream))?;
        let c = &mut self.choices;
        let fate = if self.healed { Fate::HEALED } else { Fate::choose(&self.options.network, c) };
        let panics = !self.healed && c.chance(self.options.callers.panics);
        let arrival =
            |delay, handling| (self.now + delay, Event::Arrival { id, stream, records: records.clone(), handling });
        match fate {
            Fate::NotSent { after } => {
                let response = Response::Put(Reply::Failed(network::not_sent()));
                self.calendar.schedule(self.now + after, Event::Response(id, response));
            }
            Fate::Lost => {}
            Fate::Http500 { request_delay, stored, reply_delay } => {
                let (at, event) = arrival(request_delay, Handling::Http500 { stored, reply_delay });
                self.calendar.schedule(at, event);
            }
            Fate::Served { request_delay, reply_delay, garbled } => {
                let (at, event) = arrival(request_delay, Handling::Served { reply_delay, garbled });
                self.calendar.schedule(at, event);
            }
        }
        // The driver's timeout ends the request if no response does.
        self.calendar.schedule(self.now + REQUEST_TIMEOUT, Event::Timeout(id));
        if panics {
            let after = c.up_to(ms(100));
            self.calendar.schedule(self.now + after, Event::Response(id, Response::Panic));
        }
        self.requests.insert(id, Request::Put { sent: self.now, stream, records });
        Ok(())
    }

    /// Handles a request that reaches the service.
    pub(super) fn handle_arrival(&mut self, id: u64, stream: usize, records: Vec<PutRecordsEntry>, handling: Handling) {
        let (reply_delay, reply) = match handling {
            Handling::Http500 { stored, reply_delay } => {
                if stored {
                    self.store(id, stream, records);
                }
                (Some(reply_delay), Reply::Failed(network::http_500()))
            }
            Handling::Served { reply_delay, garbled } => {
                let mut reply = match self.service.refusal(self.now, stream, &records, &mut self.choices) {
                    Some(refusal) => Reply::Failed(refusal),
                    None => self.store(id, stream, records),
                };
                if let Some(garbled) = garbled.filter(|_| matches!(reply, Reply::Records(_))) {
                    garbled.apply(&mut reply);
                    if let Some(Request::Put { records, .. }) = self.requests.get(&id) {
                        self.oracle.garbled(garbled, &reply, records);
                    }
                }
                (reply_delay, reply)
            }
        };
        note!(self.trace, self.now, "request {} arrives: {}", id, Brief(&reply));
        if let Some(delay) = reply_delay {
            self.calendar.schedule(self.now + delay, Event::Response(id, Response::Put(reply)));
        }
    }

    fn store(&mut self, id: u64, stream: usize, records: Vec<PutRecordsEntry>) -> Reply {
        // The producer has given the request up, and may have sent the records again.
        if !self.requests.contains_key(&id) {
            self.oracle.stored_late(&records);
        }
        let incarnation = self.service.streams[stream].incarnation;
        let (listed, since) = self.listed_incarnations[stream];
        // Aggregates by the old stream's shards may be in flight for a while.
        if incarnation > 1 && (listed != incarnation || self.now < since + STALE_SHARDS_MAX) {
            self.oracle.spans_recreation(&records);
        }
        let name = self.service.streams[stream].name.clone();
        self.service.put_records(self.now, &name, records)
    }

    pub(super) fn handle_response(&mut self, id: u64, response: Response) {
        let Some(request) = self.requests.remove(&id) else { return };
        match (&request, &response) {
            (Request::Put { sent, stream, records }, Response::Put(reply)) => {
                note!(self.trace, self.now, "the reply to request {} arrives: {}", id, Brief(reply));
                match reply {
                    Reply::Records(results) => {
                        let is_stored =
                            |result: &RecordReply| result.sequence_number.as_ref().is_some_and(|n| !n.is_empty());
                        if results.len() == records.len() && results.iter().any(is_stored) {
                            self.oracle.stored(self.now, *stream);
                        }
                        for code in results.iter().filter_map(|result| result.error_code.as_ref()) {
                            self.oracle.error(*stream, code);
                        }
                    }
                    Reply::Failed(error) => {
                        self.oracle.error(*stream, &error.code);
                        if error.delivery == kpl_core::Delivery::Unanswered {
                            self.oracle.unanswered(records);
                        }
                    }
                    _ => {}
                }
                self.oracle.request_ended(self.now, *sent);
            }
            (Request::Put { sent, records, .. }, _) => {
                note!(self.trace, self.now, "the task of request {} panics", id);
                self.oracle.unanswered(records);
                self.oracle.request_ended(self.now, *sent);
            }
            (Request::List { request, incarnation }, Response::List(reply)) => {
                let stream = self.service.index_of(&request.stream);
                let listed = reply.as_ref().map_or(0, |page| page.shards.len());
                note!(self.trace, self.now, "{} shards of s{} are listed", listed, stream);
                match reply {
                    Ok(page) if page.next_token.is_some() => {}
                    reply => {
                        if reply.is_ok() && self.listed_incarnations[stream].0 != *incarnation {
                            self.listed_incarnations[stream] = (*incarnation, self.now);
                        }
                        self.oracle.metadata_ended();
                        self.oracle.list_ended(self.now, stream, reply);
                    }
                }
            }
            (Request::Describe { stream }, response) => {
                let reply = if let Response::Describe(reply) = response { Some(reply) } else { None };
                let stream = self.service.index_of(stream);
                let succeeded = reply.is_some_and(Result::is_ok);
                note!(self.trace, self.now, "the description of s{} arrives: {}", stream, succeeded);
                self.oracle.metadata_ended();
                self.oracle.described(self.now, stream, reply);
            }
            (Request::List { .. }, _) => self.oracle.metadata_ended(),
        }
        self.subject.respond(id, response);
    }

    pub(super) fn handle_timeout(&mut self, id: u64) {
        let response = match self.requests.get(&id) {
            Some(Request::Put { .. }) => Response::Put(Reply::Failed(network::timeout())),
            Some(Request::List { .. }) => Response::List(Err(network::timeout())),
            Some(Request::Describe { .. }) => Response::Describe(Err(network::timeout())),
            None => return,
        };
        self.handle_response(id, response);
    }

    pub(super) fn list_shards(&mut self, id: u64, request: ListShardsRequest) -> Result<(), Broken> {
        let stream = self.service.index_of(&request.stream);
        note!(self.trace, self.now, "the shards of s{} are requested", stream);
        self.oracle.list_requested(self.now, stream, request.next_token.is_none())?;
        let reply = self.service.list_shards(self.now, &request, &mut self.choices);
        let delay = if self.healed { Duration::ZERO } else { self.options.service.list_delay };
        self.schedule_response(id, delay, Response::List(reply));
        // The pages of a list can be from different incarnations: that of the first counts.
        if request.next_token.is_none() {
            self.listing_incarnations[stream] = self.service.streams[stream].incarnation;
        }
        let incarnation = self.listing_incarnations[stream];
        self.requests.insert(id, Request::List { request, incarnation });
        Ok(())
    }

    pub(super) fn describe(&mut self, id: u64, stream: Arc<str>) -> Result<(), Broken> {
        let index = self.service.index_of(&stream);
        note!(self.trace, self.now, "the description of s{} is requested", index);
        self.oracle.description_requested(self.now, index)?;
        let reply = self.service.describe(self.now, &stream, &mut self.choices);
        self.schedule_response(id, Duration::ZERO, Response::Describe(reply));
        self.requests.insert(id, Request::Describe { stream });
        Ok(())
    }

    fn schedule_response(&mut self, id: u64, delay: Duration, response: Response) {
        self.calendar.schedule(self.now + REQUEST_TIMEOUT, Event::Timeout(id));
        if self.has_outage() {
            return;
        }
        let latency = if self.healed { ms(10) } else { network::latency(&self.options.network, &mut self.choices) * 2 };
        self.calendar.schedule(self.now + latency + delay, Event::Response(id, response));
    }

    pub(super) fn has_outage(&self) -> bool {
        !self.healed && self.now < self.outage_until
    }
}

/// A short form of a reply.
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
