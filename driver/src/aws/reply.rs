//! The reply to a PutRecords request.
//!
//! The SDK makes two strings of each result. This takes them from one copy of the body, in one pass. It leaves everything
//! unusual to the SDK: errors, escaped characters, empty lists.

use std::fmt;
use std::sync::{Arc, Mutex};

use aws_sdk_kinesis::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_kinesis::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_kinesis::error::BoxError;
use aws_sdk_kinesis::operation::put_records::{PutRecords, PutRecordsOutput};
use aws_smithy_runtime_api::client::interceptors::context::{Error, Output};
use aws_smithy_runtime_api::client::orchestrator::{HttpResponse, OrchestratorError};
use aws_smithy_runtime_api::client::runtime_plugin::RuntimePlugin;
use aws_smithy_runtime_api::client::ser_de::{DeserializeResponse, SharedResponseDeserializer};
use bytestring::ByteString;
use kpl_core::RecordReply;

use crate::sync::lock;

/// The results of the records of one request, if this parser understood the reply. An interceptor that uses the parser
/// for the request.
#[derive(Clone, Default)]
pub(super) struct Results(Arc<Mutex<Option<Vec<RecordReply>>>>);

impl Results {
    /// Returns the results; `None` if the SDK has parsed the reply.
    pub(super) fn take(&self) -> Option<Vec<RecordReply>> {
        lock(&self.0).take()
    }
}

impl fmt::Debug for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Results")
    }
}

impl Intercept for Results {
    fn name(&self) -> &'static str {
        "kpl reply"
    }

    fn modify_before_deserialization(
        &self,
        _: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        config.interceptor_state().store_put(SharedResponseDeserializer::new(Parser(self.clone())));
        Ok(())
    }
}

#[derive(Debug)]
struct Parser(Results);

impl DeserializeResponse for Parser {
    fn deserialize_nonstreaming_with_config(
        &self,
        response: &HttpResponse,
        config: &ConfigBag,
    ) -> Result<Output, OrchestratorError<Error>> {
        if response.status().as_u16() == 200
            && let Some(results) = response.body().bytes().and_then(parse)
            && let Ok(output) = PutRecordsOutput::builder().set_records(Some(Vec::new())).build()
        {
            *lock(&self.0.0) = Some(results);
            return Ok(Output::erase(output));
        }
        let sdk = PutRecords::new().config();
        let sdk = sdk.as_ref().and_then(|layer| layer.load::<SharedResponseDeserializer>());
        let sdk = sdk.ok_or_else(|| OrchestratorError::other("the SDK has no parser for the reply"))?;
        sdk.deserialize_nonstreaming_with_config(response, config)
    }
}

/// Parses the body of a successful reply. Returns `None` if it is unusual, or has no results.
pub(crate) fn parse(body: &[u8]) -> Option<Vec<RecordReply>> {
    let body = ByteString::try_from(body).ok()?;
    let mut scanner = Scanner { body: &body, at: 0 };
    let mut results = None;
    scanner.object(|scanner, key| {
        match key {
            "Records" if results.is_none() => results = Some(scanner.results()?),
            "Records" => return None,
            _ => scanner.skip_scalar()?,
        }
        Some(())
    })?;
    scanner.skip_space();
    results.filter(|results| scanner.at == body.len() && !results.is_empty())
}

