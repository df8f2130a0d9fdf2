//! The streams of a producer, by name and by number.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::HashMap;
use slab::Slab;

use crate::context::Context;
use crate::metrics::{MetricsSnapshot, MetricsWindow, StreamMetrics};
use crate::stream::Stream;
use crate::time::Instant;

/// The streams with recent puts. A stream that is idle for a long time is [retired](Self::retire), which frees its
/// memory. The next put creates it again.
#[derive(Debug)]
pub(crate) struct Streams<T> {
    streams: Slab<Box<Stream<T>>>,
    by_name: HashMap<Arc<str>, u32>,
    /// The number of the stream of the last put.
    last_put: u32,
    /// The metrics of retired streams that are not exported yet.
    unreported: BTreeMap<Arc<str>, Box<StreamMetrics>>,
    /// The sum of the metrics of all other retired streams.
    retired: Option<Box<StreamMetrics>>,
}

impl<T> Default for Streams<T> {
    fn default() -> Self {
        Self { streams: Slab::new(), by_name: HashMap::new(), last_put: 0, unreported: BTreeMap::new(), retired: None }
    }
}

impl<T> Streams<T> {
    /// Returns the number of the stream with this name, if it exists.
    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// Returns the number of the stream with this name, and whether this call created it.
    pub(crate) fn find_or_create(&mut self, now: Instant, name: &Arc<str>, context: &mut Context<T>) -> (u32, bool) {
        // Most puts are for the same stream as the put before.
        if self.streams.get(self.last_put as usize).is_some_and(|stream| stream.name() == name) {
            return (self.last_put, false);
        }
        if let Some(&number) = self.by_name.get(name) {
            self.last_put = number;
            return (number, false);
        }
        let metrics = self.unreported.remove(name);
        let number = self.streams.insert(Box::new(Stream::new(now, name.clone(), metrics, context))) as u32;
        self.by_name.insert(name.clone(), number);
        (number, true)
    }

    pub(crate) fn get(&self, number: u32) -> &Stream<T> {
        &self.streams[number as usize]
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> &mut Stream<T> {
        &mut self.streams[number as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.streams.len()
    }

    pub(crate) fn contains(&self, number: u32) -> bool {
        self.streams.contains(number as usize)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream<T>> {
        self.streams.iter_mut().map(|(_, stream)| &mut **stream)
    }

    /// Returns the numbers of all streams.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        self.streams.iter().map(|(number, _)| number as u32).collect()
    }

    /// Frees a stream. Its metrics are kept until the next export, then only as part of the sum of all streams.
    pub(crate) fn retire(&mut self, number: u32) {
        let stream = self.streams.remove(number as usize);
        self.by_name.remove(stream.name());
        let name = stream.name().clone();
        if let Some(metrics) = stream.into_metrics() {
            if metrics.is_dirty() {
                self.unreported.insert(name, metrics);
            } else {
                self.absorb(*metrics);
            }
        }
    }

    /// Adds the observations since the last export to `snapshot`.
    pub(crate) fn report_metrics(&mut self, now: Instant, snapshot: &mut MetricsSnapshot) {
        for (name, mut metrics) in core::mem::take(&mut self.unreported) {
            snapshot.report(now, &name, &mut metrics);
            self.absorb(*metrics);
        }
        for stream in self.iter_mut() {
            stream.report_metrics(now, snapshot);
        }
    }

    /// Adds the observations in `window` to `snapshot`.
    pub(crate) fn read_metrics(&mut self, now: Instant, window: MetricsWindow, snapshot: &mut MetricsSnapshot) {
        for stream in self.iter_mut() {
            stream.snapshot_metrics(now, snapshot, window);
        }
        for (name, metrics) in &mut self.unreported {
            snapshot.look(now, Some(name), metrics, window);
        }
        if let Some(metrics) = self.retired.as_deref_mut() {
            snapshot.look(now, None, metrics, window);
        }
    }

    fn absorb(&mut self, metrics: StreamMetrics) {
        match &mut self.retired {
            Some(retired) => retired.absorb(&metrics),
            None => {
                let mut retired = metrics.empty();
                retired.absorb(&metrics);
                self.retired = Some(Box::new(retired));
            }
        }
    }
}
