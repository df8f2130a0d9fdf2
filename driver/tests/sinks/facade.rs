//! Prometheus's exporter, scraped over HTTP.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use kpl_driver::metrics::MetricsFacadeSink;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

use crate::drive;
use crate::instruments::{Naming, Point, Unit, check};

const NAMING: Naming = Naming {
    counter: |name, unit| {
        let unit = match unit {
            Unit::Things => "",
            Unit::Bytes => "_bytes",
            Unit::Millis => "_microseconds",
        };
        format!("kinesis_producer_{}{unit}_total", name.replace('.', "_"))
    },
    seconds: |name| format!("kinesis_producer_{name}_seconds"),
    pending: "kinesis_producer_user_records_pending",
    millis: 1e-3,
    error_code: "error_code",
};

fn scrape(address: SocketAddr) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Sums and counts of histograms become one point; their buckets are checked here.
fn points(scraped: &str) -> Vec<Point> {
    let (mut points, mut counts, mut buckets) = (vec![], vec![], vec![]);
    let lines = scraped.lines().filter(|line| line.starts_with("kinesis_producer_"));
    for line in lines {
        let (key, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = key.split_once('{').unwrap();
        let labels = labels.trim_end_matches('}').split(',').map(|label| {
            let (key, value) = label.split_once('=').unwrap();
            (key.to_owned(), value.trim_matches('"').to_owned())
        });
        let point = |name: &str| Point {
            name: name.to_owned(),
            labels: labels.clone().collect(),
            value: value.parse().unwrap(),
            count: None,
        };
        match (name.strip_suffix("_sum"), name.strip_suffix("_count"), name.strip_suffix("_bucket")) {
            (Some(name), ..) => points.push(point(name)),
            (_, Some(name), _) => counts.push(point(name)),
            (.., Some(name)) => buckets.push(point(name)),
            _ => points.push(point(name)),
        }
    }
    for count in counts {
        let same = |point: &&mut Point| (&point.name, &point.labels) == (&count.name, &count.labels);
        points.iter_mut().find(same).unwrap().count = Some(count.value as u64);
        let infinite = |point: &&Point| {
            (&point.name, &point.labels["stream"]) == (&count.name, &count.labels["stream"])
                && point.labels["le"] == "+Inf"
        };
        assert_eq!(buckets.iter().find(infinite).unwrap().value, count.value);
    }
    points
}

#[test]
fn what_prometheus_scrapes_is_what_the_producer_says() {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let seconds = Matcher::Suffix("_seconds".to_owned());
    // Outside a runtime, it has a thread of its own.
    PrometheusBuilder::new()
        .with_http_listener(address)
        .with_recommended_naming(true)
        .set_buckets_for_metric(seconds, &[0.05, 0.1, 0.25, 1.0, 10.0])
        .unwrap()
        .install()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let report = runtime.block_on(drive(MetricsFacadeSink::new()));
    let scraped = scrape(address);
    check(&points(&scraped), &NAMING, &report);
    for told in [
        "# HELP kinesis_producer_user_records_put_total User records stored.\n",
        "# TYPE kinesis_producer_user_records_put_total counter\n",
        "# TYPE kinesis_producer_user_records_pending gauge\n",
        "# TYPE kinesis_producer_put_to_ack_seconds histogram\n",
    ] {
        assert_eq!(scraped.matches(told).count(), 1, "{told}");
    }
}
