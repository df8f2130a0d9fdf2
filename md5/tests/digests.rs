//! All implementations that this CPU supports, compared with RFC 1321 and with `md-5`.
//!
//! Miri supports the CPU features that it is started with:
//!
//!     RUSTFLAGS=-Ctarget-feature=+avx2,+avx512f,+avx512vl cargo +nightly miri test -p kpl-md5 --test digests

use kpl_md5::{Implementation, digest_each};
use md5::{Digest, Md5};
use proptest::prelude::*;

fn with_places<'a>(
    messages: &'a [Vec<u8>],
    digests: &'a mut [[u8; 16]],
) -> impl Iterator<Item = (&'a [u8], &'a mut [u8; 16])> {
    messages.iter().map(Vec::as_slice).zip(digests)
}

#[track_caller]
fn check(messages: &[Vec<u8>]) {
    let expected: Vec<[u8; 16]> = messages.iter().map(|message| Md5::digest(message).into()).collect();
    for implementation in Implementation::available() {
        let mut digests = vec![[0xEE; 16]; messages.len()];
        implementation.digest_each(with_places(messages, &mut digests));
        assert_eq!(digests, expected, "{}", implementation.name);
    }
    let mut digests = vec![[0xEE; 16]; messages.len()];
    digest_each(with_places(messages, &mut digests));
    assert_eq!(digests, expected, "the default implementation");
}

/// Returns bytes that differ between messages, and between the blocks of a message.
fn message(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i + seed).wrapping_mul(0x9E37_79B1) >> 13) as u8).collect()
}

#[test]
fn digests_match_rfc_1321() {
    let vectors: [(&[u8], u128); 7] = [
        (b"", 0xd41d8cd98f00b204e9800998ecf8427e),
        (b"a", 0x0cc175b9c0f1b6a831c399e269772661),
        (b"abc", 0x900150983cd24fb0d6963f7d28e17f72),
        (b"message digest", 0xf96b697d7cb7938d525a2f31aaf161d0),
        (b"abcdefghijklmnopqrstuvwxyz", 0xc3fcd3d76192e4007dfb496cca67e13b),
        (b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", 0xd174ab98d277d9f5a5611c2c9f419d9f),
        (
            b"12345678901234567890123456789012345678901234567890123456789012345678901234567890",
            0x57edf4a22be3c955ac49da2e2107b67a,
        ),
    ];
    for implementation in Implementation::available() {
        let mut digests = [[0; 16]; 7];
        implementation.digest_each(vectors.iter().map(|(message, _)| *message).zip(&mut digests));
        assert_eq!(digests, vectors.map(|(_, digest)| digest.to_be_bytes()), "{}", implementation.name);
    }
}

/// Counts below and above the 32 lanes. With equal lengths all messages end together; with different lengths, none do.
#[test]
fn any_number_of_messages_is_digested() {
    for count in (0..70).step_by(if cfg!(miri) { 34 } else { 1 }) {
        check(&(0..count).map(|i| message(i, 100)).collect::<Vec<_>>());
        if cfg!(miri) {
            continue;
        }
        check(&(0..count).map(|i| message(i, 61 * i)).collect::<Vec<_>>());
        check(&(0..count).rev().map(|i| message(i, 61 * i)).collect::<Vec<_>>());
    }
}

#[test]
fn every_length_up_to_260_bytes_is_digested() {
    let step = if cfg!(miri) { 29 } else { 1 };
    check(&(0..=260).step_by(step).map(|len| message(len, len)).collect::<Vec<_>>());
}

#[test]
fn a_short_message_among_long_ones_is_digested() {
    let size = if cfg!(miri) { 100 } else { 50_000 };
    for place in [0, 7, 20] {
        let mut messages: Vec<_> = (0..20).map(|i| message(i, size + i)).collect();
        messages.insert(place, message(20, 300));
        check(&messages);
    }
}

/// An iterator that returned `None` is not called again, even if it would continue.
#[test]
fn nothing_is_read_after_the_first_none() {
    let mut digests = [[0; 16]; 3];
    let mut places = digests.iter_mut();
    let mut calls = 0;
    let twice_then_none = core::iter::from_fn(|| {
        calls += 1;
        if calls == 3 { None } else { places.next().map(|place| (&b"abc"[..], place)) }
    });
    digest_each(twice_then_none);
    assert_eq!(digests.map(|digest| digest == [0; 16]), [false, false, true]);
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        prop::sample::select(vec![0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 121, 127, 128, 129]),
        0..300_usize,
        0..20_000_usize,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    #[cfg_attr(miri, ignore = "too slow")]
    fn any_messages_are_digested(lengths in prop::collection::vec((length(), any::<u16>()), 0..90)) {
        check(&lengths.into_iter().map(|(len, seed)| message(seed.into(), len)).collect::<Vec<_>>());
    }
}
