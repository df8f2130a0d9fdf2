//! Puts lines into the producer.

use std::collections::VecDeque;
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use kpl_tokio::{BatchOutcome, BatchRecord, Producer, PutBatchError, Refusal, code};
use tokio::sync::{Notify, mpsc};

use super::keys::KeySource;
use super::lines::{Batch, Content, Input, Position, ReadError};
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
    pub(crate) lines: SentLines,
    pub(crate) outcome: BatchOutcome,
    /// The time of the put.
    pub(crate) put_at: Instant,
}

/// Lines of a source, in the order of the results.
#[derive(Debug)]
pub(crate) struct SentLines {
    /// The index of the source.
    pub(crate) source: u32,
    /// The position of the first line.
    pub(crate) start: Position,
    pub(crate) lines: Vec<SentLine>,
    /// For each line, what identifies it when it is read back. Empty without `--verify`.
    pub(crate) fingerprints: Vec<u128>,
}

/// A line that the producer has accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SentLine {
    /// The line number, from 1.
    pub(crate) number: u64,
    /// The position after it.
    pub(crate) end: Position,
}

/// A line that cannot be put.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) place: Place,
    /// The positions before and after it.
    pub(crate) range: (Position, Position),
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

    /// Puts all lines. After the first signal, puts only those that have been read; after a stop, no further ones.
    ///
    /// Cancel safe: no line that the producer has accepted is lost, see [`finish`](Self::finish).
    pub(crate) async fn feed(&mut self, mut lines: mpsc::Receiver<Input>, interrupts: &mut Interrupts, stop: &Notify) {
        let mut stopped = pin!(stop.notified());
        loop {
            let input = tokio::select! {
                biased;
                () = &mut stopped => return,
                _ = interrupts.wait_for(1) => break,
                input = lines.recv() => input,
            };
            let Some(input) = input else { return };
            tokio::select! {
                biased;
                // Nothing may get through any more: then the lines that wait for room wait for ever.
                () = &mut stopped => return,
                () = self.put(input) => {}
            }
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
            Input::Batch(batch) => {
                self.put_lines(batch).await;
                self.send_batch().await;
            }
            Input::Error(error) => self.errors.push(error),
            Input::End => self.ended = true,
        }
    }

    async fn put_lines(&mut self, Batch { source, start, lines }: Batch) {
        let mut waiting = Waiting::with_capacity(source, start, lines.len());
        let mut before = start;
        for line in lines {
            let range = (before, line.end);
            before = line.end;
            let number = range.0.line + 1;
            match self.record(line.content) {
                Ok(record) => {
                    let BatchRecord { partition_key, data, .. } = &record;
                    let fingerprint = if self.fingerprints { fingerprint(partition_key, data) } else { 0 };
                    waiting.lines.push_back((SentLine { number, end: line.end }, fingerprint));
                    waiting.records.push(record);
                }
                Err(reason) => {
                    // The lines before it come first.
                    self.put_records(mem::replace(&mut waiting, Waiting::with_capacity(source, line.end, 0))).await;
                    self.refuse(Place { source, number }, range, reason);
                }
            }
        }
        self.put_records(waiting).await;
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
    async fn put_records(&mut self, waiting: Waiting) {
        let Waiting { source, mut start, mut lines, mut records } = waiting;
        while !records.is_empty() {
            let put = self.producer.try_put_batch(self.stream.clone(), records);
            let (accepted, refused) = match put {
                Ok(outcome) => (outcome, None),
                Err(PutBatchError { accepted, refusal, index, rest, .. }) => (accepted, Some((refusal, index, rest))),
            };
            // If a record is invalid by itself, those before it were not put either.
            let position = |index: usize| index - accepted.len();
            let refused = refused.map(|(refusal, index, rest)| (refusal, position(index), rest));
            start = self.push_accepted(source, start, &mut lines, accepted);
            let Some((refusal, position, rest)) = refused else { return };
            records = rest;
            let record = records.remove(position);
            let before = if position == 0 { start } else { lines[position - 1].0.end };
            let Some(line) = lines.remove(position) else { return };
            let refusal = match refusal {
                Refusal::Full(_) => {
                    let put = self.producer.put_batch(self.stream.clone(), [record]).await;
                    match put {
                        Ok(outcome) => {
                            start = self.push_accepted(source, before, &mut [line].into(), outcome);
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
            let reason = Reason { code, message, partition_key, data: Ok(data) };
            let (SentLine { number, end }, _) = line;
            self.refuse(Place { source, number }, (before, end), reason);
            if position == 0 {
                start = end;
            }
        }
    }

    /// Keeps the outcome of the first of `lines`, which were accepted. Returns the position after them.
    fn push_accepted(
        &mut self,
        source: u32,
        start: Position,
        lines: &mut VecDeque<(SentLine, u128)>,
        outcome: BatchOutcome,
    ) -> Position {
        let accepted = lines.drain(..outcome.len());
        let (lines, fingerprints): (Vec<_>, Vec<_>) =
            if self.fingerprints { accepted.unzip() } else { (accepted.map(|(line, _)| line).collect(), Vec::new()) };
        let Some(last) = lines.last().copied() else { return start };
        self.last = Some(Place { source, number: last.number });
        let lines = SentLines { source, start, lines, fingerprints };
        let in_flight = InFlight { lines, outcome, put_at: Instant::now() };
        self.batch.push(PutLines::InFlight(in_flight));
        last.end
    }

    fn refuse(&mut self, place: Place, range: (Position, Position), reason: Reason) {
        self.progress.refused.fetch_add(1, Ordering::Relaxed);
        self.last = Some(place);
        self.batch.push(PutLines::Refused(Box::new(Refused { place, range, reason })));
    }

    async fn send_batch(&mut self) {
        // Reserves first, so that a drop while this waits loses nothing. The collector ends after the feeder.
        if let Ok(permit) = self.sender.reserve().await {
            permit.send(mem::take(&mut self.batch));
        }
    }
}

/// Records that are to be put together, with their lines.
struct Waiting {
    source: u32,
    /// The position of the first line.
    start: Position,
    /// The lines, each with what identifies it when it is read back; 0 without `--verify`.
    lines: VecDeque<(SentLine, u128)>,
    records: Vec<BatchRecord>,
}

impl Waiting {
    fn with_capacity(source: u32, start: Position, count: usize) -> Self {
        Self { source, start, lines: VecDeque::with_capacity(count), records: Vec::with_capacity(count) }
    }
}
