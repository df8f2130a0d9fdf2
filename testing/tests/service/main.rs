//! A service under simulation: an example to start from. The service is in `service.rs`; `simulated.rs` runs it on
//! kpl's own simulated runtime, `network.rs` on the simulated network of turmoil.
//!
//! `cargo test -p kpl-testing --test service -- --nocapture` prints what the worlds did, and the seed that finds the bug
//! that is planted in the service.

mod network;
mod service;
mod simulated;

use kpl_testing::{Comparison, for_seeds};

/// What happened in a world.
#[derive(Debug, PartialEq, Eq)]
struct Report {
    /// The events that the service confirmed as stored, compared with the stream. Others may be in the stream, too.
    confirmed: Comparison,
    /// The requests of clients that had no answer.
    unanswered: usize,
    crashes: usize,
}

impl Report {
    /// Checks what the service promises, which is that all that it confirmed is in the stream, and counts.
    fn check(&self) -> Counts {
        self.confirmed.assert_none_lost();
        Counts([self.confirmed.put, self.unanswered, self.crashes])
    }
}

/// The confirmed events, the requests without an answer, and the crashes.
struct Counts([usize; 3]);

/// Runs worlds from seeds, and prints what happened in them.
fn check_seeds(name: &str, seeds: u64, world: impl Fn(u64) -> Counts) {
    let mut sums = [0; 3];
    let started = std::time::Instant::now();
    for_seeds(0..seeds, |seed| {
        let Counts(counts) = world(seed);
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    });
    let [confirmed, unanswered, crashes] = sums;
    println!(
        "{name}: {seeds} seeds in {:.1?}: {confirmed} events confirmed, {unanswered} requests without an answer, \
         {crashes} crashes, nothing lost",
        started.elapsed()
    );
    assert!(confirmed > 0 && unanswered > 0 && crashes > 0, "the worlds have no faults");
}
