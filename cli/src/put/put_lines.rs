//! Puts lines into the producer.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use kpl_tokio::{BatchOutcome, BatchRecord, Producer, PutBatchError, Refusal, code};
use tokio::sync::mpsc;

use super::keys::KeySource;
use super::lines::{Content, Input, Line, ReadError};
use crate::interrupts::Interrupts;
use crate::verify::fingerprint;

/// The position of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The index of the input.
    pub(crate) source: u32,
    /// The line number, from 1.
    pub(crate) number: u64,
}

/// What became of lines that were put.
#[derive(Debug)]
pub(crate) enum PutLines {
    InFlight(InFlight),
    Refused(Box<Refused>),
}

/// Lines that the producer has accepted together.
#[derive(Debug)]
pub(crate) struct InFlight {
    /// The lines, in the order of the results.
    pub(crate) lines: Vec<SentLine>,
    pub(crate) outcome: BatchOutcome,
    /// The time of the put.
    pub(crate) put_at: Instant,
}

/// A line that the producer has accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SentLine {
    pub(crate) place: Place,
    /// Identifies the line when it is read back; 0 without `--verify`.
    pub(crate) fingerprint: u128,
}

/// A line that cannot be put.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) place: Place,
    pub(crate) reason: Reason,
}

/// Why a line cannot be put.
#[derive(Debug)]
pub(crate) struct Reason {
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) partition_key: Option<String>,
    /// The line, or its length if it was not kept.
    pub(crate) data: Result<Bytes, u64>,
}

/// Counts of the feeder for the progress.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The number of refused lines.
    pub(crate) refused: AtomicU64,
}

/// Puts lines, in order, as fast as the producer accepts them.
pub(crate) struct Feeder {
    pub(crate) producer: Producer,
    pub(crate) stream: Arc<str>,
    pub(crate) keys: KeySource,
    pub(crate) fingerprints: bool,
    pub(crate) progress: Arc<Progress>,
    sender: mpsc::Sender<Vec<PutLines>>,
    batch: Vec<PutLines>,
    last: Option<Place>,
    ended: bool,
    errors: Vec<ReadError>,
}

/// The state of the feeder at its end.
#[derive(Debug)]
pub(crate) struct FeedEnd {
    /// The last line that was put or refused.
    pub(crate) last: Option<Place>,
    /// Whether the end of all sources was reached.
    pub(crate) ended: bool,
    /// The errors of sources that could not be read to their end.
    pub(crate) errors: Vec<ReadError>,
}

/// The capacity, in batches, of the channel to the collector. Bounds memory, with the collector's time limit per line.
const BATCHES_BUFFERED_MAX: usize = 4_096;

impl Feeder {
    /// Returns a feeder, and the receiver of its lines.
    pub(crate) fn new(
        producer: Producer,
        stream: Arc<str>,
        keys: KeySource,
        fingerprints: bool,
    ) -> (Self, mpsc::Receiver<Vec<PutLines>>) {
        let (sender, receiver) = mpsc::channel(BATCHES_BUFFERED_MAX);
        let (progress, batch, last, ended, errors) = <_>::default();
        (Self { producer, stream, keys, fingerprints, progress, sender, batch, last, ended, errors }, receiver)
    }

    /// Puts all lines. After the first signal, puts only those that have been read.
    ///
    /// Cancel safe: no line that the producer has accepted is lost, see [`finish`](Self::finish).
    pub(crate) async fn feed(&mut self, mut lines: mpsc::Receiver<Input>, interrupts: &mut Interrupts) {
        loop {
            let input = tokio::select! {
                biased;
                _ = interrupts.wait_for(1) => break,
                input = lines.recv() => input,
            };
            let Some(input) = input else { return };
            self.put(input).await;
        }
        lines.close();
        while let Some(input) = lines.recv().await {
            self.put(input).await;
        }
    }

    /// Sends the remaining lines to the collector.
    pub(crate) async fn finish(mut self) -> FeedEnd {
        self.send_batch().await;
        let Self { last, ended, errors, .. } = self;
        FeedEnd { last, ended, errors }
    }

    async fn put(&mut self, input: Input) {
        match input {
            Input::Batch(Ok(lines)) => {
                self.put_lines(lines).await;
                self.send_batch().await;
            }
            Input::Batch(Err(error)) => self.errors.push(error),
            Input::End => self.ended = true,
        }
    }

