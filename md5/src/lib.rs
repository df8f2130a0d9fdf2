//! MD5 of several messages at once.
//!
//! MD5 is one long chain: each step waits for the one before, so that a core which could do four things a cycle does
//! one. Messages do not wait for each other. [`digest_each`] puts each into a lane of SIMD registers, and computes a
//! step of all of them with the instructions that otherwise compute one.
//!
//! The CPU is looked at when the program runs: AVX-512 and AVX2 are used if it has them. Without, and on other
//! architectures, each message is left to the crate [`md5`].

#![no_std]

#[cfg(target_arch = "x86_64")]
mod lanes;
#[cfg(target_arch = "x86_64")]
mod x86;

use md5::{Digest, Md5};

/// 64 bytes of a message: what MD5 takes in at a time.
#[cfg(target_arch = "x86_64")]
type Block = [u8; 64];

/// Computes the MD5 of each message, and stores it in the place that comes with the message.
///
/// Messages may be of any length and number. A lane whose message is done takes the next one; if lengths differ much, the
/// long messages had better come first.
///
/// ```
/// let messages = [&b"a"[..], b"abc", b"message digest"];
/// let mut digests = [[0; 16]; 3];
/// kpl_md5::digest_each(messages.into_iter().zip(&mut digests));
/// assert_eq!(digests[1], 0x900150983cd24fb0d6963f7d28e17f72_u128.to_be_bytes());
/// ```
pub fn digest_each<'a>(messages: impl IntoIterator<Item = (&'a [u8], &'a mut [u8; 16])>) {
    if let Some(implementation) = Implementation::available().next() {
        implementation.digest_each(messages);
    }
}

/// Whether this CPU has lanes for several messages. Without, there is nothing to gain from computing them together.
pub fn has_lanes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return Implementation::available().next().is_some_and(|fastest| fastest.compress.is_some());
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// A way to compute digests. For tests and benchmarks, which compare them.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct Implementation {
    pub name: &'static str,
    #[cfg(target_arch = "x86_64")]
    compress: Option<lanes::Compress>,
}

impl Implementation {
    /// What this CPU can do, from the fastest on.
    #[cfg(target_arch = "x86_64")]
    pub fn available() -> impl Iterator<Item = Self> {
        let lanes = |name, compress: Option<_>| compress.map(|_| Self { name, compress });
        let scalar = Self { name: "scalar", compress: None };
        [lanes("avx512", x86::avx512()), lanes("avx2", x86::avx2()), Some(scalar)].into_iter().flatten()
    }

    /// What this CPU can do, from the fastest on.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn available() -> impl Iterator<Item = Self> {
        [Self { name: "scalar" }].into_iter()
    }

    /// [`digest_each`], in this way.
    pub fn digest_each<'a>(self, messages: impl IntoIterator<Item = (&'a [u8], &'a mut [u8; 16])>) {
        let mut queue = messages.into_iter().fuse();
        #[cfg(target_arch = "x86_64")]
        if let Some(compress) = self.compress {
            // A single message is spared the lanes.
            let first_two = [queue.next(), queue.next()];
            if let [_, Some(_)] = first_two {
                return lanes::digest_each(&mut first_two.into_iter().flatten().chain(queue), compress);
            }
            return digest_in_turn(first_two.into_iter().flatten());
        }
        digest_in_turn(&mut queue);
    }
}

fn digest_in_turn<'a>(queue: impl Iterator<Item = (&'a [u8], &'a mut [u8; 16])>) {
    for (message, digest) in queue {
        *digest = Md5::digest(message).into();
    }
}
