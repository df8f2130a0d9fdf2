//! Sends records that wait only for others, while the producer is full.

use super::Producer;
use crate::stream::RELEASE_INTERVAL;
use crate::time::Instant;

/// The last check by [`Producer::send_lingering`], and the reasons for the next one.
#[derive(Clone, Copy, Debug)]
pub(super) struct LingeringCheck {
    at: Instant,
    /// The user records and bytes that had been accepted.
    records_put: u64,
    bytes_put: u64,
    /// Whether anything has changed since then.
    is_stale: bool,
    /// The size of the last record that was refused because the producer was full. `None` if one was accepted since, or
    /// there is room for it.
    refused_size: Option<usize>,
}

impl LingeringCheck {
    pub(super) fn new(now: Instant) -> Self {
        Self { at: now, records_put: 0, bytes_put: 0, is_stale: false, refused_size: None }
    }

    pub(super) fn note_accepted(&mut self) {
        (self.is_stale, self.refused_size) = (true, None);
    }

    /// Records that a put of a record of `size` bytes was refused because the producer is full.
    pub(super) fn note_refused(&mut self, size: usize) {
        self.refused_size = Some(size);
    }
}

impl<T> Producer<T> {
    /// [Sends lingering records](Self::send_lingering) after a put was refused because the producer is full.
    ///
    /// A check takes time for each stream and shard. So while requests are in flight, there is at most one for each quarter
    /// of the limits that was accepted, and for each [`RELEASE_INTERVAL`]; replies cause one, too.
    pub(super) fn send_lingering_for_put(&mut self, now: Instant) {
        let (LingeringCheck { at, records_put, bytes_put, is_stale, .. }, config) =
            (self.lingering_check, &self.context.config);
        let has_accepted_quarter = self.context.stats.user_records_put - records_put
            >= config.max_outstanding_records() as u64 / 4
            || self.bytes_put - bytes_put >= config.max_outstanding_bytes() as u64 / 4;
        let is_nothing_in_flight = self.context.slots.put_records() == 0;
        if is_stale && (is_nothing_in_flight || has_accepted_quarter || now >= at + RELEASE_INTERVAL) {
            self.send_lingering(now);
        }
    }

    /// Sends records that linger, which means that they wait only for others, to share an aggregate or a request with
    /// them: while the producer is full, no others come. Does so if they are half of all that the producer may hold, or
    /// if no request is in flight.
    fn send_lingering(&mut self, now: Instant) {
        let (records_put, bytes_put) = (self.context.stats.user_records_put, self.bytes_put);
        self.lingering_check =
            LingeringCheck { at: now, records_put, bytes_put, is_stale: false, ..self.lingering_check };
        let (mut records, mut bytes) = (0, 0);
        for stream in self.streams.iter_mut() {
            let lingering = stream.lingering();
            (records, bytes) = (records + lingering.0, bytes + lingering.1);
        }
        let config = &self.context.config;
        let is_half = records >= config.max_outstanding_records().div_ceil(2)
            || bytes >= config.max_outstanding_bytes().div_ceil(2);
        if records > 0 && (is_half || self.context.slots.put_records() == 0) {
            for index in self.streams.numbers() {
                self.streams.get_mut(index).stop_lingering(now, &mut self.context);
                self.send(now, index);
            }
        }
    }

    /// [Sends lingering records](Self::send_lingering) after an event, if there is still no room for the last record that
    /// was refused.
    pub(super) fn send_lingering_after_event(&mut self, now: Instant) {
        self.lingering_check.is_stale = true;
        match self.lingering_check.refused_size {
            Some(size) if self.full(size).is_some() => self.send_lingering(now),
            _ => self.lingering_check.refused_size = None,
        }
    }
}
