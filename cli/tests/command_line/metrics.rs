//! Metrics as Prometheus text during a run.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use crate::rig::{Kinesis, command, end, kpl, wait_until};

/// Returns the response of `/metrics`; empty if the port does not listen.
fn scrape(port: u16) -> String {
    let mut response = String::new();
    if let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        let _ = stream.read_to_string(&mut response);
    }
    response
}

/// Returns the sum of a counter over all its labels.
fn sum(scrape: &str, name: &str) -> f64 {
    let samples = scrape.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
    samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[test]
fn metrics_are_served_during_a_run() {
    let kinesis = Kinesis::start(2);
    // A free port: the listener is dropped at once.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let mut child =
        command(&format!("put {} --json --key-field 1 --metrics-port {port}", kinesis.args())).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for n in 0..1_000 {
        writeln!(stdin, "key-{n} x").unwrap();
    }
    wait_until("all records are in the metrics", || {
        sum(&scrape(port), "kinesis_producer_user_records_put_total") == 1_000.0
    });
    let scrape = scrape(port);
    assert_eq!(sum(&scrape, "kinesis_producer_kinesis_records_put_total"), kinesis.records_stored() as f64);
    assert_eq!(sum(&scrape, "kinesis_producer_put_to_ack_seconds_count"), 1_000.0);
    assert!(scrape.contains("le=\"0.25\"") && scrape.contains("shard=\"shardId-000000000001\""), "{scrape}");
    drop(stdin);
    let run = end(child);
    assert_eq!((run.code(), &run.json()["succeeded"]), (0, &1_000.into()), "{run:#?}");
    assert!(run.stderr.contains(&format!("metrics are at http://127.0.0.1:{port}/metrics")), "{run:#?}");
}

#[test]
fn port_in_use_is_an_error_before_any_put() {
    let kinesis = Kinesis::start(1);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let run = kpl(&format!("put {} --metrics-port {port}", kinesis.args()), b"x\n");
    assert!(run.code() != 0 && run.stderr.contains("--metrics-port"), "{run:#?}");
    assert!(kinesis.read().is_empty());
}