/// A position in a JSON text. All its methods return `None` if the text is unusual.
struct Scanner<'a> {
    body: &'a ByteString,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn results(&mut self) -> Option<Vec<RecordReply>> {
        // A result has at least 100 bytes, except for errors.
        let mut results = Vec::with_capacity(((self.body.len() - self.at) / 100).min(500));
        self.expect(b'[')?;
        if self.is_next(b']') {
            return Some(results);
        }
        loop {
            let mut result = RecordReply::default();
            self.object(|scanner, key| {
                let field = match key {
                    "SequenceNumber" => &mut result.sequence_number,
                    "ShardId" => &mut result.shard_id,
                    "ErrorCode" => &mut result.error_code,
                    "ErrorMessage" => &mut result.error_message,
                    _ => return scanner.skip_scalar(),
                };
                if field.is_some() {
                    return None;
                }
                *field = scanner.string_or_null()?;
                Some(())
            })?;
            results.push(result);
            if !self.is_next(b',') {
                self.expect(b']')?;
                return Some(results);
            }
        }
    }

    /// Calls `value` at the value of each field.
    fn object(&mut self, mut value: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        self.expect(b'{')?;
        if self.is_next(b'}') {
            return Some(());
        }
        loop {
            let key = self.string()?;
            self.expect(b':')?;
            value(self, key)?;
            if !self.is_next(b',') {
                return self.expect(b'}');
            }
        }
    }

    /// Returns a string without escaped characters.
    fn string(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let rest = &self.body.as_bytes()[self.at..];
        let len = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
        let text = self.body.get(self.at..self.at + len).filter(|_| rest[len] == b'"')?;
        self.at += len + 1;
        Some(text)
    }

    fn string_or_null(&mut self) -> Option<Option<ByteString>> {
        self.skip_space();
        if self.body[self.at..].starts_with("null") {
            self.at += 4;
            return Some(None);
        }
        let text = self.string()?;
        Some(Some(self.body.slice_ref(text)))
    }

    /// Skips a string, a whole number, `true`, `false` or `null`.
    fn skip_scalar(&mut self) -> Option<()> {
        self.skip_space();
        if self.body[self.at..].starts_with('"') {
            return self.string().map(drop);
        }
        let rest = &self.body.as_bytes()[self.at..];
        let len = rest.iter().position(|byte| !matches!(byte, b'a'..=b'z' | b'0'..=b'9'))?;
        let text = &self.body[self.at..self.at + len];
        // Only whole numbers: the service sends no others.
        let is_number = !text.is_empty() && text.len() < 19 && text.bytes().all(|byte| byte.is_ascii_digit());
        self.at += len;
        (is_number || matches!(text, "true" | "false" | "null")).then_some(())
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.is_next(byte).then_some(())
    }

    /// Skips this byte if it is the next one.
    fn is_next(&mut self, byte: u8) -> bool {
        self.skip_space();
        let is_next = self.body.as_bytes().get(self.at) == Some(&byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn skip_space(&mut self) {
        let rest = &self.body.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).count();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Parses a reply as the SDK does, with a parser of its own.
    fn reference(body: &[u8]) -> Option<Vec<RecordReply>> {
        let reply: Value = serde_json::from_slice(body).ok()?;
        let text = |result: &Value, field: &str| Some(ByteString::from(result.get(field)?.as_str()?));
        let results = reply.get("Records")?.as_array()?.iter().map(|result| RecordReply {
            shard_id: text(result, "ShardId"),
            sequence_number: text(result, "SequenceNumber"),
            error_code: text(result, "ErrorCode"),
            error_message: text(result, "ErrorMessage"),
        });
        Some(results.collect())
    }

    fn results() -> impl Strategy<Value = Value> {
        let text = || {
            prop_oneof![
                Just(Value::Null),
                "[a-zA-Z0-9-]{0,60}".prop_map(Value::from),
                "\\PC{0,9}".prop_map(Value::from)
            ]
        };
        let stored = (text(), text()).prop_map(|(n, id)| json!({ "SequenceNumber": n, "ShardId": id }));
        let failed = (text(), text()).prop_map(|(c, m)| json!({ "ErrorCode": c, "ErrorMessage": m, "New": 7 }));
        proptest::collection::vec(prop_oneof![stored, failed, Just(json!({}))], 0..9).prop_map(Value::from)
    }

    fn bodies() -> impl Strategy<Value = Vec<u8>> {
        let reply = || {
            (results(), any::<bool>(), any::<bool>()).prop_map(|(records, is_encrypted, is_pretty)| {
                let mut reply = json!({ "FailedRecordCount": 1, "Records": records });
                if is_encrypted {
                    reply["EncryptionType"] = "KMS".into();
                }
                if is_pretty { serde_json::to_vec_pretty(&reply) } else { serde_json::to_vec(&reply) }.unwrap()
            })
        };
        // Any byte changed, or the end cut off.
        let changed = (reply(), any::<(prop::sample::Index, u8)>()).prop_map(|(mut body, (at, byte))| {
            let at = at.index(body.len());
            body[at] = byte;
            body
        });
        let cut = (reply(), any::<prop::sample::Index>()).prop_map(|(mut body, at)| {
            body.truncate(at.index(body.len()));
            body
        });
        prop_oneof![reply(), changed, cut, proptest::collection::vec(any::<u8>(), 0..99)]
    }

    proptest! {
        #[test]
        fn what_is_parsed_is_what_a_complete_parser_reads(body in bodies()) {
            if let Some(results) = parse(&body) {
                prop_assert_eq!(Some(results), reference(&body));
            }
        }

        #[test]
        fn usual_replies_are_parsed(
            results in proptest::collection::vec(("[0-9]{56}", "shardId-[0-9]{12}", any::<bool>()), 1..30),
        ) {
            let results: Vec<Value> = results.into_iter().map(|(number, id, is_stored)| match is_stored {
                true => json!({ "SequenceNumber": number, "ShardId": id }),
                false => json!({ "ErrorCode": "InternalFailure", "ErrorMessage": "Internal service failure." }),
            }).collect();
            let body = json!({ "EncryptionType": "NONE", "FailedRecordCount": 0, "Records": results }).to_string();
            prop_assert_eq!(parse(body.as_bytes()), reference(body.as_bytes()));
        }
    }

    #[test]
    fn unusual_replies_are_left_to_the_sdk() {
        for body in [
            "",
            "{}",
            "null",
            r#"{"Records":[]}"#,
            r#"{"Records":null}"#,
            r#"{"Records":[null]}"#,
            r#"{"Records":[{"ShardId":7}]}"#,
            r#"{"Records":[{"ErrorMessage":"a \"word\""}]}"#,
            r#"{"Records":[{"ShardId":"a","ShardId":"b"}]}"#,
            r#"{"Records":[{"ShardId":"a"}],"Records":[{"ShardId":"b"}]}"#,
            r#"{"Records":[{"ShardId":"a"}],"New":{}}"#,
            r#"{"Records":[{"ShardId":"a"}]} x"#,
            r#"{"Records":[{"ShardId":"a"},]}"#,
        ] {
            assert_eq!(parse(body.as_bytes()), None, "{body}");
        }
    }
}
