//! Lines to the producer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use kpl_tokio::{Outcome, Producer, PutError, UserRecord, code};
use tokio::sync::mpsc;

use super::keys::KeySource;
use super::lines::{Batch, Content, Line, ReadError};
use crate::interrupts::Interrupts;
use crate::verify::fingerprint;

/// Where a line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Which of the inputs: an index.
    pub(crate) source: u32,
    /// Counted from 1.
    pub(crate) number: u64,
}

/// A line that has been dealt with.
#[derive(Debug)]
pub(crate) enum Fed {
    InFlight(InFlight),
    Refused(Box<Refused>),
}

/// A line that the producer has taken.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) place: Place,
    pub(crate) outcome: Outcome,
    /// When it was taken.
    pub(crate) put_at: Instant,
    /// By which the line is known again when it is read back; 0 if it is not to be.
    pub(crate) fingerprint: u128,
}

/// A line that can never be put.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) place: Place,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) partition_key: Option<String>,
    /// The line, or its length if it was not kept.
    pub(crate) data: Result<Bytes, u64>,
}

/// What the feeder has come to; the progress looks at it.
#[derive(Debug, Default)]
pub(crate) struct Fill {
    /// Lines that could not be put.
    pub(crate) refused: AtomicU64,
}

/// Puts lines, in order, as fast as the producer takes them.
pub(crate) struct Feeder {
    pub(crate) producer: Producer,
    pub(crate) stream: Arc<str>,
    pub(crate) keys: KeySource,
    pub(crate) fingerprints: bool,
    pub(crate) fill: Arc<Fill>,
    fed: mpsc::Sender<Vec<Fed>>,
    batch: Vec<Fed>,
    last: Option<Place>,
    ended: bool,
    errors: Vec<ReadError>,
}

/// How far the lines were dealt with.
#[derive(Debug)]
pub(crate) struct FedAll {
    /// The last line that was.
    pub(crate) last: Option<Place>,
    /// Whether it was the last one there is.
    pub(crate) ended: bool,
    /// Sources that could not be read to their end.
    pub(crate) errors: Vec<ReadError>,
}

/// Batches between the feeder and the collector. Together with a line's patience there, it bounds memory.
const BATCHES_FED: usize = 4_096;

impl Feeder {
    /// A feeder, and where its lines come out.
    pub(crate) fn new(
        producer: Producer,
        stream: Arc<str>,
        keys: KeySource,
        fingerprints: bool,
    ) -> (Self, mpsc::Receiver<Vec<Fed>>) {
        let (fed, receiver) = mpsc::channel(BATCHES_FED);
        let (fill, batch, last, ended, errors) = <_>::default();
        (Self { producer, stream, keys, fingerprints, fill, fed, batch, last, ended, errors }, receiver)
    }

    /// Puts all lines. After the first Ctrl-C, only those that have been read.
    ///
    /// May be dropped at any time: no line that the producer has taken is lost, see [`finish`](Self::finish).
    pub(crate) async fn feed(
        &mut self,
        mut lines: mpsc::Receiver<Batch>,
        stop: &AtomicBool,
        interrupts: &mut Interrupts,
    ) {
        loop {
            let batch = tokio::select! {
                biased;
                () = interrupts.reached(1) => break,
                batch = lines.recv() => batch,
            };
            let Some(batch) = batch else {
                self.ended = true;
                return;
            };
            self.put(batch).await;
        }
        stop.store(true, Ordering::Relaxed);
        while let Ok(batch) = lines.try_recv() {
            self.put(batch).await;
        }
    }

    /// Hands over what is left.
    pub(crate) async fn finish(mut self) -> FedAll {
        self.hand_over().await;
        let Self { last, ended, errors, .. } = self;
        FedAll { last, ended, errors }
    }

    async fn put(&mut self, batch: Batch) {
        match batch {
            Ok(lines) => {
                for line in lines {
                    let place = Place { source: line.source, number: line.number };
                    let fed = self.put_line(place, line).await;
                    self.batch.push(fed);
                    self.last = Some(place);
                }
                self.hand_over().await;
            }
            Err(error) => self.errors.push(error),
        }
    }

    async fn put_line(&self, place: Place, line: Line) -> Fed {
        let refused = |code, message, partition_key, data| {
            self.fill.refused.fetch_add(1, Ordering::Relaxed);
            Fed::Refused(Box::new(Refused { place, code, message, partition_key, data }))
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
            Ok(outcome) => Fed::InFlight(InFlight { place, outcome, put_at: Instant::now(), fingerprint }),
            Err(error) => {
                let code = if matches!(error, PutError::Closed { .. }) { code::CLOSED } else { "Invalid Record" };
                let message = error.to_string();
                let UserRecord { partition_key, data, .. } = error.into_record();
                refused(code, message, Some(partition_key), Ok(data))
            }
        }
    }

    async fn hand_over(&mut self) {
        // Reserved first, so that a drop while this waits loses nothing. The collector ends after the feeder.
        if let Ok(place) = self.fed.reserve().await {
            place.send(std::mem::take(&mut self.batch));
        }
    }
}
