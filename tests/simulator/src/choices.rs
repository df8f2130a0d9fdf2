//! Where the choices of a run come from.

use std::ops::RangeInclusive;
use std::time::Duration;

use arbitrary::Unstructured;
use arbitrary::unstructured::Int;

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
    pub(crate) fn dice(&mut self) -> Dice {
        Dice::new(self.int(0..=u64::from(u32::MAX)))
    }
}

/// A small seeded generator (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From zero to `most`, inclusive.
    pub(crate) fn up_to(&mut self, most: usize) -> usize {
        ((u128::from(self.next()) * (most as u128 + 1)) >> 64) as usize
    }

    pub(crate) fn chance(&mut self, of_256: u8) -> bool {
        of_256 > 0 && self.up_to(255) < of_256 as usize
    }

    pub(crate) fn next_u128(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }
}
