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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_splitmix64() {
        // The reference implementation's (<https://prng.di.unimi.it/splitmix64.c>) from seed 1234567.
        let mut rng = Rng::new(1_234_567);
        let numbers = [rng.next(), rng.next(), rng.next()];
        assert_eq!(numbers, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn jitter_is_spread_from_nothing_to_the_most() {
        let (mut rng, most) = (Rng::new(1), Duration::from_secs(8));
        let mut eighths = [0; 8];
        for _ in 0..8_000 {
            let jitter = rng.up_to(most);
            assert!(jitter < most);
            eighths[jitter.as_secs() as usize] += 1;
        }
        assert!(eighths.iter().all(|count| (800..1_200).contains(count)), "{eighths:?}");
        assert_eq!(rng.up_to(Duration::ZERO), Duration::ZERO);
    }
}
