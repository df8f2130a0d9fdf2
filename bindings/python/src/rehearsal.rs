//! Does everything once before the first producer is handed out.
//!
//! The AWS SDK initializes much at its first request and shares it in the process: certificate authorities, tables. If a
//! fork copies that in the middle, the child process waits for it for ever.

use std::sync::atomic::{AtomicBool, Ordering};

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::body::SdkBody;
use kpl_core::Config;
use kpl_tokio::Producer;
use kpl_tokio::aws_sdk_kinesis::Client;

static IS_DONE: AtomicBool = AtomicBool::new(false);

/// Whether a producer may have been handed out. Events before that are those of the rehearsal.
pub(crate) fn is_done() -> bool {
    IS_DONE.load(Ordering::Relaxed)
}

/// Puts a record with a producer whose requests go nowhere, and builds a connection's TLS; at the first call only.
pub(crate) async fn rehearse() {
    if is_done() {
        return;
    }
    let tls = Connector::builder().tls_provider(Provider::Rustls(CryptoMode::Ring)).build();
    drop(tls);
    let http_client = http_client_fn(|_, _| SharedHttpConnector::new(Rehearsed));
    let config = kpl_tokio::aws_sdk_kinesis::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .credentials_provider(Credentials::new("rehearsal", "rehearsal", None, None, "rehearsal"))
        .http_client(http_client)
        .build();
    let producer = Producer::new(Client::from_conf(config), Config::default());
    // The results do not matter.
    drop(producer.put("rehearsal", "key", "data").await);
    producer.close().await;
    IS_DONE.store(true, Ordering::Relaxed);
}

/// Replies to every request itself.
#[derive(Debug)]
struct Rehearsed;

impl HttpConnector for Rehearsed {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::ready(Ok(reply(&request)))
    }
}

/// Returns the reply to a request of the rehearsal: that of a stream with one shard.
fn reply(request: &HttpRequest) -> HttpResponse {
    let target = request.headers().get("x-amz-target").unwrap_or_default();
    let body = match target.rsplit('.').next() {
        Some("ListShards") => {
            r#"{"Shards":[{"ShardId":"shardId-000000000000","HashKeyRange":{"StartingHashKey":"0",
            "EndingHashKey":"340282366920938463463374607431768211455"},
            "SequenceNumberRange":{"StartingSequenceNumber":"0"}}]}"#
        }
        Some("PutRecords") => {
            r#"{"FailedRecordCount":0,"Records":[{"ShardId":"shardId-000000000000","SequenceNumber":"1"}]}"#
        }
        _ => "{}",
    };
    let status = 200.try_into().unwrap_or_else(|_| unreachable!("200 is a status"));
    HttpResponse::new(status, SdkBody::from(body))
}
