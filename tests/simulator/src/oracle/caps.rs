use kpl_core::Instant;
use kpl_emulator::api::PutRecordsEntry;

use super::{Facts, Kept, Put, broken};
use crate::subject::{Counts, Refusal};

const PROMISE: &str = "limits hold: on what is outstanding, on requests under way, on requests and on records";

pub(super) fn refused(facts: &Facts, now: Instant, put: &Put, refusal: Refusal) -> Kept {
    let settings = &facts.options.config;
    let (records, bytes) = (facts.outstanding_records, facts.outstanding_bytes);
    let has_reason = match refusal {
        Refusal::Full => records >= settings.outstanding_records || bytes + put.size > settings.outstanding_bytes,
        Refusal::ShardFull => facts.has_long_backlog(put.stream, now),
        Refusal::Closed => facts.closing,
        Refusal::TooLarge => put.size > facts.record_size_max,
        Refusal::Invalid => false,
    };
    if has_reason {
        return Ok(());
    }
    broken!("a record of {} bytes is refused ({refusal:?}) with {records} records and {bytes} bytes", put.size)
}

/// Nothing is accepted once a close has begun, where it begins at once.
pub(super) fn accepted(facts: &Facts, ticket: u64) -> Kept {
    if facts.closing && facts.closes_at_once {
        return broken!("record {ticket} is accepted by a producer that is closed");
    }
    Ok(())
}

pub(super) fn sent(facts: &Facts, records: &[PutRecordsEntry]) -> Kept {
    let settings = &facts.options.config;
    if facts.under_way > settings.in_flight {
        return broken!("{} requests are under way at once", facts.under_way);
    }
    if records.is_empty() || records.len() > settings.collection_max_count {
        return broken!("a request has {} records", records.len());
    }
    let size: usize = records.iter().map(|record| record.data.len() + record.partition_key.len()).sum();
    if size > settings.collection_max_size && records.len() > 1 {
        return broken!("a request has {size} bytes");
    }
    let aggregated = records.iter().filter(|record| record.partition_key == "a");
    match aggregated.map(|record| record.data.len()).max() {
        Some(size) if size > settings.aggregation_max_size => {
            broken!("an aggregated record has {size} bytes")
        }
        Some(_) if !settings.aggregation => broken!("a record is aggregated"),
        _ => Ok(()),
    }
}

/// No more is outstanding than allowed, and nobody waits for room while there is some.
pub(super) fn step(facts: &Facts, now: Instant, counts: &Counts) -> Kept {
    let settings = &facts.options.config;
    let (records, bytes) = (facts.outstanding_records, facts.outstanding_bytes);
    // One record that is larger than all room goes alone.
    if records > settings.outstanding_records || bytes > settings.outstanding_bytes && records > 1 {
        return broken!("{records} records and {bytes} bytes are outstanding");
    }
    // They may wait for their shard.
    let may_be_shard = (0..facts.streams.len()).any(|stream| facts.has_long_backlog(stream, now));
    let waits = counts.waiting > 0 && !facts.closing && !may_be_shard;
    let has_room = records == 0 || records < settings.outstanding_records && settings.outstanding_bytes > 1 << 20;
    if waits && has_room {
        return broken!("{} puts wait while {records} records are outstanding", counts.waiting);
    }
    Ok(())
}
