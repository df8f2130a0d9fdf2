//! The body of a PutRecords request.
//!
//! The SDK copies the data of each record into its own type, encodes it into a string, and copies the string into a
//! growing body. This encodes the data as base64 directly into a body of the right size, the only copy.

use std::fmt::{self, Write as _};

use aws_sdk_kinesis::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_kinesis::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_kinesis::error::BoxError;
use aws_smithy_json::serialize::JsonValueWriter;
use aws_smithy_types::body::SdkBody;
use base64_simd::STANDARD;
use bytes::Bytes;
use kpl_core::Batch;

use super::mapping::target;

/// The number of bytes reserved per record in addition to its data and partition key: field names, punctuation and an
/// explicit hash key.
const OVERHEAD_PER_RECORD: usize = 100;

/// The number of bytes reserved for the rest of the body.
const OVERHEAD: usize = 400;

const AWS_JSON: &str = "application/x-amz-json-1.1";

/// Returns the body of a batch's request, in the protocol awsJson1_1.
pub(super) fn put_records<T>(batch: &Batch<T>) -> Bytes {
    let sizes = batch.records().iter().map(|record| STANDARD.encoded_length(record.size()) + OVERHEAD_PER_RECORD);
    let mut body = String::with_capacity(OVERHEAD + sizes.sum::<usize>());
    body.push_str("{\"Records\":[");
    let mut prefix = "{\"Data\":\"";
    batch.encode_each(|record, data| {
        body.push_str(prefix);
        prefix = ",{\"Data\":\"";
        STANDARD.encode_append(data, &mut body);
        body.push('"');
        // Digits need no escaping. Writing to a string cannot fail.
        let _ = write!(body, ",\"ExplicitHashKey\":\"{}\"", record.explicit_hash_key());
        push_field(&mut body, "PartitionKey", record.partition_key());
        body.push('}');
    });
    body.push(']');
    let (name, arn) = target(batch.stream());
    if let Some(name) = name {
        push_field(&mut body, "StreamName", &name);
    }
    if let Some(arn) = arn {
        push_field(&mut body, "StreamARN", &arn);
    }
    body.push('}');
    body.into()
}

fn push_field(body: &mut String, name: &str, value: &str) {
    body.push_str(",\"");
    body.push_str(name);
    body.push_str("\":");
    JsonValueWriter::new(body).string(value);
}

/// Replaces the body that the SDK has written, before the request is signed.
pub(super) struct Body(pub(super) Bytes);

/// Without the data of the records: the SDK logs its interceptors.
impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.0.len())
    }
}

impl Intercept for Body {
    fn name(&self) -> &'static str {
        "kpl body"
    }

    /// Runs after the request was written and before it is sent. There are no retries.
    fn modify_before_retry_loop(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        let protocol = request.headers().get("content-type");
        if protocol != Some(AWS_JSON) {
            return Err(format!("the client's protocol is {protocol:?}, but Kinesis requires {AWS_JSON:?}").into());
        }
        request.headers_mut().insert("content-length", self.0.len().to_string());
        *request.body_mut() = SdkBody::from(self.0.clone());
        Ok(())
    }
}
