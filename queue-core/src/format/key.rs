//! A key of a payload, as its `reader` has it from one of the formats, and the error of reading a payload.

use std::borrow::Cow;
use std::fmt::{self, Display};

use serde::de::value::{BorrowedStrDeserializer, StringDeserializer, U32Deserializer};
use serde::de::{self, Deserializer, Visitor};

use crate::error::BoxError;

/// A key of the payload, to the visitor of its fields.
pub(super) enum Key<'de> {
    Text(Cow<'de, str>),
    /// A field by its number, which only MessagePack and CBOR can have.
    Number(u64),
}

/// The reason why a payload could not be read.
#[derive(Debug)]
pub(super) struct Error {
    pub(super) words: BoxError,
    /// The words say where in the body it is, or need not.
    pub(super) is_placed: bool,
}

// As serde_json's keys: what serde derives asks for an identifier, and what is written by hand for text, a name in a
// newtype, or an enum.
impl<'de> Deserializer<'de> for Key<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Self::Text(Cow::Borrowed(text)) => visitor.visit_borrowed_str(text),
            Self::Text(Cow::Owned(text)) => visitor.visit_string(text),
            Self::Number(number) => visitor.visit_u64(number),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self {
            Self::Text(Cow::Borrowed(text)) => visitor.visit_enum(BorrowedStrDeserializer::new(text)),
            Self::Text(Cow::Owned(text)) => visitor.visit_enum(StringDeserializer::new(text)),
            Self::Number(number) => match u32::try_from(number) {
                Ok(index) => visitor.visit_enum(U32Deserializer::new(index)),
                Err(_) => Err(de::Error::invalid_value(de::Unexpected::Unsigned(number), &visitor)),
            },
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
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
