//! MessagePack, by rmp-serde.

use rmp_serde::Serializer;
use rmp_serde::decode::{Deserializer, Error};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::checked::{self, MAX_DEPTH};
use crate::error::BoxError;

mod depth;
mod map;

pub(super) use map::Map;

pub(super) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, BoxError> {
    let mut body = Vec::with_capacity(128);
    checked::write(value, &mut Serializer::new(&mut body).with_struct_map().with_human_readable())?;
    Ok(body)
}

/// Writes what has been read: of another program's message, which may hold what ours do not.
pub(super) fn encode_unchecked(value: &impl Serialize) -> Result<Vec<u8>, BoxError> {
    let mut body = Vec::with_capacity(128);
    value.serialize(&mut Serializer::new(&mut body).with_struct_map().with_human_readable())?;
    Ok(body)
}

/// True if the body begins like a map, of any size.
pub(super) fn is_map(body: &[u8]) -> bool {
    matches!(body.first(), Some(0x80..=0x8f | 0xde | 0xdf))
}

pub(super) fn decode<T: DeserializeOwned>(mut body: &[u8]) -> Result<T, BoxError> {
    refuse_depth(body)?;
    let mut deserializer = Deserializer::new(&mut body).with_human_readable();
    deserializer.set_max_depth(MAX_DEPTH);
    let value = T::deserialize(&mut deserializer).map_err(words)?;
    refuse_rest(body)?;
    Ok(value)
}

/// Refuses what is nested more deeply than readers take.
pub(super) fn refuse_depth(body: &[u8]) -> Result<(), BoxError> {
    if depth::is_too_deep(body) { Err(too_deep()) } else { Ok(()) }
}

fn words(error: Error) -> BoxError {
    match error {
        Error::InvalidMarkerRead(_) | Error::InvalidDataRead(_) => "it ends too early".into(),
        Error::DepthLimitExceeded => too_deep(),
        other => other.into(),
    }
}

pub(super) fn too_deep() -> BoxError {
    format!("it is nested more than {} deep", MAX_DEPTH - 1).into()
}

/// One message holds one value. Bytes behind it are a mistake of the sender, and an error.
pub(super) fn refuse_rest(rest: &[u8]) -> Result<(), BoxError> {
    match rest.len() {
        0 => Ok(()),
        bytes => Err(format!("something follows it, of {bytes} bytes").into()),
    }
}
