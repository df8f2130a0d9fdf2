//! Puts lines into the producer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use kpl_tokio::{Outcome, Producer, PutError, UserRecord, code};
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

/// A line after its put.
#[derive(Debug)]
pub(crate) enum PutLine {
    InFlight(InFlight),
    Refused(Box<Refused>),
}

/// A line that the producer has accepted.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) place: Place,
    pub(crate) outcome: Outcome,
    /// The time of the put.
    pub(crate) put_at: Instant,
    /// Identifies the line when it is read back; 0 without `--verify`.
    pub(crate) fingerprint: u128,
}

/// A line that cannot be put.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) place: Place,
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
    sender: mpsc::Sender<Vec<PutLine>>,
    batch: Vec<PutLine>,
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
    ) -> (Self, mpsc::Receiver<Vec<PutLine>>) {
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
                for line in lines {
                    let place = Place { source: line.source, number: line.number };
                    let line = self.put_line(place, line).await;
                    self.batch.push(line);
                    self.last = Some(place);
                }
                self.send_batch().await;
            }
            Input::Batch(Err(error)) => self.errors.push(error),
            Input::End => self.ended = true,
        }
    }

    async fn put_line(&self, place: Place, line: Line) -> PutLine {
        let refused = |code, message, partition_key, data| {
            self.progress.refused.fetch_add(1, Ordering::Relaxed);
            PutLine::Refused(Box::new(Refused { place, code, message, partition_key, data }))
        };
        let data = match line.content {
            Content::Data(data) => data,
            Content::TooLong { bytes } => {
                let limit = kpl_core::limits::RECORD_SIZE_MAX;
                let message = format!("the line has {bytes} bytes, but the limit is {limit}");
                return refused(code::RECORD_TOO_LARGE, message, None, Err(bytes));
            }
        };
        let partition_key = match self.keys.key(&data) {
            Ok(key) => key,
            Err(message) => return refused("No Key", message, None, Ok(data)),
        };
        let fingerprint = if self.fingerprints { fingerprint(&partition_key, &data) } else { 0 };
        match self.producer.put_record(UserRecord::new(self.stream.clone(), partition_key, data)).await {
            Ok(outcome) => PutLine::InFlight(InFlight { place, outcome, put_at: Instant::now(), fingerprint }),
            Err(error) => {
                let code = if matches!(error, PutError::Closed { .. }) { code::CLOSED } else { "Invalid Record" };
                let message = error.to_string();
                let UserRecord { partition_key, data, .. } = error.into_record();
                refused(code, message, Some(partition_key), Ok(data))
            }
        }
    }

    async fn send_batch(&mut self) {
        // Reserves first, so that a drop while this waits loses nothing. The collector ends after the feeder.
        if let Ok(permit) = self.sender.reserve().await {
            permit.send(std::mem::take(&mut self.batch));
        }
    }
}
