//! A service under simulation: an example to start from. The service is in `service.rs`; `simulated.rs` runs it on
//! kpl's own simulated runtime, `network.rs` on the simulated network of turmoil.
//!
//! `cargo test -p kpl-testing --test service -- --nocapture` prints what the worlds did, and the seed that finds the bug
//! that is planted in the service.

mod network;
mod service;
mod simulated;

use std::panic::{AssertUnwindSafe, catch_unwind};

use kpl_testing::Comparison;

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
    /// Checks what the service promises: what it confirmed is in the stream.
    fn check(&self) {
        assert!(self.confirmed.lost.is_empty(), "{}", self.confirmed);
    }
}

/// Runs worlds from seeds, and checks each.
fn check_seeds(name: &str, seeds: u64, world: impl Fn(u64) -> Report) {
    let (mut confirmed, mut unanswered, mut crashes) = (0, 0, 0);
    let started = std::time::Instant::now();
    for seed in 0..seeds {
        let checked = catch_unwind(AssertUnwindSafe(|| {
            let report = world(seed);
            report.check();
            report
        }));
        let Ok(report) = checked else { panic!("{name}: seed {seed} fails") };
        confirmed += report.confirmed.put;
        unanswered += report.unanswered;
        crashes += report.crashes;
    }
    println!(
        "{name}: {seeds} seeds in {:.1?}: {confirmed} events confirmed, {unanswered} requests without an answer, \
         {crashes} crashes, nothing lost",
        started.elapsed()
    );
    assert!(confirmed > 0 && unanswered > 0 && crashes > 0, "the worlds have no faults");
}

/// Runs worlds until one finds that an event was confirmed and lost.
fn find_bug(name: &str, seeds: u64, world: impl Fn(u64) -> Report) {
    for seed in 0..seeds {
        let report = world(seed);
        if !report.confirmed.lost.is_empty() {
            println!("{name}: seed {seed} finds the planted bug: {}", report.confirmed);
            return;
        }
    }
    panic!("{name}: {seeds} seeds do not find the planted bug");
}
