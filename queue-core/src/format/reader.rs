//! Reads a payload in whichever format it came, by one type.
//!
//! The code that serde derives for a payload is compiled once for each deserializer that it is read by, and each of them adds
//! code of its own for each payload: 6,000 instructions a task, when there was one a format. So a payload is read by
//! this one alone. It reads the keys of the object or map itself, none of which depends on the payload's type, and leaves
//! the value of each field to the format's own deserializer, whose code is compiled once for each type of field.
//!
//! A payload that is no struct to serde (an enum, or one with a flattened field) is left to the format's deserializer
//! as a whole.

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::cbor;
use super::json::Text;
use super::key::{Error, Key};
use super::message_pack::{self, Map};
use super::object::Object;
use crate::error::BoxError;

/// A payload that is being read.
pub(super) enum Reader<'de> {
    Json(Text<'de>),
    MessagePack(Map<'de>),
    // In a box: the reader is moved, and seldom this.
    Object(Box<Object>),
}

impl<'de> Reader<'de> {
    pub(super) fn json(body: &'de [u8]) -> Self {
        Self::Json(Text::new(body))
    }

    /// # Errors
    /// If it is nested too deeply.
    pub(super) fn message_pack(body: &'de [u8]) -> Result<Self, BoxError> {
        message_pack::refuse_depth(body)?;
        Ok(Self::MessagePack(Map::new(body)))
    }

    pub(super) fn object(object: serde_json::Map<String, Value>) -> Self {
        Self::Object(Box::new(Object::new(object.into(), None)))
    }

    /// Refuses what follows the payload.
    #[inline]
    pub(super) fn end(&mut self) -> Result<(), Error> {
        match self {
            Self::Json(text) => text.end(),
            Self::MessagePack(map) => map.end(),
            Self::Object(object) => object.end(),
        }
    }

    /// Reads again what could not be read, as JSON would have it, for its words: "expected u32", where MessagePack's crate
    /// says "wrong marker". The second reading always returns an error, also if it fits.
    ///
    /// # Errors
    /// The words, if they are JSON's.
    pub(super) fn explaining(self, error: Error) -> Result<Self, BoxError> {
        match self {
            Self::MessagePack(map) => match map.tree() {
                Ok(tree) => Ok(Self::Object(Box::new(Object::new(cbor::to_json(tree), Some(error))))),
                Err(_) => Err(error.words),
            },
            Self::Json(_) | Self::Object(_) => Err(error.words),
        }
    }

    #[inline]
    fn open(&mut self) -> Result<(), Error> {
        match self {
            Self::Json(text) => text.open(),
            Self::MessagePack(map) => map.open(),
            Self::Object(object) => object.open(),
        }
    }

    #[inline]
    fn key(&mut self) -> Result<Option<Key<'de>>, Error> {
        match self {
            Self::Json(text) => text.key(),
            Self::MessagePack(map) => map.key(),
            Self::Object(object) => Ok(object.key()),
        }
    }

    #[inline]
    fn close(&mut self) -> Result<(), Error> {
        match self {
            Self::Json(text) => text.close(),
            Self::MessagePack(map) => map.close(),
            Self::Object(object) => object.close(),
        }
    }

    #[cold]
    fn place(&mut self, error: Error) -> Error {
        match self {
            Self::Json(text) => text.place(error),
            Self::MessagePack(_) | Self::Object(_) => error,
        }
    }
}

/// Where one of the three does it, for a type that is no struct.
macro_rules! left_to_the_format {
    ($($method:ident($($argument:ident: $type:ty),*))*) => {
        $(fn $method<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, Error> {
            match self {
                Reader::Json(text) => text.read(|inner| inner.$method($($argument,)* visitor)),
                Reader::MessagePack(map) => map.read(|inner| inner.$method($($argument,)* visitor)),
                Reader::Object(object) => object.read(|inner| inner.$method($($argument,)* visitor)),
            }
        })*
    };
}

impl<'de> Deserializer<'de> for &mut Reader<'de> {
    type Error = Error;

    // As `match`, here and below: each adapter of `Result` would be compiled for each payload.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.open() {
            Ok(()) => match visitor.visit_map(&mut *self) {
                Ok(value) => match self.close() {
                    Ok(()) => Ok(value),
                    Err(error) => Err(error),
                },
                Err(error) => Err(self.place(error)),
            },
            Err(error) => Err(error),
        }
    }

    left_to_the_format! {
        deserialize_any() deserialize_bool() deserialize_char() deserialize_str() deserialize_string()
        deserialize_i8() deserialize_i16() deserialize_i32() deserialize_i64() deserialize_i128()
        deserialize_u8() deserialize_u16() deserialize_u32() deserialize_u64() deserialize_u128()
        deserialize_f32() deserialize_f64() deserialize_bytes() deserialize_byte_buf() deserialize_option()
        deserialize_unit() deserialize_seq() deserialize_map() deserialize_identifier() deserialize_ignored_any()
        deserialize_unit_struct(name: &'static str)
        deserialize_newtype_struct(name: &'static str)
        deserialize_tuple(len: usize)
        deserialize_tuple_struct(name: &'static str, len: usize)
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
    }
}

impl<'de> MapAccess<'de> for &mut Reader<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        match self.key() {
            Ok(Some(key)) => match seed.deserialize(key) {
                Ok(field) => Ok(Some(field)),
                Err(error) => Err(error),
            },
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        match self {
            Reader::Json(text) => text.value(seed),
            Reader::MessagePack(map) => map.value(seed),
            Reader::Object(object) => object.value(seed),
        }
    }
}
