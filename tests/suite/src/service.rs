//! A service that replaces Kinesis, behind a proxy that can be switched off.

use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::{ShardFilter, ShardFilterType, ShardIteratorType, StreamStatus};
use bytes::Bytes;
use kpl_emulator::consumer::{OutOfRange, Reading};
use kpl_emulator::{Emulator, Server};

use crate::certs::Certificates;
use crate::kinesis_mock::{KinesisMock, Options};
use crate::{Proxy, client};

/// A service to put records into and to read them back from.
#[derive(Debug)]
pub struct Service {
    /// The proxy in front of the service, for producers.
    pub proxy: Proxy,
    client: Client,
    https: (String, String),
    _running: Running,
}

#[derive(Debug)]
#[expect(dead_code, reason = "a value only keeps its service running")]
enum Running {
    Emulator(Box<[Server; 2]>),
    KinesisMock(Box<KinesisMock>),
}

impl Service {
    /// Starts the emulator, with the limits of Kinesis.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    pub async fn emulator() -> Self {
        let emulator = Emulator::new(kpl_emulator::Options::default());
        let http = Server::start(&emulator).await.expect("a free port");
        let certificates = Certificates::generate();
        let tls = Some(certificates.server_config());
        let https = Server::bind(([127, 0, 0, 1], 0).into(), &emulator, tls).await.expect("a free port");
        Self {
            proxy: Proxy::start(&http.url()).await,
            client: client::new(&http.url(), None),
            https: (https.url(), certificates.ca_pem().to_owned()),
            _running: Running::Emulator(Box::new([http, https])),
        }
    }

    /// Starts kinesis-mock. Returns `None` if it is not available (in CI, panics).
    pub async fn kinesis_mock() -> Option<Self> {
        let mock = KinesisMock::start(Options::default()).await?;
        Some(Self {
            proxy: Proxy::start(&mock.url()).await,
            client: mock.client(),
            https: (mock.https_url(), mock.ca_pem().to_owned()),
            _running: Running::KinesisMock(Box::new(mock)),
        })
    }

    /// Returns a client of the service itself, without the proxy.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the service's HTTPS endpoint, and the certificate of the authority to trust for it.
    pub fn https(&self) -> (&str, &str) {
        (&self.https.0, &self.https.1)
    }

    /// Creates a stream and waits until it is active.
    ///
    /// # Panics
    ///
    /// If the service refuses, or if the stream is not active within ten seconds.
    pub async fn create_stream(&self, name: &str, shards: i32) {
        self.client.create_stream().stream_name(name).shard_count(shards).send().await.expect("a new stream");
        self.until_active(name).await;
    }

    /// Waits until the stream is active.
    ///
    /// # Panics
    ///
    /// If that takes more than ten seconds.
    pub async fn until_active(&self, name: &str) {
        for _ in 0..500 {
            let summary = self.client.describe_stream_summary().stream_name(name).send().await.expect("a summary");
            let status = summary.stream_description_summary().map(|summary| summary.stream_status().clone());
            if status == Some(StreamStatus::Active) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("stream {name} is not active after 10 s");
    }

    /// Returns the open shards: id, first and last hash key.
    ///
    /// # Panics
    ///
    /// If the service refuses the request.
    pub async fn open_shards(&self, stream: &str) -> Vec<(String, u128, u128)> {
        let filter = ShardFilter::builder().r#type(ShardFilterType::AtLatest).build().expect("a filter");
        self.shards(stream, Some(filter)).await
    }

    /// Splits the first shard of a stream, at a third of its range.
    ///
    /// # Panics
    ///
    /// If the service refuses the request.
    pub async fn split_first_shard(&self, stream: &str) {
        let shards = self.open_shards(stream).await;
        let (id, first, last) = &shards[0];
        let split = self.client.split_shard().stream_name(stream).shard_to_split(id);
        split.new_starting_hash_key((first + (last - first) / 3).to_string()).send().await.expect("a split");
    }

    /// Merges the second shard of a stream with the next one, in the order of their ranges.
    ///
    /// # Panics
    ///
    /// If the service refuses the request.
    pub async fn merge_second_shard(&self, stream: &str) {
        let mut shards = self.open_shards(stream).await;
        shards.sort_unstable_by_key(|(_, first, _)| *first);
        let merge = self.client.merge_shards().stream_name(stream).shard_to_merge(&shards[1].0);
        merge.adjacent_shard_to_merge(&shards[2].0).send().await.expect("a merge");
    }

    async fn shards(&self, stream: &str, filter: Option<ShardFilter>) -> Vec<(String, u128, u128)> {
        let page = self.client.list_shards().stream_name(stream).set_shard_filter(filter).send().await;
        let page = page.expect("a list of shards");
        let shards = page.shards().iter().map(|shard| {
            let range = shard.hash_key_range().expect("a range");
            let key = |text: &str| text.parse().expect("a hash key");
            (shard.shard_id().to_owned(), key(range.starting_hash_key()), key(range.ending_hash_key()))
        });
        shards.collect()
    }

    /// Reads all records of a stream, by the KCL's rules.
    ///
    /// # Panics
    ///
    /// If the service refuses a request.
    pub async fn read_back(&self, stream: &str) -> Reading {
        let mut reading = Reading::new(OutOfRange::DropsAggregate);
        for (shard, first, last) in self.shards(stream, None).await {
            let start = self.client.get_shard_iterator().stream_name(stream).shard_id(&shard);
            let start = start.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await.expect("an iterator");
            let mut next = start.shard_iterator().map(str::to_owned);
            while let Some(iterator) = next {
                let page = self.client.get_records().shard_iterator(iterator).send().await.expect("records");
                for record in page.records() {
                    let data = Bytes::copy_from_slice(record.data().as_ref());
                    let key = record.partition_key().unwrap_or_default();
                    reading.take(&shard, (first, last), record.sequence_number(), key, &data);
                }
                let caught_up = page.records().is_empty() && page.millis_behind_latest().unwrap_or(0) == 0;
                next = page.next_shard_iterator().filter(|_| !caught_up).map(str::to_owned);
            }
        }
        reading
    }
}
