//! Fuzz target: the simulator's world (`tests/simulator`), with the fuzzer's bytes as its choices. When the bytes are
//! used up, all faults end and everything must drain, so each run is complete.

#![no_main]

use arbitrary::Unstructured;
use kpl_simulator::{Level, World};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(finding) = World::run(Level::Core, None, &mut Unstructured::new(bytes)) {
        panic!("{finding}");
    }
});
