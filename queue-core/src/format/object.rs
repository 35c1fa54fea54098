//! The object that a `serde_json::Value` is: a payload that `upcast` made, or one whose refusal is to be told in serde's
//! words.

use std::borrow::Cow;

use serde::de::{DeserializeSeed, Error as _, IntoDeserializer};
use serde_json::Value;
use serde_json::map::IntoIter;

use super::key::{Error, Key};

/// An object that is read entry by entry.
pub(super) struct Object {
    whole: Value,
    entries: IntoIter,
    entry: Value,
    /// The error of the format that the payload came in, returned at `end` if this reading fits.
    because: Option<Error>,
}

impl Object {
    pub(super) fn new(whole: Value, because: Option<Error>) -> Self {
        Self { whole, entries: serde_json::Map::new().into_iter(), entry: Value::Null, because }
    }

    pub(super) fn end(&mut self) -> Result<(), Error> {
        self.because.take().map_or(Ok(()), Err)
    }

    /// Reads what is no struct to serde.
    pub(super) fn read<T>(&mut self, read: impl FnOnce(Value) -> serde_json::Result<T>) -> Result<T, Error> {
        read(self.whole.take()).map_err(|error| refusal(&error))
    }

    pub(super) fn open(&mut self) -> Result<(), Error> {
        match self.whole.take() {
            Value::Object(entries) => self.entries = entries.into_iter(),
            _ => return Err(Error::custom("it is no object")),
        }
        Ok(())
    }

    pub(super) fn key(&mut self) -> Option<Key<'static>> {
        let (key, value) = self.entries.next()?;
        self.entry = value;
        Some(Key::Text(Cow::Owned(key)))
    }

    pub(super) fn value<'de, S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(self.entry.take().into_deserializer()).map_err(|error| refusal(&error))
    }

    pub(super) fn close(&mut self) -> Result<(), Error> {
        match self.entries.len() {
            0 => Ok(()),
            left => Err(Error::invalid_length(left, &"fewer elements in map")),
        }
    }
}

fn refusal(error: &serde_json::Error) -> Error {
    Error::custom(error)
}
