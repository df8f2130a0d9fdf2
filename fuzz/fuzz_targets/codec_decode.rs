//! Fuzz target: any bytes, as they are and framed as an aggregate. Decoding does not panic, does not take much memory,
//! and agrees with prost.

#![no_main]

use bytes::Bytes;
use kpl_core::codec::{DecodeErrorKind, MAGIC, decode, encode, proto};
use libfuzzer_sys::fuzz_target;
use md5::{Digest, Md5};
use peak_alloc::PeakAlloc;
use prost::Message;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// The maximum number of bytes that decoding allocates for one byte of a message. The maximum is reached by empty
/// partition keys: tag and length, 2 bytes, become 16 bytes in the table and 16 on the heap. A record takes 80 bytes
/// for at least 6.
const BYTES_PER_BYTE: usize = 16;
/// The bytes that decoding may allocate in addition: counters, and the text of an error.
const BYTES_EXTRA: usize = 1_024;

fn frame(message: &[u8]) -> Bytes {
    [&MAGIC[..], message, &Md5::digest(message)].concat().into()
}

fuzz_target!(|bytes: &[u8]| {
    check(Bytes::copy_from_slice(bytes));
    check(frame(bytes));
});

fn check(blob: Bytes) {
    let before = HEAP.current_usage();
    HEAP.reset_peak_usage();
    let decoded = decode(blob.clone());
    let allocated = HEAP.peak_usage() - before;
    assert!(allocated <= blob.len() * BYTES_PER_BYTE + BYTES_EXTRA, "{allocated} bytes for {}", blob.len());

    let message = |blob: &Bytes| proto::AggregatedRecord::decode(blob.slice(MAGIC.len()..blob.len() - 16));
    let records = match decoded {
        Ok(records) => records,
        Err(error) => {
            use DecodeErrorKind::*;
            match error.kind {
                NotAggregated | TooShort { .. } | DigestMismatch => {}
                // prost checks neither required fields nor table indexes, and skips groups.
                Missing { .. } | Index { .. } | ExplicitHashKey { .. } | WireType { wire_type: 3, .. } => {}
                kind => assert!(message(&blob).is_err(), "prost decodes it, kpl-core does not: {kind}"),
            }
            return;
        }
    };
    let by_prost = message(&blob).expect("prost decodes whatever kpl-core decodes");
    assert_eq!(records.len(), by_prost.records.len());
    for (ours, theirs) in records.iter().zip(&by_prost.records) {
        assert_eq!(*ours.partition_key, by_prost.partition_key_table[theirs.partition_key_index as usize]);
        let explicit = theirs.explicit_hash_key_index.map(|index| &by_prost.explicit_hash_key_table[index as usize]);
        assert_eq!(ours.explicit_hash_key.map(|key| key.to_string()).as_ref(), explicit);
        assert_eq!(ours.data, theirs.data);
    }
    assert_eq!(decode(encode(&records)), Ok(records));
}
