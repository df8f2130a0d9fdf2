//! Eight lanes in vectors of 256 bits, with the instructions of AVX2 or also those of AVX-512.
//!
//! Intrinsics are safe in functions that enable their CPU features; the calls of such functions from other code are
//! unsafe. There are two such calls, in [`avx512`] and [`avx2`], which check the CPU first.

use core::arch::x86_64::*;

use crate::Block;
use crate::lanes::{Compress, Inputs, State, WIDTH};

cpufeatures::new!(has_avx2, "avx2");
cpufeatures::new!(has_avx512, "avx2", "avx512f", "avx512vl");

/// Returns the implementation for AVX-512, which has rotation, and two logical operations in one instruction. (On Zen
/// 4, one vector of 512 bits is slower than two of 256 bits, and harder to fill.)
#[expect(unsafe_code, reason = "code for CPUs that have AVX-512")]
pub(crate) fn avx512() -> Option<Compress> {
    // SAFETY: the function is returned only if the CPU has the features that it enables.
    has_avx512::get().then_some(|states, inputs| unsafe { with_avx512::compress(states, inputs) })
}

/// Returns the implementation for AVX2.
#[expect(unsafe_code, reason = "code for CPUs that have AVX2")]
pub(crate) fn avx2() -> Option<Compress> {
    // SAFETY: the function is returned only if the CPU has the feature that it enables.
    has_avx2::get().then_some(|states, inputs| unsafe { with_avx2::compress(states, inputs) })
}

/// The constants of the steps: 2³² times the absolute value of the sine of 1, 2 and so on, rounded down.
#[rustfmt::skip]
const SINES: [u32; 64] = [
    0xD76AA478, 0xE8C7B756, 0x242070DB, 0xC1BDCEEE, 0xF57C0FAF, 0x4787C62A, 0xA8304613, 0xFD469501,
    0x698098D8, 0x8B44F7AF, 0xFFFF5BB1, 0x895CD7BE, 0x6B901122, 0xFD987193, 0xA679438E, 0x49B40821,
    0xF61E2562, 0xC040B340, 0x265E5A51, 0xE9B6C7AA, 0xD62F105D, 0x02441453, 0xD8A1E681, 0xE7D3FBC8,
    0x21E1CDE6, 0xC33707D6, 0xF4D50D87, 0x455A14ED, 0xA9E3E905, 0xFCEFA3F8, 0x676F02D9, 0x8D2A4C8A,
    0xFFFA3942, 0x8771F681, 0x6D9D6122, 0xFDE5380C, 0xA4BEEA44, 0x4BDECFA9, 0xF6BB4B60, 0xBEBFBC70,
    0x289B7EC6, 0xEAA127FA, 0xD4EF3085, 0x04881D05, 0xD9D4D039, 0xE6DB99E5, 0x1FA27CF8, 0xC4AC5665,
    0xF4292244, 0x432AFF97, 0xAB9423A7, 0xFC93A039, 0x655B59C3, 0x8F0CCC92, 0xFFEFF47D, 0x85845DD1,
    0x6FA87E4F, 0xFE2CE6E0, 0xA3014314, 0x4E0811A1, 0xF7537E82, 0xBD3AF235, 0x2AD7D2BB, 0xEB86D391,
];

type Vector = __m256i;

/// Returns the `n`-th eight bytes of a block.
#[inline]
fn eight(block: &Block, n: usize) -> i64 {
    i64::from_le_bytes(block.as_chunks().0[n])
}

