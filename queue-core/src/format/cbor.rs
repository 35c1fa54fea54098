//! CBOR, by ciborium, and by way of MessagePack.
//!
//! ciborium always writes UUIDs and the like as bytes, and refuses a whole number where a float is meant, which is how
//! JavaScript writes 10.0. rmp-serde can be told otherwise, so it stands between CBOR's own tree and the user's type.

use ciborium::Value as Tree;
use ciborium::de::Error;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::checked::MAX_DEPTH;
use super::message_pack;
use crate::error::BoxError;

pub(super) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, BoxError> {
    let tree: Tree = message_pack::decode(&message_pack::encode(value)?)?;
    let mut body = Vec::with_capacity(128);
    ciborium::into_writer(&tree, &mut body)?;
    Ok(body)
}

/// The content of a body, without tags: they mark a text as a date, for example, which the reader knows anyway.
pub(super) fn tree(mut body: &[u8]) -> Result<Tree, BoxError> {
    let tree = ciborium::de::from_reader_with_recursion_limit(&mut body, MAX_DEPTH).map_err(words)?;
    message_pack::refuse_rest(body)?;
    Ok(untagged(tree))
}

pub(super) fn from_tree<T: DeserializeOwned>(tree: &Tree) -> Result<T, BoxError> {
    message_pack::decode(&message_pack::encode_unchecked(tree)?)
}

fn words<E>(error: Error<E>) -> BoxError {
    match error {
        Error::Io(_) => "it ends too early".into(),
        Error::Syntax(byte) => format!("it is no CBOR at byte {byte}").into(),
        Error::Semantic(_, words) => words.into(),
        Error::RecursionLimitExceeded => message_pack::too_deep(),
    }
}

fn untagged(tree: Tree) -> Tree {
    match tree {
        Tree::Tag(_, tree) => untagged(*tree),
        Tree::Array(items) => Tree::Array(items.into_iter().map(untagged).collect()),
        Tree::Map(entries) => {
            Tree::Map(entries.into_iter().map(|(key, value)| (untagged(key), untagged(value))).collect())
        }
        leaf => leaf,
    }
}

/// Converts to JSON.
pub(super) fn to_json(tree: Tree) -> Value {
    match tree {
        Tree::Null => Value::Null,
        Tree::Bool(bool) => bool.into(),
        Tree::Integer(number) => {
            let number = i128::from(number);
            match u64::try_from(number) {
                Ok(number) => number.into(),
                Err(_) => i64::try_from(number).map_or_else(|_| (number as f64).into(), Into::into),
            }
        }
        // JSON knows neither infinity nor NaN.
        Tree::Float(number) => number.into(),
        Tree::Text(text) => text.into(),
        Tree::Bytes(bytes) => bytes.into(),
        Tree::Array(items) => items.into_iter().map(to_json).collect(),
        Tree::Map(entries) => Value::Object(
            entries.into_iter().map(|(key, value)| (key_text(key), to_json(value))).collect::<Map<_, _>>(),
        ),
        Tree::Tag(_, tree) => to_json(*tree),
        _ => Value::Null,
    }
}

/// A key that is no text, as serde_json writes it.
fn key_text(key: Tree) -> String {
    match to_json(key) {
        Value::String(text) => text,
        other => other.to_string(),
    }
}
