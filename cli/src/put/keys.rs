//! The source of a line's partition key.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The source of partition keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeySource {
    /// A random key for each record.
    Random,
    /// The same key for all records.
    Fixed(String),
    /// The n-th word, from 1. Words are separated by ASCII white space.
    Field(usize),
    /// The value at a pointer in the line's JSON.
    Json(Pointer),
}

impl KeySource {
    /// Returns the key of a line, or a message that says why it has none.
    pub(crate) fn key(&self, line: &[u8]) -> Result<String, String> {
        match self {
            // 32 bits spread records over any number of shards; longer keys only add bytes.
            Self::Random => Ok(format!("{:08x}", fastrand::u32(..))),
            Self::Fixed(key) => Ok(key.clone()),
            Self::Field(n) => field(line, *n),
            Self::Json(pointer) => pointer.key(line),
        }
    }
}

/// Returns the n-th word. Keys are text, so invalid UTF-8 becomes U+FFFD; equal bytes result in equal keys.
fn field(line: &[u8], n: usize) -> Result<String, String> {
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let mut seen = 0;
    let word = words.by_ref().inspect(|_| seen += 1).nth(n - 1);
    let word = word.map(|word| String::from_utf8_lossy(word).into_owned());
    word.ok_or_else(|| format!("the line has {seen} words, but --key-field is {n}"))
}

/// A JSON Pointer (RFC 6901).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pointer {
    text: String,
    tokens: Vec<String>,
}

impl Pointer {
    /// Parses a pointer: empty, or tokens that each begin with `/`. `~1` stands for `/`, and `~0` for `~`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let rest = match text.strip_prefix('/') {
            Some(rest) => rest,
            None if text.is_empty() => return Ok(Self { text: String::new(), tokens: Vec::new() }),
            None => return Err(format!("a JSON Pointer begins with \"/\": did you mean \"/{text}\"?")),
        };
        let tokens = rest.split('/').map(|token| {
            let mut parts = token.split('~');
            let mut plain = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                match part.as_bytes().first() {
                    Some(b'0') => plain.push('~'),
                    Some(b'1') => plain.push('/'),
                    _ => return Err(format!("in the token {token:?}, \"~\" must be followed by 0 or 1")),
                }
                plain.push_str(&part[1..]);
            }
            Ok(plain)
        });
        Ok(Self { text: text.to_owned(), tokens: tokens.collect::<Result<_, _>>()? })
    }

    /// Returns the value at the pointer: a string unquoted, a number or a boolean as it is written in the line.
    fn key(&self, line: &[u8]) -> Result<String, String> {
        let found = self.find(line).map_err(|error| format!("the line is not JSON: {error}"))?;
        let Some(value) = found else { return Err(format!("the JSON has no value at {:?}", self.text)) };
        let kind = match value.get().as_bytes().first() {
            Some(b'"') => return serde_json::from_str(value.get()).map_err(|error| error.to_string()),
            Some(b'{') => "an object",
            Some(b'[') => "an array",
            Some(b'n') => "null",
            _ => return Ok(value.get().to_owned()),
        };
        Err(format!("the JSON has {kind} at {:?}, which cannot be a key", self.text))
    }

    fn find<'de>(&self, line: &'de [u8]) -> serde_json::Result<Option<&'de RawValue>> {
        let mut json = serde_json::Deserializer::from_slice(line);
        let found = ValueSeed(&self.tokens).deserialize(&mut json)?;
        json.end()?;
        Ok(found)
    }
}

