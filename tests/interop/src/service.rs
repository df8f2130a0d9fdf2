//! The service for the peers: the emulator over HTTP and HTTPS, and kpl-tokio to put records into it.

use std::process::Command;

use aws_sdk_kinesis::Client;
use bytes::Bytes;
use kpl_emulator::{Emulator, Options, Server};
use kpl_suite::{Certificates, client};
use kpl_tokio::{Config, Producer};

use crate::corpus::Case;
use crate::line::{Read, Record};

/// A stored Kinesis record.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) shard_id: String,
    pub(crate) sequence_number: String,
    pub(crate) sent: Record,
}

/// The emulator with its servers.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) emulator: Emulator,
    http: Server,
    https: Server,
}

impl Service {
    /// Starts a service without limits of shards, on free ports of the loopback interface.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        Self::with(Options::unlimited()).await
    }

    /// Starts a service with these options.
    pub(crate) async fn with(options: Options) -> anyhow::Result<Self> {
        let emulator = Emulator::new(options);
        let http = Server::start(&emulator).await?;
        let tls = Some(Certificates::generate().server_config_offering(&["h2", "http/1.1"]));
        let https = Server::bind(([127, 0, 0, 1], 0).into(), &emulator, tls).await?;
        Ok(Self { emulator, http, https })
    }

    /// Returns the HTTPS endpoint. Clients do not trust its certificate.
    pub(crate) fn https(&self) -> &Server {
        &self.https
    }

    /// Sets the environment variables that all AWS SDKs read: endpoint, region, credentials.
    pub(crate) fn configure<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let empty = if cfg!(windows) { "NUL" } else { "/dev/null" };
        command
            .env("AWS_ENDPOINT_URL", self.http.url())
            .env("AWS_REGION", client::REGION)
            .env("AWS_DEFAULT_REGION", client::REGION)
            .env("AWS_ACCESS_KEY_ID", "AKIDTEST")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            // The user's own configuration must not affect the run.
            .env("AWS_CONFIG_FILE", empty)
            .env("AWS_SHARED_CREDENTIALS_FILE", empty)
            .env_remove("AWS_PROFILE")
            .env_remove("AWS_SESSION_TOKEN")
            .env("NO_PROXY", "127.0.0.1,localhost")
    }

    /// Creates a stream with this number of shards.
    pub(crate) fn create_stream(&self, name: &str, shards: u32) {
        let _emulator = self.emulator.clone().with_stream(name, shards);
    }

    /// Creates a client of the AWS SDK for Rust.
    pub(crate) fn client(&self) -> Client {
        client::new(&self.http.url(), None)
    }

    /// Puts all cases with kpl-tokio and flushes after each. Returns the records that a consumer has to read, according
    /// to the receipts.
    pub(crate) async fn put_with_kpl_tokio(&self, stream: &str, cases: &[Case]) -> anyhow::Result<Vec<Read>> {
        let producer = Producer::new(self.client(), Config::default());
        let mut expected = Vec::new();
        for Case { name, records } in cases {
            let mut outcomes = Vec::with_capacity(records.len());
            for user in records {
                outcomes.push(producer.put_record(user.record(stream)).await?);
            }
            producer.flush().await;
            for (user, outcome) in records.iter().zip(outcomes) {
                let receipt = outcome.await.map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
                expected.push(Read {
                    shard_id: receipt.shard_id().to_string(),
                    sequence_number: receipt.sequence_number().to_string(),
                    // Consumers report 0 for a record that is not in an aggregate.
                    sub_sequence_number: receipt.sub_sequence_number().unwrap_or(0),
                    partition_key: user.partition_key.clone(),
                    // Consumers report only those in aggregates, because GetRecords does not return it.
                    explicit_hash_key: receipt.sub_sequence_number().and(user.explicit_hash_key.clone()),
                    data: user.data.clone(),
                });
            }
        }
        producer.close().await;
        Ok(expected)
    }

    /// Returns the Kinesis records of a stream, ordered by shard, then by sequence number.
    pub(crate) fn stored(&self, stream: &str) -> Vec<Stored> {
        self.emulator.with(|kinesis, _| {
            let records = kinesis.records(stream).map(|(shard_id, _, record)| Stored {
                shard_id: shard_id.to_owned(),
                sequence_number: record.sequence_number.clone(),
                sent: Record {
                    partition_key: record.partition_key.clone(),
                    explicit_hash_key: record.explicit_hash_key.map(|key| key.to_string()),
                    data: Bytes::clone(&record.data),
                },
            });
            records.collect()
        })
    }
}
