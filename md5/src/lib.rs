//! MD5 of several messages at once.
//!
//! MD5 is one long chain of dependent steps: a core that could execute four instructions per cycle executes one.
//! Different messages do not depend on each other. [`digest_each`] assigns each message to a lane of SIMD registers.
//! The instructions for one step of one message then compute that step of all messages.
//!
//! The implementation is chosen at run time: AVX-512 or AVX2, if the CPU has them. Otherwise, and on other
//! architectures, the crate [`md5`] computes each digest.

#![no_std]

#[cfg(target_arch = "x86_64")]
mod lanes;
#[cfg(target_arch = "x86_64")]
mod x86;

use md5::{Digest, Md5};

/// A block of a message: the 64 bytes that MD5 processes at a time.
#[cfg(target_arch = "x86_64")]
type Block = [u8; 64];

/// Computes the MD5 of each message, and writes it to the array that is paired with the message.
///
/// Messages may have any length and number. A lane whose message is complete takes the next message. If lengths differ
/// much, pass the longest messages first.
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

/// Whether this CPU has lanes for several messages. Otherwise [`digest_each`] is no faster than one message at a time.
pub fn has_lanes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return Implementation::available().next().is_some_and(|fastest| fastest.compress.is_some());
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// An implementation of MD5. Public only for tests and benchmarks, which compare the implementations.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct Implementation {
    pub name: &'static str,
    #[cfg(target_arch = "x86_64")]
    compress: Option<lanes::Compress>,
}

impl Implementation {
    /// Returns the implementations that this CPU supports, fastest first.
    #[cfg(target_arch = "x86_64")]
    pub fn available() -> impl Iterator<Item = Self> {
        let lanes = |name, compress: Option<_>| compress.map(|_| Self { name, compress });
        let scalar = Self { name: "scalar", compress: None };
        [lanes("avx512", x86::avx512()), lanes("avx2", x86::avx2()), Some(scalar)].into_iter().flatten()
    }

    /// Returns the implementations that this CPU supports, fastest first.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn available() -> impl Iterator<Item = Self> {
        [Self { name: "scalar" }].into_iter()
    }

    /// [`digest_each`] with this implementation.
    pub fn digest_each<'a>(self, messages: impl IntoIterator<Item = (&'a [u8], &'a mut [u8; 16])>) {
        let mut queue = messages.into_iter().fuse();
        #[cfg(target_arch = "x86_64")]
        if let Some(compress) = self.compress {
            // Lanes are no faster for a single message.
            let first_two = [queue.next(), queue.next()];
            if let [_, Some(_)] = first_two {
                return lanes::digest_each(&mut first_two.into_iter().flatten().chain(queue), compress);
            }
            return digest_one_by_one(first_two.into_iter().flatten());
        }
        digest_one_by_one(&mut queue);
    }
}

fn digest_one_by_one<'a>(queue: impl Iterator<Item = (&'a [u8], &'a mut [u8; 16])>) {
    for (message, digest) in queue {
        *digest = Md5::digest(message).into();
    }
}
