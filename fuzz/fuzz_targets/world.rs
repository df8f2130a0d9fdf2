//! The simulator's world, its choices made by the fuzzer: see `tests/simulator`. A run ends by healing when the bytes are
//! used up, so that each of them is a whole one.

#![no_main]

use arbitrary::Unstructured;
use kpl_simulator::{Level, World};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(finding) = World::run(Level::Core, &mut Unstructured::new(bytes)) {
        panic!("{finding}");
    }
});
