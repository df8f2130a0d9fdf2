use kpl_core::Receipt;
use rustc_hash::FxHashMap;

use super::{Check, Facts, Put, State, broken};

const PROMISE: &str = "with an order per key, of two records with the same hash key, of which one was put after the \
                       other, consumers read the first for the first time before the second for the first time, and \
                       for the last time before the second for the last time, and the first has its receipt first";

/// The records that consumers read.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// The tickets by stream and hash key, in the order of reading: parents before children.
    reads: FxHashMap<(usize, u128), Vec<u64>>,
}

/// The positions at which consumers read a record for the first and the last time.
#[derive(Clone, Copy, Debug)]
struct Read {
    ticket: u64,
    first: usize,
    last: usize,
}

impl Order {
    pub(super) fn read(&mut self, facts: &Facts, put: &Put, ticket: u64) {
        // A stream that ignores keys has no order.
        if facts.options.config.ordering && !may_ignore_keys(facts) {
            self.reads.entry((put.stream, put.hash_key)).or_default().push(ticket);
        }
    }

    pub(super) fn judge(&self, facts: &Facts, puts: &[Put]) -> Check {
        // Tasks that await results run in any order.
        let has_tasks = !facts.closes_at_once;
        for tickets in self.reads.values() {
            judge_key(tickets, puts, has_tasks)?;
        }
        Ok(())
    }
}

/// With an order, no record is sent to a stream that is known to ignore keys.
pub(super) fn succeeded(facts: &Facts, put: &Put, ticket: u64, receipt: &Receipt) -> Check {
    let known_at = facts.streams[put.stream].auto_known_at;
    match receipt.attempts().iter().next() {
        Some(first) if facts.options.config.ordering && first.start > known_at && put.at > known_at => {
            broken!("record {ticket} is sent although the stream ignores keys since {known_at:?}")
        }
        _ => Ok(()),
    }
}

pub(super) fn may_ignore_keys(facts: &Facts) -> bool {
    facts.options.service.auto || facts.options.service.auto_switches > 0
}

/// Compares the records of one hash key.
fn judge_key(tickets: &[u64], puts: &[Put], has_tasks: bool) -> Check {
    let mut reads: FxHashMap<u64, Read> = FxHashMap::default();
    for (position, ticket) in tickets.iter().enumerate() {
        let read = Read { ticket: *ticket, first: position, last: position };
        reads.entry(*ticket).or_insert(read).last = position;
    }
    // A record that fails is left out. So are those that the service stored after the producer had given up the request:
    // nothing can prevent that.
    let counts = |put: &Put| matches!(put.state, State::Succeeded(_)) && !put.spans_recreation && !put.stored_late;
    let put = |read: &Read| &puts[read.ticket as usize];
    let mut by_offer: Vec<Read> = reads.into_values().filter(|read| counts(put(read))).collect();
    let mut by_accept = by_offer.clone();
    by_offer.sort_unstable_by_key(|read| put(read).offered);
    by_accept.sort_unstable_by_key(|read| put(read).accepted);
    // Of the records whose put had ended: those that were read last for the first and for the last time.
    let mut latest: Option<(Read, Read)> = None;
    let mut latest_result: Option<Read> = None;
    let mut ended = by_accept.into_iter().peekable();
    for read in by_offer {
        while let Some(earlier) = ended.next_if(|earlier| put(earlier).accepted < put(&read).offered) {
            let (first, last) = latest.get_or_insert((earlier, earlier));
            *first = if earlier.first > first.first { earlier } else { *first };
            *last = if earlier.last > last.last { earlier } else { *last };
            latest_result = latest_result.into_iter().chain([earlier]).max_by_key(|read| put(read).resolved);
        }
        let Some((first, last)) = latest else { continue };
        if first.first > read.first {
            return broken!(
                "record {} is first read before record {}, which was put earlier",
                read.ticket,
                first.ticket
            );
        }
        if last.last > read.last {
            return broken!("record {} is last read before record {}, which was put earlier", read.ticket, last.ticket);
        }
        if let Some(late) = latest_result.filter(|late| !has_tasks && put(late).resolved > put(&read).resolved) {
            return broken!(
                "record {} has its receipt before record {}, which was put earlier",
                read.ticket,
                late.ticket
            );
        }
    }
    Ok(())
}
