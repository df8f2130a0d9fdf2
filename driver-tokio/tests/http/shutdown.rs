//! Test of a shutdown of the runtime.

use std::time::Duration;

use kpl_emulator::{Emulator, Faults, Options, Server};
use kpl_tokio::{Config, PutError};

use crate::rig::producer;

#[test]
fn when_the_runtime_is_shut_down_every_outcome_resolves() {
    let emulator = Emulator::new(Options::default()).with_stream("events", 1);
    emulator.set_faults(Faults { latency: Duration::from_secs(60), ..Faults::default() });
    let server = Server::bind_on_thread(([127, 0, 0, 1], 0).into(), &emulator, None).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (producer, outcomes) = runtime.block_on(async {
        let producer = producer(&server.url(), Config::builder());
        let mut outcomes = vec![];
        for n in 0..100 {
            outcomes.push(producer.put("events", "k", n.to_string()).await.unwrap());
            tokio::time::sleep(Duration::from_millis(2)).await; // so that some are in flight
        }
        (producer, outcomes)
    });
    runtime.shutdown_background();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for (n, outcome) in outcomes.into_iter().enumerate() {
            let outcome = tokio::time::timeout(Duration::from_secs(5), outcome).await.expect("every outcome resolves");
            let failure = outcome.unwrap_err();
            assert_eq!((&*failure.error.code, &failure.record.data[..]), ("Closed", n.to_string().as_bytes()));
        }
        tokio::time::timeout(Duration::from_secs(5), producer.flush()).await.expect("the flush ends");
        tokio::time::timeout(Duration::from_secs(5), producer.close()).await.expect("the close ends");
        assert!(matches!(producer.put("events", "k", "late").await, Err(PutError::Closed { .. })));
    });
}
