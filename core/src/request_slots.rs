//! The limit on requests in flight, which PutRecords and metadata requests share.

use crate::config::Config;

/// The numbers of requests in flight. Each takes a slot when it is sent, and frees it when its reply is handled.
#[derive(Debug)]
pub(crate) struct RequestSlots {
    max: usize,
    put_records: usize,
    metadata: usize,
}

impl RequestSlots {
    pub(crate) fn new(config: &Config) -> Self {
        Self { max: config.max_in_flight_requests(), put_records: 0, metadata: 0 }
    }

    /// Returns the number of PutRecords requests in flight.
    pub(crate) fn put_records(&self) -> usize {
        self.put_records
    }

    /// Whether another PutRecords request may be sent.
    pub(crate) fn has_free_for_records(&self) -> bool {
        self.put_records < self.max && self.has_free()
    }

    pub(crate) fn take_for_records(&mut self) {
        self.put_records += 1;
    }

    pub(crate) fn free_of_records(&mut self) {
        self.put_records -= 1;
    }

    /// Whether another metadata request may be sent. They take at most half of the slots: slow ones, or those of many
    /// new streams, must not stop the records.
    pub(crate) fn has_free_for_metadata(&self) -> bool {
        self.metadata < (self.max / 2).max(1) && self.has_free()
    }

    pub(crate) fn take_for_metadata(&mut self) {
        self.metadata += 1;
    }

    pub(crate) fn free_of_metadata(&mut self) {
        self.metadata -= 1;
    }

    /// A limit of one is one of each kind.
    fn has_free(&self) -> bool {
        self.put_records + self.metadata < self.max.max(2)
    }
}