/// Transposes eight blocks: returns a vector for each word, with that word of every block.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(blocks: &[&[Block]; WIDTH], at: usize) -> [Vector; 16] {
    let mut words = [_mm256_setzero_si256(); 16];
    for quarter in 0..4 {
        // A row has a quarter of a block, and the same quarter of the block four lanes later. LLVM compiles it to two
        // loads.
        let mut rows = [_mm256_setzero_si256(); 4];
        for (lane, row) in rows.iter_mut().enumerate() {
            let (left, right) = (&blocks[lane][at], &blocks[lane + 4][at]);
            let (low, high) = (2 * quarter, 2 * quarter + 1);
            *row = _mm256_set_epi64x(eight(right, high), eight(right, low), eight(left, high), eight(left, low));
        }
        let [row0, row1, row2, row3] = rows;
        let (low01, high01) = (_mm256_unpacklo_epi32(row0, row1), _mm256_unpackhi_epi32(row0, row1));
        let (low23, high23) = (_mm256_unpacklo_epi32(row2, row3), _mm256_unpackhi_epi32(row2, row3));
        words[4 * quarter] = _mm256_unpacklo_epi64(low01, low23);
        words[4 * quarter + 1] = _mm256_unpackhi_epi64(low01, low23);
        words[4 * quarter + 2] = _mm256_unpacklo_epi64(high01, high23);
        words[4 * quarter + 3] = _mm256_unpackhi_epi64(high01, high23);
    }
    words
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(words: &[u32; WIDTH]) -> Vector {
    let [a, b, c, d, e, f, g, h] = words.map(u32::cast_signed);
    _mm256_setr_epi32(a, b, c, d, e, f, g, h)
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(vector: Vector) -> [u32; WIDTH] {
    [
        _mm256_extract_epi32::<0>(vector),
        _mm256_extract_epi32::<1>(vector),
        _mm256_extract_epi32::<2>(vector),
        _mm256_extract_epi32::<3>(vector),
        _mm256_extract_epi32::<4>(vector),
        _mm256_extract_epi32::<5>(vector),
        _mm256_extract_epi32::<6>(vector),
        _mm256_extract_epi32::<7>(vector),
    ]
    .map(i32::cast_unsigned)
}

/// One of the four rounds, in all groups of lanes: 16 steps, each with its word and its sine.
macro_rules! round {
    ($round:literal, $mix:ident, $states:ident, $words:ident, $factor:literal i + $first:literal, $($step:literal: $shift:literal),+) => {
        for i in (0..16).step_by(4) {
            $(
                let sine = _mm256_set1_epi32(SINES[16 * $round + i + $step].cast_signed());
                for (state, words) in $states.iter_mut().zip(&$words) {
                    // The words of the state rotate from step to step.
                    let [a, b, c, d] = [4, 5, 6, 7].map(|word| (word - $step) % 4);
                    let sum = _mm256_add_epi32(state[a], _mm256_add_epi32(words[($factor * (i + $step) + $first) % 16], sine));
                    let rotated = rotate($mix(sum, state[b], state[c], state[d]), _mm256_set1_epi32($shift));
                    state[a] = _mm256_add_epi32(state[b], rotated);
                }
            )+
        }
    };
}

/// The code of an implementation. Its parameters are a rotation and the functions of the four rounds, each of which
/// adds its result to `sum`.
macro_rules! compress {
    ($features:literal, $($function:ident($($argument:ident),+) = $result:expr;)+) => {
        use super::*;

        $(
            #[inline]
            #[target_feature(enable = $features)]
            fn $function($($argument: Vector),+) -> Vector {
                $result
            }
        )+

        #[target_feature(enable = $features)]
        pub(super) fn compress(states: &mut [State], inputs: &[Inputs]) {
            match states.len() {
                1 => compress_groups::<1>(states, inputs),
                2 => compress_groups::<2>(states, inputs),
                3 => compress_groups::<3>(states, inputs),
                _ => compress_groups::<4>(states, inputs),
            }
        }

        /// Processes `N` groups of lanes. Each step is computed for all groups before the next step, so that the
        /// instructions of one group run during the latencies of the others.
        #[inline]
        #[target_feature(enable = $features)]
        fn compress_groups<const N: usize>(states: &mut [State], inputs: &[Inputs]) {
            let zero = _mm256_setzero_si256();
            let mut now = [[zero; 4]; N];
            for (now, state) in now.as_flattened_mut().iter_mut().zip(states.as_flattened()) {
                *now = load(state);
            }
            for at in 0..inputs[0][0].len() {
                let mut words = [[zero; 16]; N];
                for (words, input) in words.iter_mut().zip(inputs) {
                    *words = transpose(input, at);
                }
                let before = now;
                round!(0, mix0, now, words, 1 i + 0, 0: 7, 1: 12, 2: 17, 3: 22);
                round!(1, mix1, now, words, 5 i + 1, 0: 5, 1: 9, 2: 14, 3: 20);
                round!(2, mix2, now, words, 3 i + 5, 0: 4, 1: 11, 2: 16, 3: 23);
                round!(3, mix3, now, words, 7 i + 0, 0: 6, 1: 10, 2: 15, 3: 21);
                for (now, before) in now.as_flattened_mut().iter_mut().zip(before.as_flattened()) {
                    *now = _mm256_add_epi32(*now, *before);
                }
            }
            for (now, state) in now.as_flattened().iter().zip(states.as_flattened_mut()) {
                *state = store(*now);
            }
        }
    };
}

mod with_avx512 {
    compress! { "avx2,avx512f,avx512vl",
        rotate(a, left) = _mm256_rolv_epi32(a, left);
        // Each constant is a truth table of `b`, `c` and `d`. In mix0, `b` selects `c` or `d`.
        mix0(sum, b, c, d) = _mm256_add_epi32(sum, _mm256_ternarylogic_epi32::<0xCA>(b, c, d));
        mix1(sum, b, c, d) = _mm256_add_epi32(sum, _mm256_ternarylogic_epi32::<0xE4>(b, c, d));
        mix2(sum, b, c, d) = _mm256_add_epi32(sum, _mm256_ternarylogic_epi32::<0x96>(b, c, d));
        mix3(sum, b, c, d) = _mm256_add_epi32(sum, _mm256_ternarylogic_epi32::<0x39>(b, c, d));
    }
}

mod with_avx2 {
    compress! { "avx2",
        rotate(a, left) = {
            let right = _mm256_sub_epi32(_mm256_set1_epi32(32), left);
            _mm256_or_si256(_mm256_sllv_epi32(a, left), _mm256_srlv_epi32(a, right))
        };
        mix0(sum, b, c, d) = _mm256_add_epi32(sum, _mm256_xor_si256(d, _mm256_and_si256(b, _mm256_xor_si256(c, d))));
        // The two parts have no bit in common. `b` is computed last, and the part without `b` does not wait for it.
        mix1(sum, b, c, d) = _mm256_add_epi32(_mm256_add_epi32(sum, _mm256_andnot_si256(d, c)), _mm256_and_si256(d, b));
        mix2(sum, b, c, d) = _mm256_add_epi32(sum, _mm256_xor_si256(b, _mm256_xor_si256(c, d)));
        mix3(sum, b, c, d) = {
            let not_d = _mm256_xor_si256(d, _mm256_set1_epi32(-1));
            _mm256_add_epi32(sum, _mm256_xor_si256(c, _mm256_or_si256(b, not_d)))
        };
    }
}
