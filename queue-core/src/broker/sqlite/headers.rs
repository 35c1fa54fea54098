//! Headers as JSON in a column: readable in the `sqlite3` shell, and exact in every kind that AMQP knows.
//!
//! Text, integers, `true`, `null`, lists and tables are themselves. What JSON lacks is an object of one key beginning
//! with `$`: `{"$float":"1.5"}`, `{"$time":1700000000}` (seconds), `{"$bytes":"fffe"}`; and so is a table that would
//! look like one of these, as `{"$table":{…}}`.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::envelope::{HeaderValue, Headers};

/// The column's text; `None` for no headers.
pub(crate) fn write(headers: &Headers) -> Option<String> {
    (!headers.is_empty()).then(|| Value::Object(table(headers)).to_string())
}

/// The headers of a column. A value that is none of ours, in a row that was written by hand, is kept as text.
pub(super) fn read(text: &str) -> Headers {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => from_table(map),
        _ => Headers::new(),
    }
}

fn table(headers: &Headers) -> Map<String, Value> {
    headers.iter().map(|(name, value)| (name.to_owned(), encode(value))).collect()
}

fn tagged(tag: &str, value: impl Into<Value>) -> Value {
    Value::Object(Map::from_iter([(tag.to_owned(), value.into())]))
}

fn encode(value: &HeaderValue) -> Value {
    match value {
        HeaderValue::Null => Value::Null,
        HeaderValue::Bool(value) => (*value).into(),
        HeaderValue::Int(int) => (*int).into(),
        // As text, since a JSON number read back may differ in its last bit.
        HeaderValue::Float(float) => tagged("$float", format!("{float:?}")),
        HeaderValue::String(text) => text.as_str().into(),
        HeaderValue::Bytes(bytes) => tagged("$bytes", hex(bytes)),
        HeaderValue::Timestamp(seconds) => tagged("$time", *seconds),
        HeaderValue::List(values) => Value::Array(values.iter().map(encode).collect()),
        HeaderValue::Table(headers) => {
            let map = table(headers);
            if tag_of(&map).is_some() { tagged("$table", map) } else { Value::Object(map) }
        }
    }
}

/// The key of an object that stands for something else.
fn tag_of(map: &Map<String, Value>) -> Option<&str> {
    let only = map.keys().next().filter(|_| map.len() == 1)?;
    only.starts_with('$').then_some(only)
}

fn from_table(map: Map<String, Value>) -> Headers {
    map.into_iter().map(|(name, value)| (name, decode(value))).collect()
}

fn decode(value: Value) -> HeaderValue {
    match value {
        Value::Null => HeaderValue::Null,
        Value::Bool(value) => HeaderValue::Bool(value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(int), _) => HeaderValue::Int(int),
            (None, Some(float)) => HeaderValue::Float(float),
            (None, None) => HeaderValue::String(number.to_string()),
        },
        Value::String(text) => HeaderValue::String(text),
        Value::Array(values) => HeaderValue::List(values.into_iter().map(decode).collect()),
        Value::Object(map) => special(&map).unwrap_or_else(|| HeaderValue::Table(from_table(map))),
    }
}

fn special(map: &Map<String, Value>) -> Option<HeaderValue> {
    let tag = tag_of(map)?;
    match (tag, &map[tag]) {
        ("$float", Value::String(text)) => text.parse().ok().map(HeaderValue::Float),
        ("$time", Value::Number(seconds)) => seconds.as_u64().map(HeaderValue::Timestamp),
        ("$bytes", Value::String(hex)) => from_hex(hex).map(HeaderValue::Bytes),
        ("$table", Value::Object(map)) => Some(HeaderValue::Table(from_table(map.clone()))),
        _ => None,
    }
}

/// Bytes as text.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The reverse of [`hex`].
pub(super) fn from_hex(hex: &str) -> Option<Bytes> {
    let digits: Option<Vec<u8>> =
        hex.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives() {
        let looks_like_a_tag = Headers::from([("$time", HeaderValue::from("noon"))]);
        let headers = Headers::from([
            ("null", HeaderValue::Null),
            ("bool", HeaderValue::Bool(true)),
            ("int", HeaderValue::Int(i64::MIN)),
            ("float", HeaderValue::Float(-0.1)),
            ("whole float", HeaderValue::Float(1.0)),
            ("largest", HeaderValue::Float(f64::MAX)),
            ("smallest", HeaderValue::Float(f64::MIN_POSITIVE)),
            ("text", HeaderValue::from("\"quoted\" \u{0} ключ")),
            ("bytes", HeaderValue::Bytes(Bytes::from_static(&[0, 0xff, 0x80]))),
            ("time", HeaderValue::Timestamp(u64::MAX)),
            ("list", HeaderValue::List(vec![HeaderValue::Null, HeaderValue::Float(1.5)])),
            ("table", HeaderValue::Table(Headers::from([("deep", 1_i64)]))),
            ("empty", HeaderValue::Table(Headers::new())),
            ("looks like a tag", HeaderValue::Table(looks_like_a_tag)),
        ]);

        assert_eq!(read(&write(&headers).unwrap()), headers);
        assert_eq!(write(&Headers::new()), None);
    }

    #[test]
    fn text_is_plain_for_who_looks_in() {
        let headers = Headers::from([("tenant", HeaderValue::from("blue")), ("n", 7_i64.into())]);

        assert_eq!(write(&headers).unwrap(), r#"{"n":7,"tenant":"blue"}"#);
    }

    #[test]
    fn what_somebody_wrote_by_hand_is_no_harm() {
        for text in ["", "[]", "not json", r#"{"a":{"$bytes":"f"},"b":{"$time":-1},"c":1e999}"#] {
            read(text);
        }
        assert_eq!(read(r#"{"n":1.5}"#).get("n"), Some(&HeaderValue::Float(1.5)));
    }
}
