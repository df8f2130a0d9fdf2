//! The sink for the `metrics` facade, with Prometheus's exporter scraped over HTTP.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use kpl_driver::metrics::MetricsFacadeSink;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

use crate::instruments::{Naming, Point, Unit, check};
use crate::run_producer;

const NAMING: Naming = Naming {
    counter: |name, unit| {
        let unit = match unit {
            Unit::Items => "",
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
    let mut response = String::new();
    socket.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 200 OK"), "{response}");
    response.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Parses scraped metrics. The sum and count of a histogram become one point; its buckets are checked here.
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
        let is_same = |point: &&mut Point| (&point.name, &point.labels) == (&count.name, &count.labels);
        points.iter_mut().find(is_same).unwrap().count = Some(count.value as u64);
        let is_infinite = |point: &&Point| {
            (&point.name, &point.labels["stream"]) == (&count.name, &count.labels["stream"])
                && point.labels["le"] == "+Inf"
        };
        assert_eq!(buckets.iter().find(is_infinite).unwrap().value, count.value);
    }
    points
}

#[test]
fn prometheus_scrapes_the_metrics_of_the_producer() {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let seconds = Matcher::Suffix("_seconds".to_owned());
    // Outside a runtime, the exporter starts its own thread.
    PrometheusBuilder::new()
        .with_http_listener(address)
        .with_recommended_naming(true)
        .set_buckets_for_metric(seconds, &[0.05, 0.1, 0.25, 1.0, 10.0])
        .unwrap()
        .install()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let report = runtime.block_on(run_producer(MetricsFacadeSink::new()));
    let scraped = scrape(address);
    check(&points(&scraped), &NAMING, &report);
    for line in [
        "# HELP kinesis_producer_user_records_put_total User records stored.\n",
        "# TYPE kinesis_producer_user_records_put_total counter\n",
        "# TYPE kinesis_producer_user_records_pending gauge\n",
        "# TYPE kinesis_producer_put_to_ack_seconds histogram\n",
    ] {
        assert_eq!(scraped.matches(line).count(), 1, "{line}");
    }
}
