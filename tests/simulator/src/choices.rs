//! Where the choices of a run come from.

use std::ops::RangeInclusive;
use std::time::Duration;

use arbitrary::Unstructured;
use arbitrary::unstructured::Int;
use fastrand::Rng;

/// Choices made by bytes: a seed's, or a fuzzer's. When the bytes are used up, nothing more goes wrong.
#[derive(Debug)]
pub(crate) struct Choices<'u, 'b> {
    u: &'u mut Unstructured<'b>,
}

impl<'u, 'b> Choices<'u, 'b> {
    pub(crate) fn new(u: &'u mut Unstructured<'b>) -> Self {
        Self { u }
    }

    /// Whether the bytes are used up: from then on the first of all possibilities is chosen.
    pub(crate) fn are_over(&self) -> bool {
        self.u.is_empty()
    }

    /// How much there is to choose by.
    pub(crate) fn bytes_left(&self) -> usize {
        self.u.len()
    }

    /// True in so many of 256 cases.
    pub(crate) fn chance(&mut self, of_256: u8) -> bool {
        of_256 > 0 && !self.are_over() && self.u.arbitrary::<u8>().is_ok_and(|byte| byte < of_256)
    }

    pub(crate) fn int<N: Int>(&mut self, range: RangeInclusive<N>) -> N {
        let least = *range.start();
        self.u.int_in_range(range).unwrap_or(least)
    }

    pub(crate) fn pick<V: Copy>(&mut self, of: &[V]) -> V {
        of[self.int(0..=of.len() - 1)]
    }

    pub(crate) fn up_to(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.int(0..=most.as_micros() as u64))
    }

    /// A generator for the many small things that are not worth bytes of their own.
    pub(crate) fn dice(&mut self) -> Rng {
        Rng::with_seed(self.int(0..=u64::from(u32::MAX)))
    }
}
