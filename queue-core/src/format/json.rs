//! The object that a JSON body is: what stands between its values is read here, the values by serde_json.
//!
//! serde_json reads an object by code that is compiled for each type. Nothing here but [`Text::read`] and
//! [`Text::value`] is generic, and that over the type of a field, so that a hundred payloads of numbers and text share it. The refusals are serde_json's,
//! with the same words and places, save that each value may be nested as deeply as serde_json takes a body: one level
//! deeper than what `encode` writes.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{DeserializeSeed, IgnoredAny};
use serde_json::Deserializer;
use serde_json::de::SliceRead;

use super::key::{Error, Key};

/// A body, and how much of it has been read.
pub(super) struct Text<'de> {
    body: &'de [u8],
    at: usize,
    /// No key has been read.
    is_new: bool,
}

impl<'de> Text<'de> {
    pub(super) fn new(body: &'de [u8]) -> Self {
        Self { body, at: 0, is_new: true }
    }

    /// Reads what is no struct to serde, from its beginning.
    pub(super) fn read<T>(
        &mut self,
        read: impl FnOnce(&mut Deserializer<SliceRead<'de>>) -> serde_json::Result<T>,
    ) -> Result<T, Error> {
        let start = self.at;
        let mut deserializer = Deserializer::from_slice(&self.body[start..]);
        let value = read(&mut deserializer);
        self.at = start + deserializer.into_iter::<IgnoredAny>().byte_offset();
        value.map_err(|error| self.placed(&error, start))
    }

    /// Reads the brace that opens the object.
    #[inline]
    pub(super) fn open(&mut self) -> Result<(), Error> {
        match self.peek() {
            Some(b'{') => self.at += 1,
            Some(_) => return Err(self.refusal("expected value")),
            None => return Err(self.refusal("EOF while parsing a value")),
        }
        Ok(())
    }

    /// Reads the next key; `None` before the brace that closes the object.
    #[inline]
    pub(super) fn key(&mut self) -> Result<Option<Key<'de>>, Error> {
        match self.peek() {
            None => return Err(self.refusal("EOF while parsing an object")),
            Some(b'}') => return Ok(None),
            Some(byte) if self.is_new => {
                self.is_new = false;
                if byte != b'"' {
                    return Err(self.refusal("key must be a string"));
                }
            }
            Some(b',') => {
                self.at += 1;
                match self.peek() {
                    Some(b'"') => {}
                    Some(b'}') => return Err(self.refusal("trailing comma")),
                    Some(_) => return Err(self.refusal("key must be a string")),
                    None => return Err(self.refusal("EOF while parsing a value")),
                }
            }
            Some(_) => return Err(self.refusal("expected `,` or `}`")),
        }
        let text = &self.body[self.at + 1..];
        let end = text.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..=0x1f));
        if let Some(end) = end
            && text[end] == b'"'
            && let Ok(key) = str::from_utf8(&text[..end])
        {
            self.at += end + 2;
            return Ok(Some(Key::Text(Cow::Borrowed(key))));
        }
        // It is escaped, or it is bad.
        self.read(|deserializer| String::deserialize(deserializer))
            .map(|key| Some(Key::Text(Cow::Owned(key))))
    }

    /// Reads the value of the key that was read last.
    pub(super) fn value<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        self.colon()?;
        self.read(|deserializer| seed.deserialize(deserializer))
    }

    #[inline]
    fn colon(&mut self) -> Result<(), Error> {
        match self.peek() {
            Some(b':') => self.at += 1,
            Some(_) => return Err(self.refusal("expected `:`")),
            None => return Err(self.refusal("EOF while parsing an object")),
        }
        Ok(())
    }

    /// Reads the brace that closes the object.
    #[inline]
    pub(super) fn close(&mut self) -> Result<(), Error> {
        match self.peek() {
            Some(b'}') => self.at += 1,
            Some(b',') => return Err(self.refusal("trailing comma")),
            Some(_) => return Err(self.refusal("trailing characters")),
            None => return Err(self.refusal("EOF while parsing an object")),
        }
        Ok(())
    }

    /// Refuses what follows the value.
    #[inline]
    pub(super) fn end(&mut self) -> Result<(), Error> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.refusal("trailing characters")),
        }
    }

    /// Adds the place of the reader to an error of the visitor, which does not know it.
    pub(super) fn place(&mut self, error: Error) -> Error {
        if error.is_placed {
            return error;
        }
        if self.peek() == Some(b'}') {
            self.at += 1;
        }
        self.words_at(&error, self.at)
    }

    /// The next byte that is no white space.
    #[inline]
    fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.body.get(self.at) {
            self.at += 1;
        }
        self.body.get(self.at).copied()
    }

    #[cold]
    fn refusal(&self, words: &str) -> Error {
        self.words_at(&words, self.body.len().min(self.at + 1))
    }

    /// serde_json's error for the bytes from `start` on, with its place in the whole body.
    #[cold]
    fn placed(&self, error: &serde_json::Error, start: usize) -> Error {
        let (words, line, column) = (error.to_string(), error.line(), error.column());
        if line == 0 {
            return Error { words: words.into(), is_placed: false };
        }
        let place = format!(" at line {line} column {column}");
        let words = words.strip_suffix(&place).unwrap_or(&words);
        let (start_line, start_column) = self.position(start);
        let column = if line == 1 { start_column + column } else { column };
        let line = start_line + line - 1;
        Error { words: format!("{words} at line {line} column {column}").into(), is_placed: true }
    }

    fn words_at(&self, words: &dyn std::fmt::Display, index: usize) -> Error {
        let (line, column) = self.position(index);
        Error { words: format!("{words} at line {line} column {column}").into(), is_placed: true }
    }

    /// The line, from 1, and how many bytes of it stand before `index`.
    fn position(&self, index: usize) -> (usize, usize) {
        let before = &self.body[..index];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        (1 + before.iter().filter(|byte| **byte == b'\n').count(), index - line_start)
    }
}
