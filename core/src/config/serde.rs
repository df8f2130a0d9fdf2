//! A [`Config`] in a file of settings, with the feature `serde`: a map of field names, in which a time is a text such as
//! `"100ms"`, and a size in bytes is a number or a text such as `"5MiB"`.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use core::time::Duration;

use bytesize::ByteSize;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{Config, ConfigBuilder, Consumers, Ordering, RecordDistribution};
use crate::metrics::{MetricsGranularity, MetricsLevel};

/// The text for a time without limit.
const NEVER: &str = "never";

/// The value of a field in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Bool(bool),
    Integer(u64),
    Text(String),
    /// The field is not set.
    Nothing,
}

/// The type of a field.
pub(super) trait Setting: Sized {
    /// What a file may have for it.
    const EXPECTED: &'static str;

    /// Returns `None` if the value is not of this type.
    fn from_value(value: &Value) -> Option<Self>;

    fn to_value(&self) -> Value;
}

impl Setting for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_value(value: &Value) -> Option<Self> {
        if let Value::Bool(value) = value { Some(*value) } else { None }
    }

    fn to_value(&self) -> Value {
        Value::Bool(*self)
    }
}

impl Setting for u64 {
    const EXPECTED: &'static str = "a number from 0, or a text such as \"5MiB\"";

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Integer(value) => Some(*value),
            Value::Text(text) => text.parse().ok().map(|ByteSize(bytes)| bytes),
            Value::Bool(_) | Value::Nothing => None,
        }
    }

    fn to_value(&self) -> Value {
        Value::Integer(*self)
    }
}

impl Setting for usize {
    const EXPECTED: &'static str = u64::EXPECTED;

    fn from_value(value: &Value) -> Option<Self> {
        // A saturated value is outside every range.
        u64::from_value(value).map(|value| value.try_into().unwrap_or(Self::MAX))
    }

    fn to_value(&self) -> Value {
        Value::Integer(*self as u64)
    }
}

impl Setting for Duration {
    const EXPECTED: &'static str = "a time such as \"100ms\" or \"30s\", or \"never\" for no limit";

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) if text == NEVER => Some(Self::MAX),
            Value::Text(text) => humantime::parse_duration(text).ok(),
            _ => None,
        }
    }

    fn to_value(&self) -> Value {
        let text = if *self == Self::MAX { NEVER.to_owned() } else { humantime::format_duration(*self).to_string() };
        Value::Text(text)
    }
}

impl<S: Setting> Setting for Option<S> {
    const EXPECTED: &'static str = S::EXPECTED;

    fn from_value(value: &Value) -> Option<Self> {
        if *value == Value::Nothing { Some(None) } else { S::from_value(value).map(Some) }
    }

    fn to_value(&self) -> Value {
        self.as_ref().map_or(Value::Nothing, S::to_value)
    }
}

/// Names the values of an enum.
macro_rules! names {
    ($($type:ident: $expected:literal, $($variant:ident = $name:literal),*;)*) => {$(
        impl Setting for $type {
            const EXPECTED: &'static str = $expected;

            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    $(Value::Text(text) if text == $name => Some(Self::$variant),)*
                    _ => None,
                }
            }

            fn to_value(&self) -> Value {
                Value::Text(match self { $(Self::$variant => $name,)* }.to_owned())
            }
        }
    )*};
}

names! {
    Consumers: "\"kcl\" or \"any-shard\"", Kcl = "kcl", AnyShard = "any-shard";
    Ordering: "\"none\" or \"per-key\"", None = "none", PerKey = "per-key";
    RecordDistribution: "\"detect\", \"by-key\" or \"auto\"", Detect = "detect", ByKey = "by-key", Auto = "auto";
    MetricsLevel: "\"none\", \"summary\" or \"detailed\"", None = "none", Summary = "summary", Detailed = "detailed";
    MetricsGranularity: "\"global\", \"stream\" or \"shard\"", Global = "global", Stream = "stream", Shard = "shard";
}

/// Returns the value of a field, or the error.
pub(super) fn parse<S: Setting, E: Error>(field: &str, value: &Value) -> Result<S, E> {
    S::from_value(value).ok_or_else(|| E::custom(format!("config: {field} is {value}, but must be {}", S::EXPECTED)))
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Nothing => f.write_str("nothing"),
        }
    }
}

impl Serialize for Config {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        // A field without a value is left out: TOML has no null.
        for (field, value) in self.values() {
            match value {
                Value::Bool(value) => map.serialize_entry(field, &value)?,
                Value::Integer(value) => map.serialize_entry(field, &value)?,
                Value::Text(text) => map.serialize_entry(field, &text)?,
                Value::Nothing => {}
            }
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ConfigVisitor)
    }
}

struct ConfigVisitor;

impl<'de> Visitor<'de> for ConfigVisitor {
    type Value = Config;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of the settings of a producer")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Config, A::Error> {
        let mut builder = ConfigBuilder::default();
        while let Some(field) = map.next_key::<String>()? {
            builder = builder.set(&field, &map.next_value()?)?;
        }
        builder.build().map_err(A::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true, false, a number from 0, or a text")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        let value = value.try_into().map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(value), &self))?;
        Ok(Value::Integer(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_toml(text: &str) -> Result<Config, String> {
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn a_file_has_times_and_sizes_as_people_write_them() {
        let config = from_toml(
            r#"
            record_ttl = "never"
            record_max_buffered_time = "250ms"
            aggregation_max_size = "25KiB"
            max_outstanding_bytes = 1048576
            max_record_size = "1MiB"
            fail_if_throttled = true
            ordering = "per-key"
            metrics_level = "detailed"
            "#,
        );
        let expected = Config::builder()
            .record_ttl(Duration::MAX)
            .record_max_buffered_time(Duration::from_millis(250))
            .aggregation_max_size(25 << 10)
            .max_outstanding_bytes(1 << 20)
            .max_record_size(Some(1 << 20))
            .fail_if_throttled(true)
            .ordering(Ordering::PerKey)
            .metrics_level(MetricsLevel::Detailed);
        assert_eq!(config, Ok(expected.build().unwrap()));
        assert_eq!(from_toml(""), Ok(Config::default()));
    }

    #[test]
    fn what_is_written_is_read() {
        let builder = Config::builder().max_shard_backlog(Some(Duration::from_nanos(1_234_567_890_123)));
        let builder = builder.record_ttl(Duration::MAX).consumers(Consumers::AnyShard).seed(u64::MAX >> 1);
        for config in [Config::default(), builder.build().unwrap()] {
            let json = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config, "{json}");
            let toml = toml::to_string(&config).unwrap();
            assert_eq!(from_toml(&toml), Ok(config), "{toml}");
        }
    }

    #[test]
    fn an_error_names_field_value_and_what_is_allowed() {
        for (text, expected) in [
            (
                "record_ttl = 30",
                "config: record_ttl is 30, but must be a time such as \"100ms\" or \"30s\", or \"never\" for no limit",
            ),
            (
                "max_outstanding_bytes = \"much\"",
                "config: max_outstanding_bytes is \"much\", but must be a number from 0, or a text such as \"5MiB\"",
            ),
            ("collection_max_count = 501", "config: collection_max_count is 501, but must be from 1 to 500"),
            ("ordering = \"by key\"", "config: ordering is \"by key\", but must be \"none\" or \"per-key\""),
            ("record_tll = \"30s\"", "unknown field `record_tll`, expected one of `aggregation_enabled`"),
            ("seed = -1", "invalid value: integer `-1`, expected true, false, a number from 0, or a text"),
        ] {
            let error = from_toml(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }
}
