//! Jitter: a small generator (SplitMix64), seeded by the config, so that a run can be repeated.

use core::time::Duration;

use crate::time::nanos;

#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A duration between zero and `most`: full jitter.
    pub(crate) fn up_to(&mut self, most: Duration) -> Duration {
        Duration::from_nanos(((u128::from(self.next()) * u128::from(nanos(most))) >> 64) as u64)
    }
}
