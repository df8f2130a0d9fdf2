//! A small seeded generator (SplitMix64): the same seed, the same faults.

use std::time::Duration;

#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
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

    /// True in `rate` of the cases. Draws nothing for a rate of 0, so that switching a fault off changes no other.
    pub(crate) fn happens(&mut self, rate: f64) -> bool {
        rate > 0.0 && (self.next() >> 11) as f64 / (1_u64 << 53) as f64 <= rate
    }

    pub(crate) fn up_to(&mut self, most: Duration) -> Duration {
        if most.is_zero() {
            return most;
        }
        most.mul_f64((self.next() >> 11) as f64 / (1_u64 << 53) as f64)
    }
}
