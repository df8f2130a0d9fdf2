//! Runs a few worlds in every test run. `cargo run --release -p kpl-simulator` runs any number.

use std::fmt::Write as _;

use kpl_simulator::{Level, regressions, run_seed, run_seed_with};

#[track_caller]
fn run(seeds: impl IntoIterator<Item = (Level, Option<bool>, u64)>) {
    let mut findings = String::new();
    for (level, ordering, seed) in seeds {
        if let Err(finding) = run_seed_with(level, ordering, seed) {
            let _ = writeln!(findings, "{finding}\nlevel {level}, ordering {ordering:?}, seed {seed}\n");
        }
    }
    assert!(findings.is_empty(), "{findings}");
}

#[test]
fn forty_worlds_per_level_break_no_promise() {
    run(Level::ALL.iter().flat_map(|level| (0..40).map(|seed| (*level, None, seed))));
}

#[test]
fn earlier_findings_do_not_return() {
    run(regressions()
        .into_iter()
        .flat_map(|(level, seed)| [false, true].map(|ordering| (level, Some(ordering), seed))));
}

#[test]
fn the_same_seed_runs_the_same_events() {
    for level in Level::ALL {
        for seed in 0..10 {
            assert_eq!(run_seed(*level, seed).unwrap(), run_seed(*level, seed).unwrap());
        }
        assert_ne!(run_seed(*level, 1).unwrap().trace_hash, run_seed(*level, 2).unwrap().trace_hash);
    }
}
