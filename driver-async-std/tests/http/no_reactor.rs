//! Test that the driver works without a tokio runtime.

use std::time::Duration;

use async_std::task::{block_on, spawn};
use kpl_async_std::Config;
use kpl_emulator::Faults;

use crate::rig::{emulator, producer};

#[test]
fn no_tokio_runtime_is_needed() {
    let (emulator, server) = emulator();
    let assert_no_runtime =
        || assert!(tokio::runtime::Handle::try_current().is_err(), "this thread has a tokio runtime");
    assert_no_runtime();
    block_on(async {
        assert_no_runtime();
        let producer = producer(&server.url(), Config::builder());
        emulator.set_faults(Faults { request_throttle_rate: 1.0, ..Faults::default() });
        let throttled = producer.put("events", "k", "throttled").await.unwrap();
        let receipt = spawn(async move {
            assert_no_runtime();
            async_std::task::sleep(Duration::from_millis(300)).await;
            emulator.set_faults(Faults::default());
            throttled.await.unwrap()
        });
        assert!(receipt.await.attempts().len() > 1);

        let last = producer.put("events", "k", "last").await.unwrap();
        producer.close_or_fail(Duration::from_secs(10)).await;
        last.await.unwrap();
    });
}
