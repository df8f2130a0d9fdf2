//! Executes a request and builds its reply.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::format::Format;
use crate::{Emulator, Kinesis, ServiceError};

/// The fault that loses the reply: hyper closes the connection, or the HTTP/2 stream, without it.
#[derive(Debug, thiserror::Error)]
#[error("a fault loses the reply")]
pub(super) struct ReplyLost;

const TARGET_PREFIX: &str = "Kinesis_20131202.";

/// The maximum size of a body. The service accepts 10 MiB of records, a third more in base64.
const BODY_MAX: usize = 32 << 20;

pub(super) async fn handle(request: Request<Incoming>, emulator: Emulator) -> Result<Response<Full<Bytes>>, ReplyLost> {
    let mut response = dispatch(request, &emulator).await?;
    if let Ok(id) = HeaderValue::try_from(emulator.request_id()) {
        response.headers_mut().insert("x-amzn-requestid", id);
    }
    Ok(response)
}

async fn dispatch(request: Request<Incoming>, emulator: &Emulator) -> Result<Response<Full<Bytes>>, ReplyLost> {
    if request.method() == Method::GET {
        return Ok(reply(StatusCode::OK, "text/plain", "kinesis emulator: ok\n".into()));
    }
    let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok());
    let operation = target.and_then(|target| target.strip_prefix(TARGET_PREFIX)).and_then(Operation::parse);
    let target = target.unwrap_or_default().to_owned();
    let format = Format::of(request.headers());
    // hyper replies to `Expect: 100-continue` when the body is first polled.
    let body = match http_body_util::Limited::new(request.into_body(), BODY_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            return Ok(error_reply(format, &ServiceError::serialization(format!("cannot read the body: {error}"))));
        }
    };
    let Some(operation) = operation else {
        return Ok(error_reply(format, &ServiceError::unknown_operation(format!("unknown operation {target:?}"))));
    };
    let fate = emulator.with(|kinesis, _| kinesis.admit(operation.name()));
    if fate.delay > Duration::ZERO {
        tokio::time::sleep(fate.delay).await;
    }
    if fate.http_500 {
        return Ok(error_reply(format, &ServiceError::internal_failure("Internal service failure.")));
    }
    if let Some(error) = &fate.error {
        return Ok(error_reply(format, error));
    }
    let result = operation.run(format, &body, emulator);
    if fate.drop_reply {
        return Err(ReplyLost);
    }
    Ok(match result {
        Ok(body) => reply(StatusCode::OK, format.content_type(), body.into()),
        Err(error) => error_reply(format, &error),
    })
}

macro_rules! operations {
    ($($name:ident => |$kinesis:ident, $now:ident, $request:ident| $call:expr;)*) => {
        /// An operation of the service.
        #[derive(Clone, Copy)]
        enum Operation { $($name,)* }

        impl Operation {
            fn parse(name: &str) -> Option<Self> {
                match name {
                    $(stringify!($name) => Some(Self::$name),)*
                    _ => None,
                }
            }

            fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            fn run(self, format: Format, body: &[u8], emulator: &Emulator) -> Result<Vec<u8>, ServiceError> {
                match self {
                    $(Self::$name => execute(format, body, emulator, |$kinesis, $now, $request| $call),)*
                }
            }
        }
    };
}

operations! {
    CreateStream => |kinesis, now, request| kinesis.create_stream(now, &request);
    DeleteStream => |kinesis, _now, request| kinesis.delete_stream(&request);
    DescribeStream => |kinesis, now, request| kinesis.describe_stream(now, &request);
    DescribeStreamSummary => |kinesis, now, request| kinesis.describe_stream_summary(now, &request);
    GetRecords => |kinesis, now, request| kinesis.get_records(now, &request);
    GetShardIterator => |kinesis, now, request| kinesis.get_shard_iterator(now, &request);
    ListShards => |kinesis, now, request| kinesis.list_shards(now, &request);
    ListStreams => |kinesis, _now, request| kinesis.list_streams(&request);
    MergeShards => |kinesis, now, request| kinesis.merge_shards(now, &request);
    PutRecord => |kinesis, now, request| kinesis.put_record(now, request);
    PutRecords => |kinesis, now, request| kinesis.put_records(now, request);
    SplitShard => |kinesis, now, request| kinesis.split_shard(now, &request);
    UpdateMaxRecordSize => |kinesis, _now, request| kinesis.update_max_record_size(&request);
    UpdateShardCount => |kinesis, now, request| kinesis.update_shard_count(now, &request);
    UpdateStreamRecordDistributionStrategy => |kinesis, _now, request| kinesis.update_record_distribution(&request);
}

/// Parses the request, executes it, and serializes the reply. Only the execution holds the lock.
fn execute<Q: DeserializeOwned, A: Serialize>(
    format: Format,
    body: &[u8],
    emulator: &Emulator,
    operation: impl FnOnce(&mut Kinesis, Duration, Q) -> Result<A, ServiceError>,
) -> Result<Vec<u8>, ServiceError> {
    let request = format.read::<Q>(body)?;
    let reply = emulator.with(|kinesis, now| operation(kinesis, now, request))?;
    format.write(&reply)
}

fn error_reply(format: Format, error: &ServiceError) -> Response<Full<Bytes>> {
    // Serializing two strings does not fail. The code is in a header, too.
    let body = format.write(&serde_json::json!({ "__type": error.code, "message": error.message }));
    let status = StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = reply(status, format.content_type(), body.unwrap_or_default().into());
    response.headers_mut().insert("x-amzn-errortype", HeaderValue::from_static(error.code));
    response
}

fn reply(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