/// Follows the tokens through a document. Skips all other values.
struct ValueSeed<'t>(&'t [String]);

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        if self.0.is_empty() {
            return <&RawValue>::deserialize(deserializer).map(Some);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Some((token, rest)) = self.0.split_first() else { return Ok(None) };
        let mut found = None;
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            // The last of several members with the same name counts, as in most JSON parsers.
            if name == token.as_str() {
                found = map.next_value_seed(ValueSeed(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let Some((token, rest)) = self.0.split_first() else { return Ok(None) };
        let mut found = None;
        for position in 0_usize.. {
            if *token == position.to_string() {
                match seq.next_element_seed(ValueSeed(rest))? {
                    Some(value) => found = value,
                    None => break,
                }
            } else if seq.next_element::<IgnoredAny>()?.is_none() {
                break;
            }
        }
        Ok(found)
    }

    // A scalar has no members, but tokens remain.
    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(pointer: &str, line: &str) -> Result<String, String> {
        KeySource::Json(Pointer::parse(pointer).unwrap()).key(line.as_bytes())
    }

    #[test]
    fn key_field_is_the_nth_word() {
        let key = |n, line: &[u8]| KeySource::Field(n).key(line);
        assert_eq!(key(1, b"10.0.0.1 - - [x]").unwrap(), "10.0.0.1");
        assert_eq!(key(2, b"  a\t\tb\r").unwrap(), "b");
        assert_eq!(key(1, "\u{a0}ä あ".as_bytes()).unwrap(), "\u{a0}ä"); // only ASCII white space separates
        assert_eq!(key(1, b"\xffx y").unwrap(), "\u{fffd}x");
        assert_eq!(key(3, b"a b").unwrap_err(), "the line has 2 words, but --key-field is 3");
        assert_eq!(key(1, b"").unwrap_err(), "the line has 0 words, but --key-field is 1");
    }

    #[test]
    fn pointer_finds_strings_numbers_and_booleans() {
        // The examples of RFC 6901, section 5.
        let rfc = r#"{"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, "k\"l": 6,
            " ": 7, "m~n": 8}"#;
        for (pointer, value) in [
            ("/foo/0", "bar"),
            ("/foo/1", "baz"),
            ("/", "0"),
            ("/a~1b", "1"),
            ("/c%d", "2"),
            ("/e^f", "3"),
            ("/g|h", "4"),
            ("/i\\j", "5"),
            ("/k\"l", "6"),
            ("/ ", "7"),
            ("/m~0n", "8"),
        ] {
            assert_eq!(json(pointer, rfc).as_deref(), Ok(value), "{pointer}");
        }
        assert_eq!(json("", "\"whole\"").unwrap(), "whole");
        assert_eq!(json("/n", r#"{"n": 1.50e+3}"#).unwrap(), "1.50e+3"); // as written
        assert_eq!(json("/n", r#"{"n": 123456789012345678901234567890}"#).unwrap(), "123456789012345678901234567890");
        assert_eq!(json("/b", r#"{"b": true}"#).unwrap(), "true");
        assert_eq!(json("/s", r#"{"s": "\u3042\n"}"#).unwrap(), "あ\n");
        assert_eq!(json("/a", r#"{"a": 1, "a": 2}"#).unwrap(), "2");
        assert_eq!(json("/a/b", r#"{"x": {"a": {"b": 1}}, "a": {"b": 2}}"#).unwrap(), "2");
    }

    #[test]
    fn missing_value_is_an_error() {
        let doc = r#"{"foo": ["bar"], "null": null, "n": 1, "o": {}}"#;
        for pointer in ["/bar", "/foo/1", "/foo/-", "/foo/00", "/foo/bar", "/n/x", "/null/x", "/o/x"] {
            assert_eq!(json(pointer, doc).unwrap_err(), format!("the JSON has no value at {pointer:?}"));
        }
        for (pointer, kind) in [("/foo", "an array"), ("/null", "null"), ("/o", "an object")] {
            let error = json(pointer, doc).unwrap_err();
            assert_eq!(error, format!("the JSON has {kind} at {pointer:?}, which cannot be a key"));
        }
        for line in ["", "{", "{} x", "no", r#"{"foo": "bar"#] {
            assert!(json("/foo", line).unwrap_err().starts_with("the line is not JSON: "), "{line}");
        }
        assert!(KeySource::Json(Pointer::parse("/a").unwrap()).key(b"{\"a\": \"\xff\"}").is_err());
    }

    #[test]
    fn invalid_pointers_are_errors() {
        assert_eq!(Pointer::parse("foo").unwrap_err(), "a JSON Pointer begins with \"/\": did you mean \"/foo\"?");
        for bad in ["/~", "/~2", "/a~/b"] {
            assert!(Pointer::parse(bad).unwrap_err().contains("must be followed by 0 or 1"), "{bad}");
        }
    }

    #[test]
    fn random_keys_differ() {
        let keys: std::collections::HashSet<_> = (0..100).map(|_| KeySource::Random.key(b"").unwrap()).collect();
        assert!(keys.len() > 95);
    }
}
