//! Some worlds in every test run; `cargo run --release -p kpl-simulator` runs as many as one likes.

use std::fmt::Write as _;

use kpl_simulator::{Level, regressions, run_seed};

#[track_caller]
fn run(seeds: impl IntoIterator<Item = (Level, u64)>) {
    let mut findings = String::new();
    for (level, seed) in seeds {
        if let Err(finding) = run_seed(level, seed) {
            let _ = writeln!(
                findings,
                "{finding}\nREPRODUCE WITH: cargo run --release -p kpl-simulator -- --level {level} --seed {seed}\n"
            );
        }
    }
    assert!(findings.is_empty(), "{findings}");
}

#[test]
fn in_forty_worlds_at_each_level_every_promise_is_kept() {
    run(Level::ALL.iter().flat_map(|level| (0..40).map(|seed| (*level, seed))));
}

#[test]
fn what_was_found_once_is_not_found_again() {
    run(regressions());
}

#[test]
fn a_seed_is_a_run_to_the_last_event() {
    for level in Level::ALL {
        for seed in 0..10 {
            assert_eq!(run_seed(*level, seed).unwrap(), run_seed(*level, seed).unwrap());
        }
        assert_ne!(run_seed(*level, 1).unwrap().trace_hash, run_seed(*level, 2).unwrap().trace_hash);
    }
}
