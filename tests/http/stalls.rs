//! Tests of times in which nothing moves: the path of idle connections dies, or the process is stopped.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kpl_emulator::{Faults, OperationFault};

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

/// The variable that marks a child process, with the URL of the service.
#[cfg(unix)]
const CHILD: &str = "KPL_TEST_IN_THE_CHILD_OF_STALLS";

#[cfg(unix)]
fn put_as_child(url: &str) {
    block_on(async {
        let producer = producer(url, Config::builder().request_timeout(Duration::from_secs(1)));
        let receipt = producer.put("events", "k", "x").await.unwrap().await.unwrap();
        println!("stored after {} attempts", receipt.attempts().len());
        producer.close().await;
    });
}

#[cfg(unix)]
fn signal(name: &str, pid: u32) {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap();
    assert!(status.success(), "{status}");
}

#[cfg(unix)]
#[test]
fn a_reply_that_arrives_while_the_process_is_stopped_is_not_lost() {
    if let Ok(url) = std::env::var(CHILD) {
        return put_as_child(&url);
    }
    let (emulator, server) = emulator();
    let latency = Duration::from_millis(300);
    let fault = OperationFault { operation: "PutRecords", latency, error: None, first: None };
    emulator.set_faults(Faults { operations: vec![fault], ..Faults::default() });
    let requests = || emulator.with(|kinesis, _| kinesis.counters().requests.get("PutRecords").copied().unwrap_or(0));
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["stalls::a_reply_that_arrives_while_the_process_is_stopped_is_not_lost", "--exact", "--nocapture"])
        .env(CHILD, server.url())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while requests() == 0 && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(1));
    }
    signal("STOP", child.id());
    // The reply arrives after 300 ms. The timeout of the request, 1 s, ends.
    std::thread::sleep(Duration::from_millis(2_500));
    signal("CONT", child.id());
    let output = child.wait_with_output().unwrap();
    let output = String::from_utf8_lossy(&output.stdout);
    assert!(output.contains("stored after 1 attempts"), "{} requests. {output}", requests());
    assert_eq!(requests(), 1, "{output}");
}
