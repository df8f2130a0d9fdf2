//! The DogStatsD sink, with a UDP socket in place of the agent.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kpl_driver::metrics::{DogStatsdSink, Metric};

use crate::instruments::{Naming, Point, Unit, check};
use crate::run_producer;

const NAMING: Naming = Naming {
    counter: |name, unit| {
        let unit = match unit {
            Unit::Items => "",
            Unit::Bytes => "_bytes",
            Unit::Millis => "_microseconds",
        };
        format!("a.prefix.{name}{unit}")
    },
    seconds: |name| format!("a.prefix.{name}_seconds"),
    pending: "a.prefix.user_records.pending",
    millis: 1e-3,
    error_code: "error_code",
};

/// Reads lines until `is_over` is set and no datagram is left.
fn read(agent: UdpSocket, is_over: &AtomicBool) -> Vec<String> {
    let (mut lines, mut buffer) = (vec![], [0; 65_536]);
    agent.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    loop {
        let is_last = is_over.load(Ordering::Acquire);
        match agent.recv(&mut buffer) {
            Ok(size) => {
                assert!(size <= 1_432, "{size} bytes");
                lines.extend(std::str::from_utf8(&buffer[..size]).unwrap().lines().map(str::to_owned));
            }
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
                if is_last {
                    return lines;
                }
            }
        }
    }
}

/// Parses a line as the agent does. Returns its point and type.
fn point(line: &str) -> (Point, char) {
    let mut parts = line.split('|');
    let (name, value) = parts.next().unwrap().split_once(':').unwrap();
    let kind = parts.next().unwrap().chars().next().unwrap();
    let (mut rate, mut labels) = (1.0, BTreeMap::new());
    for part in parts {
        match (part.strip_prefix('@'), part.strip_prefix('#')) {
            (Some(text), _) => rate = text.parse::<f64>().unwrap(),
            (_, Some(tags)) => labels.extend(tags.split(',').map(|tag| {
                let (name, value) = tag.split_once(':').unwrap();
                (name.to_owned(), value.to_owned())
            })),
            _ => panic!("{line}"),
        }
    }
    let (mut value, samples) = (value.parse::<f64>().unwrap(), (1.0_f64 / rate) as u64);
    let count = (kind == 'd').then_some(samples);
    value *= samples as f64;
    (Point { name: name.to_owned(), labels, value, count }, kind)
}

#[tokio::test(start_paused = true)]
async fn the_agent_receives_the_metrics_of_the_producer() {
    let agent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = agent.local_addr().unwrap().port();
    let sink = DogStatsdSink::builder().port(port).prefix("a.prefix").tag("env", "te,st").build().unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let is_over = is_over.clone();
        move || read(agent, &is_over)
    });
    let report = run_producer(sink).await;
    is_over.store(true, Ordering::Release);
    let (mut points, mut gauges) = (vec![], BTreeMap::new());
    for line in reader.join().unwrap() {
        let (point, kind) = point(&line);
        assert_eq!(point.labels["env"], "te_st");
        match (kind, point.name.as_str()) {
            // The last value of a gauge counts.
            ('g', name) => drop(gauges.insert((name.to_owned(), point.labels.clone()), point)),
            ('d', "a.prefix.put_to_ack_seconds" | "a.prefix.buffering_seconds") | ('c', _) => points.push(point),
            _ => panic!("{line}"),
        }
    }
    points.extend(gauges.into_values());
    check(&points, &NAMING, &report);
}

#[tokio::test(start_paused = true)]
async fn an_absent_agent_delays_nothing() {
    let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let start = std::time::Instant::now();
    let report = run_producer(DogStatsdSink::builder().host("localhost").port(port).build().unwrap()).await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(report.global(Metric::UserRecordsPut).count > 200);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_reads_nothing_delays_nothing() {
    let agent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = agent.local_addr().unwrap().port();
    let sink = Arc::new(DogStatsdSink::builder().port(port).build().unwrap());
    let start = std::time::Instant::now();
    for _ in 0..20 {
        run_producer(sink.clone()).await;
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    drop(agent);
}
