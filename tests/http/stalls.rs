//! Tests of times in which nothing moves: the path of idle connections dies.

use std::time::{Duration, Instant};

use kpl_emulator::Faults;

use crate::driver::{Config, block_on};
use crate::rig::{Proxy, emulator, producer};

#[test]
fn after_the_path_of_idle_connections_has_died_one_attempt_times_out() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    block_on(async {
        let (emulator, server) = emulator();
        let proxy = Proxy::start(server.addr());
        // A request, and so a connection, for each record.
        let config = Config::builder().request_timeout(TIMEOUT).aggregation_enabled(false).collection_max_count(1);
        let producer = producer(&proxy.url(), config);
        emulator.set_faults(Faults { latency: Duration::from_millis(200), ..Faults::default() });
        for n in 0..8 {
            drop(producer.put("events", n.to_string(), "burst").await.unwrap());
        }
        producer.flush().await;
        emulator.set_faults(Faults::default());
        assert!(proxy.connections() >= 8, "{} connections", proxy.connections());

        proxy.kill_connections();
        let start = Instant::now();
        let receipt = producer.put("events", "k", "single").await.unwrap().await.unwrap();
        println!("stored after {} attempts, {:?}", receipt.attempts().len(), start.elapsed());
        assert_eq!(receipt.attempts().len(), 2, "{receipt:?}");
        assert!(start.elapsed() < 3 * TIMEOUT, "{:?}", start.elapsed());
    });
}
