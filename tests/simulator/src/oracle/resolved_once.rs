use kpl_core::{Instant, RecordResult};

use super::{Broken, Facts, Kept, Place, Put, State, broken};
use crate::subject::Counts;

const PROMISE: &str = "every accepted record is resolved exactly once, and after the close the producer is empty";

pub(super) fn unknown(ticket: u64) -> Broken {
    Broken { promise: PROMISE, how: format!("ticket {ticket} was never given") }
}

/// A record that was offered is accepted, refused, or given up.
pub(super) fn decided(put: &mut Put, ticket: u64, state: State) -> Kept {
    if put.state != State::Offered {
        return broken!("record {ticket} becomes {state:?}, but it is {:?}", put.state);
    }
    put.state = state;
    Ok(())
}

pub(super) fn resolved(put: &mut Put, ticket: u64, result: &RecordResult) -> Kept {
    if put.state != State::Taken {
        return broken!("record {ticket} is resolved, but it is {:?}", put.state);
    }
    put.state = match result {
        Ok(receipt) => State::Succeeded(Place {
            shard_id: receipt.shard_id().into(),
            sequence_number: receipt.sequence_number().into(),
            sub_sequence_number: receipt.sub_sequence_number().unwrap_or(0),
        }),
        Err(failure) => State::Failed { ambiguous: failure.is_ambiguous() },
    };
    Ok(())
}

/// Accounts agree, and what was given up is gone.
pub(super) fn step(facts: &Facts, now: Instant, counts: &Counts) -> Kept {
    let ours = (facts.outstanding_records, facts.outstanding_bytes);
    if (counts.records, counts.bytes) != ours {
        return broken!(
            "the producer says that {} records and {} bytes are outstanding; it is {} and {}",
            counts.records,
            counts.bytes,
            ours.0,
            ours.1
        );
    }
    if let Some(in_flight) = counts.in_flight
        && in_flight != facts.under_way
    {
        return broken!("the producer says that {in_flight} requests are under way; it is {}", facts.under_way);
    }
    if counts.oldest.is_some() != (ours.0 > 0) || counts.oldest.is_some_and(|oldest| oldest > now) {
        return broken!("{} records are outstanding, the oldest from {:?}", ours.0, counts.oldest);
    }
    if now >= facts.gives_up_at + facts.late && ours.0 > 0 {
        return broken!("{} records are left after the deadline of the close", ours.0);
    }
    Ok(())
}

pub(super) fn judge(facts: &Facts, puts: &[Put], closed: bool) -> Kept {
    if let Some(ticket) = puts.iter().position(|put| matches!(put.state, State::Taken | State::Offered)) {
        return broken!("nothing is to come, and record {ticket} is {:?}", puts[ticket].state);
    }
    if facts.under_way > 0 {
        return broken!("nothing is to come, and {} requests are under way", facts.under_way);
    }
    if !closed {
        return broken!("nothing is to come, and the close does not end");
    }
    Ok(())
}

pub(super) fn empty(counts: &Counts, ours: [u64; 3]) -> Kept {
    let stats = &counts.stats;
    let theirs = [stats.user_records_put, stats.user_records_succeeded, stats.user_records_failed];
    if theirs != ours {
        return broken!("records put, succeeded and failed are {ours:?}, and the producer counts {theirs:?}");
    }
    Ok(())
}
