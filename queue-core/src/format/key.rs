//! A key of a payload, as its `reader` has it from one of the formats, and why one has none.

use std::borrow::Cow;
use std::fmt::{self, Display};

use serde::de::{self, Deserializer, Visitor};

use crate::error::BoxError;

/// A key of the payload, to the visitor of its fields.
pub(super) enum Key<'a> {
    Text(Cow<'a, str>),
    /// A field by its number, which only MessagePack and CBOR can have.
    Number(u64),
}

/// Why a payload could not be read.
#[derive(Debug)]
pub(super) struct Error {
    pub(super) words: BoxError,
    /// The words say where in the body it is, or need not.
    pub(super) is_placed: bool,
}

impl<'de> Deserializer<'de> for Key<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Self::Text(text) => visitor.visit_str(&text),
            Self::Number(number) => visitor.visit_u64(number),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl de::Error for Error {
    fn custom<T: Display>(words: T) -> Self {
        Self { words: words.to_string().into(), is_placed: false }
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.words.fmt(f)
    }
}

impl std::error::Error for Error {}
