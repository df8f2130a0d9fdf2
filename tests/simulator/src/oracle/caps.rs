use kpl_emulator::api::PutRecordsEntry;

use super::{Check, Facts, Put, broken};
use crate::subject::{Counts, Refusal};

const PROMISE: &str = "limits hold: outstanding records and bytes, requests in flight, sizes of requests and records";

pub(super) fn refused(facts: &Facts, put: &Put, refusal: Refusal) -> Check {
    let settings = &facts.options.config;
    let (records, bytes) = (facts.outstanding_records, facts.outstanding_bytes);
    let has_reason = match refusal {
        Refusal::Full => records >= settings.outstanding_records || bytes + put.size > settings.outstanding_bytes,
        Refusal::ShardFull => facts.has_long_backlog(put.stream),
        Refusal::Closed => facts.closing,
        Refusal::TooLarge => put.size > facts.record_size_max,
        Refusal::Invalid => false,
    };
    if has_reason {
        return Ok(());
    }
    broken!(
        "a record of {} bytes is refused ({refusal:?}) while {records} records and {bytes} bytes are outstanding",
        put.size
    )
}

/// Checks that no record is accepted after a close that takes effect at once.
pub(super) fn accepted(facts: &Facts, ticket: u64) -> Check {
    if facts.closing && facts.closes_at_once {
        return broken!("record {ticket} is accepted after the close");
    }
    Ok(())
}

fn requests_in_flight(facts: &Facts) -> Check {
    let (records, metadata, max) = (facts.in_flight, facts.metadata_in_flight, facts.options.config.in_flight_max);
    if (records > max || records + metadata > max.max(2)) && !facts.runtime_ended {
        return broken!("{records} PutRecords and {metadata} metadata requests are in flight");
    }
    Ok(())
}

/// Metadata requests take at most half of the requests in flight.
pub(super) fn metadata_requested(facts: &Facts) -> Check {
    let (metadata, max) = (facts.metadata_in_flight, facts.options.config.in_flight_max);
    if metadata > (max / 2).max(1) && !facts.runtime_ended {
        return broken!("{metadata} metadata requests are in flight");
    }
    requests_in_flight(facts)
}

pub(super) fn sent(facts: &Facts, records: &[PutRecordsEntry]) -> Check {
    let settings = &facts.options.config;
    requests_in_flight(facts)?;
    if records.is_empty() || records.len() > settings.collection_max_count {
        return broken!("a request has {} records", records.len());
    }
    let size: usize = records.iter().map(PutRecordsEntry::size).sum();
    if size > settings.collection_max_size && records.len() > 1 {
        return broken!("a request has {size} bytes");
    }
    let aggregated = records.iter().filter(|record| record.partition_key == "a");
    match aggregated.map(|record| record.data.len()).max() {
        Some(size) if size > settings.aggregate_size_max() => {
            broken!("an aggregated record has {size} bytes")
        }
        Some(_) if !settings.aggregation => broken!("a record is aggregated"),
        _ => Ok(()),
    }
}

/// Checks the limits on outstanding records, and that no put waits while there is room.
pub(super) fn step(facts: &Facts, counts: &Counts) -> Check {
    let settings = &facts.options.config;
    let (records, bytes) = (facts.outstanding_records, facts.outstanding_bytes);
    // A single record may be larger than the limit on bytes.
    if records > settings.outstanding_records || bytes > settings.outstanding_bytes && records > 1 {
        return broken!("{records} records and {bytes} bytes are outstanding");
    }
    // Puts may also wait for the backlog of their shard.
    let may_wait_for_shard = (0..facts.streams.len()).any(|stream| facts.has_long_backlog(stream));
    let waits = counts.waiting > 0 && !facts.closing && !may_wait_for_shard;
    let has_room = records == 0 || records < settings.outstanding_records && settings.outstanding_bytes > 1 << 20;
    if waits && has_room {
        return broken!("{} puts wait while {records} records are outstanding", counts.waiting);
    }
    Ok(())
}
