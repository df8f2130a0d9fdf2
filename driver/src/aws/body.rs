//! The body of a PutRecords request.
//!
//! The SDK would copy the data of each record into a type of its own, encode that into a string of its own, and copy this
//! into a body that grows. Here, the data go into a body of the right size, as base64 and at once: the only copy.

use aws_sdk_kinesis::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_kinesis::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_kinesis::error::BoxError;
use aws_smithy_json::serialize::JsonValueWriter;
use aws_smithy_types::body::SdkBody;
use base64_simd::STANDARD;
use bytes::Bytes;
use kpl_core::Batch;

use super::mapping::target;

/// The longest name of a field with all that surrounds it, and an explicit hash key, for the first guess at the size.
const AROUND_A_RECORD: usize = 100;
const AROUND_ALL: usize = 400;

const AWS_JSON: &str = "application/x-amz-json-1.1";

/// The request of a batch, as awsJson1_1 has it.
pub(super) fn put_records<T>(batch: &Batch<T>) -> Bytes {
    let sizes = batch.records().iter().map(|record| STANDARD.encoded_length(record.size()) + AROUND_A_RECORD);
    let mut body = String::with_capacity(AROUND_ALL + sizes.sum::<usize>());
    body.push_str("{\"Records\":[");
    let mut before = "{\"Data\":\"";
    batch.encode_each(|record, data| {
        body.push_str(before);
        before = ",{\"Data\":\"";
        STANDARD.encode_append(data, &mut body);
        body.push('"');
        field(&mut body, "ExplicitHashKey", &record.explicit_hash_key().to_string());
        field(&mut body, "PartitionKey", record.partition_key());
        body.push('}');
    });
    body.push(']');
    let (name, arn) = target(batch.stream());
    if let Some(name) = name {
        field(&mut body, "StreamName", &name);
    }
    if let Some(arn) = arn {
        field(&mut body, "StreamARN", &arn);
    }
    body.push('}');
    body.into()
}

fn field(body: &mut String, name: &str, value: &str) {
    body.push_str(",\"");
    body.push_str(name);
    body.push_str("\":");
    JsonValueWriter::new(body).string(value);
}

/// Puts a body in the place of the one that the SDK has written, before it is signed.
#[derive(Debug)]
pub(super) struct Body(pub(super) Bytes);

impl Intercept for Body {
    fn name(&self) -> &'static str {
        "kpl body"
    }

    /// After the request was written, and before it is sent for the first time; there is no second.
    fn modify_before_retry_loop(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        let protocol = request.headers().get("content-type");
        if protocol != Some(AWS_JSON) {
            return Err(
                format!("the client's protocol is {protocol:?}, but must be Kinesis's own, {AWS_JSON:?}").into()
            );
        }
        request.headers_mut().insert("content-length", self.0.len().to_string());
        *request.body_mut() = SdkBody::from(self.0.clone());
        Ok(())
    }
}