    async fn put_lines(&mut self, lines: Vec<Line>) {
        let (mut sent, mut records) = (VecDeque::with_capacity(lines.len()), Vec::with_capacity(lines.len()));
        for line in lines {
            let place = Place { source: line.source, number: line.number };
            match self.record(line.content) {
                Ok(record) => {
                    let BatchRecord { partition_key, data, .. } = &record;
                    let fingerprint = if self.fingerprints { fingerprint(partition_key, data) } else { 0 };
                    sent.push_back(SentLine { place, fingerprint });
                    records.push(record);
                }
                Err(reason) => {
                    // The lines before it come first.
                    self.put_records(mem::take(&mut sent), mem::take(&mut records)).await;
                    self.refuse(place, reason);
                }
            }
        }
        self.put_records(sent, records).await;
    }

    /// Returns the record of a line.
    fn record(&self, line: Content) -> Result<BatchRecord, Reason> {
        let data = match line {
            Content::Data(data) => data,
            Content::TooLong { bytes } => {
                let limit = kpl_core::limits::RECORD_SIZE_MAX;
                let message = format!("the line has {bytes} bytes, but the limit is {limit}");
                return Err(Reason { code: code::RECORD_TOO_LARGE, message, partition_key: None, data: Err(bytes) });
            }
        };
        match self.keys.key(&data) {
            Ok(partition_key) => Ok(BatchRecord::new(partition_key, data)),
            Err(message) => Err(Reason { code: "No Key", message, partition_key: None, data: Ok(data) }),
        }
    }

    /// Puts records. Only one of them waits for room at a time, so that all others have their outcome in `self.batch`
    /// if this is dropped.
    async fn put_records(&mut self, mut lines: VecDeque<SentLine>, mut records: Vec<BatchRecord>) {
        while !records.is_empty() {
            let put = self.producer.try_put_batch(self.stream.clone(), records);
            let (accepted, refused) = match put {
                Ok(outcome) => (outcome, None),
                Err(PutBatchError { accepted, refusal, index, rest, .. }) => (accepted, Some((refusal, index, rest))),
            };
            // If a record is invalid by itself, those before it were not put either.
            let position = |index: usize| index - accepted.len();
            let refused = refused.map(|(refusal, index, rest)| (refusal, position(index), rest));
            self.push_accepted(&mut lines, accepted);
            let Some((refusal, position, rest)) = refused else { return };
            records = rest;
            let record = records.remove(position);
            let Some(line) = lines.remove(position) else { return };
            let refusal = match refusal {
                Refusal::Full(_) => {
                    let put = self.producer.put_batch(self.stream.clone(), [record]).await;
                    match put {
                        Ok(outcome) => {
                            self.push_accepted(&mut VecDeque::from([line]), outcome);
                            continue;
                        }
                        Err(mut error) => (error.refusal, error.rest.pop()),
                    }
                }
                refusal => (refusal, Some(record)),
            };
            let (refusal, Some(record)) = refusal else { return };
            let code = if refusal == Refusal::Closed { code::CLOSED } else { "Invalid Record" };
            let BatchRecord { partition_key, data, .. } = record;
            let (message, partition_key) = (refusal.to_string(), Some(partition_key));
            self.refuse(line.place, Reason { code, message, partition_key, data: Ok(data) });
        }
    }

    /// Keeps the outcome of the first of `lines`, which were accepted.
    fn push_accepted(&mut self, lines: &mut VecDeque<SentLine>, outcome: BatchOutcome) {
        let lines: Vec<SentLine> = lines.drain(..outcome.len()).collect();
        if let Some(last) = lines.last() {
            self.last = Some(last.place);
            self.batch.push(PutLines::InFlight(InFlight { lines, outcome, put_at: Instant::now() }));
        }
    }

    fn refuse(&mut self, place: Place, reason: Reason) {
        self.progress.refused.fetch_add(1, Ordering::Relaxed);
        self.last = Some(place);
        self.batch.push(PutLines::Refused(Box::new(Refused { place, reason })));
    }

    async fn send_batch(&mut self) {
        // Reserves first, so that a drop while this waits loses nothing. The collector ends after the feeder.
        if let Ok(permit) = self.sender.reserve().await {
            permit.send(mem::take(&mut self.batch));
        }
    }
}
