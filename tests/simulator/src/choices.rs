//! The source of the choices of a run.

use std::ops::RangeInclusive;
use std::time::Duration;

use arbitrary::Unstructured;
use arbitrary::unstructured::Int;
use fastrand::Rng;

/// Choices made from bytes, a seed's or a fuzzer's. After the last byte, no more faults happen.
#[derive(Debug)]
pub(crate) struct Choices<'u, 'b> {
    u: &'u mut Unstructured<'b>,
}

impl<'u, 'b> Choices<'u, 'b> {
    pub(crate) fn new(u: &'u mut Unstructured<'b>) -> Self {
        Self { u }
    }

    /// Returns whether the bytes are used up. Every choice is then the first possibility.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.u.is_empty()
    }

    /// Returns the number of bytes that are left.
    pub(crate) fn bytes_left(&self) -> usize {
        self.u.len()
    }

    /// Returns true in `of_256` of 256 cases.
    pub(crate) fn chance(&mut self, of_256: u8) -> bool {
        of_256 > 0 && !self.is_exhausted() && self.u.arbitrary::<u8>().is_ok_and(|byte| byte < of_256)
    }

    pub(crate) fn int<N: Int>(&mut self, range: RangeInclusive<N>) -> N {
        let min = *range.start();
        self.u.int_in_range(range).unwrap_or(min)
    }

    pub(crate) fn pick<V: Copy>(&mut self, of: &[V]) -> V {
        of[self.int(0..=of.len() - 1)]
    }

    pub(crate) fn up_to(&mut self, max: Duration) -> Duration {
        Duration::from_micros(self.int(0..=max.as_micros() as u64))
    }

    /// Returns a random number generator, for choices that are too small and too many to use bytes each.
    pub(crate) fn rng(&mut self) -> Rng {
        Rng::with_seed(self.int(0..=u64::from(u32::MAX)))
    }
}
