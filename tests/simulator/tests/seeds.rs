//! A hundred worlds in every test run; `cargo run --release -p kpl-simulator` runs as many as one likes.

use std::fmt::Write as _;

#[test]
fn in_a_hundred_worlds_every_promise_is_kept() {
    let mut findings = String::new();
    let mut complete = 0;
    for seed in 0..100 {
        match kpl_simulator::run_seed(seed) {
            Ok(report) => complete += u32::from(report.complete),
            Err(finding) => {
                let _ = writeln!(findings, "{finding}\nREPRODUCE WITH: cargo run -p kpl-simulator -- --seed {seed}\n");
            }
        }
    }
    assert!(findings.is_empty(), "{findings}");
    assert!(complete >= 95, "only {complete} of 100 worlds came to their end");
}

#[test]
fn a_seed_is_a_run_to_the_last_event() {
    for seed in 0..10 {
        assert_eq!(kpl_simulator::run_seed(seed).unwrap(), kpl_simulator::run_seed(seed).unwrap());
    }
    assert_ne!(kpl_simulator::run_seed(1).unwrap().trace_hash, kpl_simulator::run_seed(2).unwrap().trace_hash);
}
