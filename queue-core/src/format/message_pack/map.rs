//! The map that a MessagePack body is: its keys are read here, its values by rmp-serde.

use std::fmt;

use ciborium::Value as Tree;
use rmp_serde::config::{DefaultConfig, HumanReadableConfig};
use rmp_serde::decode::{self, ReadReader};
use serde::de::{DeserializeSeed, Deserializer as _, Error as _, Visitor};

use super::super::checked::MAX_DEPTH;
use super::super::key::{Error, Key};
use crate::error::BoxError;

type Deserializer<'de> = decode::Deserializer<ReadReader<&'de [u8]>, HumanReadableConfig<DefaultConfig>>;

/// A body, and how much of it has been read.
pub(in crate::format) struct Map<'de> {
    body: &'de [u8],
    deserializer: Deserializer<'de>,
    /// How many entries have not been read.
    left: u64,
}

impl<'de> Map<'de> {
    /// Nothing of it has been read. `body` is a map, and not nested too deeply.
    pub(in crate::format) fn new(body: &'de [u8]) -> Self {
        let mut deserializer = decode::Deserializer::new(body).with_human_readable();
        deserializer.set_max_depth(MAX_DEPTH);
        Self { body, deserializer, left: 0 }
    }

    /// The body as a tree.
    pub(in crate::format) fn tree(&self) -> Result<Tree, BoxError> {
        super::decode(self.body)
    }

    /// Reads what is no struct to serde.
    pub(in crate::format) fn read<T>(
        &mut self,
        read: impl FnOnce(&mut Deserializer<'de>) -> Result<T, decode::Error>,
    ) -> Result<T, Error> {
        read(&mut self.deserializer).map_err(refusal)
    }

    /// Reads how many entries there are.
    pub(in crate::format) fn open(&mut self) -> Result<(), Error> {
        let marker = self.body.first().copied().unwrap_or_default();
        self.left = match marker {
            0x80..=0x8f => {
                self.take(1)?;
                u64::from(marker & 0x0f)
            }
            0xde => self.number(2)?,
            0xdf => self.number(4)?,
            _ => return Err(Error::custom("it is no map")),
        };
        self.deserializer.set_max_depth(MAX_DEPTH - 1);
        Ok(())
    }

    /// Reads the next key.
    pub(in crate::format) fn key(&mut self) -> Result<Option<Key<'de>>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let Some(marker) = self.rest().first().copied() else { return Err(too_early()) };
        let key = match marker {
            0x00..=0x7f => {
                self.take(1)?;
                Key::Number(marker.into())
            }
            0xcc..=0xcf => Key::Number(self.number(1 << (marker - 0xcc))?),
            0xa0..=0xbf => {
                self.take(1)?;
                self.text(u64::from(marker & 0x1f))?
            }
            // Bytes and text of 8, 16 and 32 bits of length.
            0xc4 | 0xd9 => {
                let size = self.number(1)?;
                self.text(size)?
            }
            0xc5 | 0xda => {
                let size = self.number(2)?;
                self.text(size)?
            }
            0xc6 | 0xdb => {
                let size = self.number(4)?;
                self.text(size)?
            }
            _ => return Err(self.no_key()),
        };
        Ok(Some(key))
    }

    /// Reads the value of the key that was read last.
    pub(in crate::format) fn value<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(&mut self.deserializer).map_err(refusal)
    }

    /// Checks that all entries have been read.
    pub(in crate::format) fn close(&mut self) -> Result<(), Error> {
        match self.left {
            0 => Ok(()),
            left => Err(Error::custom(format_args!("{left} entries of it are left over"))),
        }
    }

    /// Refuses what follows the map.
    pub(in crate::format) fn end(&self) -> Result<(), Error> {
        super::refuse_rest(self.rest()).map_err(|words| Error { words, is_placed: true })
    }

    fn rest(&self) -> &'de [u8] {
        self.deserializer.get_ref()
    }

    /// Reads that many bytes.
    fn take(&mut self, size: usize) -> Result<&'de [u8], Error> {
        let (taken, rest) = self.rest().split_at_checked(size).ok_or_else(too_early)?;
        *self.deserializer.get_mut() = rest;
        Ok(taken)
    }

    /// Reads a marker, and the number of that many bytes behind it.
    fn number(&mut self, size: usize) -> Result<u64, Error> {
        let digits = &self.take(1 + size)?[1..];
        Ok(digits.iter().fold(0, |number, digit| number << 8 | u64::from(*digit)))
    }

    /// Reads a key of that many bytes. What is no UTF-8 is the name of no field, however it is shown.
    fn text(&mut self, size: u64) -> Result<Key<'de>, Error> {
        let size = usize::try_from(size).map_err(|_| too_early())?;
        Ok(Key::Text(String::from_utf8_lossy(self.take(size)?)))
    }

    /// rmp-serde's error for a key that names no field.
    #[cold]
    fn no_key(&mut self) -> Error {
        match self.deserializer.deserialize_any(NoKey) {
            Ok(NoKey) => Error::custom("it has a key that names no field"),
            Err(error) => refusal(error),
        }
    }
}

/// Reads nothing.
struct NoKey;

impl Visitor<'_> for NoKey {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("field identifier")
    }
}

#[cold]
fn too_early() -> Error {
    Error { words: "it ends too early".into(), is_placed: true }
}

#[cold]
fn refusal(error: decode::Error) -> Error {
    Error { words: super::words(error), is_placed: true }
}
