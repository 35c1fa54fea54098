//! The formats of a payload: JSON, MessagePack and CBOR. `client` and `publish` encode, a worker's handler decodes; a message
//! names its format in its `content_type`. Pure.
//!
//! All formats carry the content of the JSON: the same keys, and the same text for a UUID, a date or an address. So a payload
//! has one schema and one `upcast`, and a program in another language writes what it would write as JSON. The binary formats
//! are smaller for bytes (`serde_bytes`).
//!
//! Values that no reader could restore are refused here, where they are written, with the field's name: NaN, infinities, and
//! nesting deeper than readers take.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::BoxError;

mod cbor;
mod checked;
mod json;
mod key;
mod message_pack;
mod object;
mod reader;

use reader::Reader;

/// The format in which a payload is written. Workers read all formats, by the message's `content_type`.
///
/// ```
/// use leveret::{Format, Task, task};
///
/// #[task(queue = "readings", format = "msgpack")]
/// async fn store(sensor: u32, celsius: f64) {
///     println!("{sensor}: {celsius}");
/// }
///
/// assert_eq!(Store::options().format, Format::MessagePack);
/// assert_eq!(Format::MessagePack.content_type(), "application/msgpack");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Format {
    /// `application/json` in UTF-8. Also the format of a message without a `content_type`.
    #[default]
    Json,
    /// `application/msgpack`, with the fields by name.
    MessagePack,
    /// `application/cbor`, with the fields by name.
    Cbor,
}

impl Format {
    /// The `content_type` of a message in this format.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::MessagePack => "application/msgpack",
            Self::Cbor => "application/cbor",
        }
    }

    /// The format of a message with this `content_type`. JSON where there is none, or where it is `text/plain`, as
    /// Pika's own examples send; parameters (`; charset=utf-8`) are ignored.
    ///
    /// # Errors
    /// If it is no format of Leveret's.
    pub fn of(content_type: Option<&str>) -> Result<Self, UnknownFormat> {
        // By far most messages, and without a look at each letter.
        let content_type = match content_type {
            None | Some("application/json") => return Ok(Self::Json),
            Some(content_type) => content_type,
        };
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let is = |name: &&str| essence.eq_ignore_ascii_case(name);
        let ends_with = |suffix: &str| {
            essence.len() > suffix.len()
                && essence.as_bytes()[essence.len() - suffix.len()..].eq_ignore_ascii_case(suffix.as_bytes())
        };
        if ["", "application/json", "text/json", "text/plain"].iter().any(is) || ends_with("+json") {
            Ok(Self::Json)
        } else if ["application/msgpack", "application/x-msgpack", "application/vnd.msgpack"].iter().any(is) {
            Ok(Self::MessagePack)
        } else if ["application/cbor"].iter().any(is) || ends_with("+cbor") {
            Ok(Self::Cbor)
        } else {
            Err(UnknownFormat::ContentType(content_type.to_owned()))
        }
    }

    /// The format of a message with this `content_type` and `content_encoding`.
    ///
    /// # Errors
    /// If the type is no format of Leveret's, or the encoding changes the body: Leveret does not unpack `gzip`.
    pub fn of_message(
        content_type: Option<&str>,
        content_encoding: Option<&str>,
    ) -> Result<Self, UnknownFormat> {
        match content_encoding {
            Some(encoding) if !is_plain(encoding) => Err(UnknownFormat::ContentEncoding(encoding.to_owned())),
            _ => Self::of(content_type),
        }
    }

    /// Writes a value.
    ///
    /// # Errors
    /// If serde cannot write it in this format (a map whose keys are lists), or no reader could restore it: it holds a float that
    /// is NaN or infinite, or is nested more than 127 deep. The error names the field.
    pub fn encode<T: Serialize + ?Sized>(self, value: &T) -> Result<Vec<u8>, BoxError> {
        match self {
            Self::Json => {
                let mut body = Vec::with_capacity(128);
                checked::write(value, &mut serde_json::Serializer::new(&mut body))?;
                Ok(body)
            }
            Self::MessagePack => message_pack::encode(value),
            Self::Cbor => cbor::encode(value),
        }
    }

    /// Reads a payload: an object, or a map in the binary formats, whose keys are the parameters. An array is refused: serde would
    /// read it by position, and so read the body of another task without an error.
    ///
    /// # Errors
    /// If the body is something else, or does not fit `T`.
    pub fn decode<T: DeserializeOwned>(self, body: &[u8]) -> Result<T, DecodeError> {
        let mut packed = Vec::new();
        match self.reader(body, &mut packed) {
            Ok(reader) => read(reader),
            Err(error) => Err(error),
        }
    }

    /// The reader of a payload. CBOR is converted to MessagePack first.
    fn reader<'de>(self, body: &'de [u8], packed: &'de mut Vec<u8>) -> Result<Reader<'de>, DecodeError> {
        match self {
            Self::Json => {
                let body = without_mark(body);
                match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
                    Some(b'{') => Ok(Reader::json(body)),
                    _ => Err(DecodeError::NotAnObject(self)),
                }
            }
            Self::MessagePack if !message_pack::is_map(body) => Err(DecodeError::NotAnObject(self)),
            Self::MessagePack => Reader::message_pack(body).map_err(DecodeError::Misfit),
            Self::Cbor => {
                let tree = cbor::tree(body).map_err(DecodeError::Misfit)?;
                if !tree.is_map() {
                    return Err(DecodeError::NotAnObject(self));
                }
                *packed = message_pack::encode_unchecked(&tree).map_err(DecodeError::Misfit)?;
                Reader::message_pack(packed).map_err(DecodeError::Misfit)
            }
        }
    }

    /// Reads a value of any shape, unlike [`decode`](Self::decode): what a task returned. What fits only as JSON would
    /// have it is read so, since other programs answer in types of their own.
    ///
    /// # Errors
    /// If the body is not in this format, or does not fit `T`.
    pub(crate) fn decode_value<T: DeserializeOwned>(self, body: &[u8]) -> Result<T, DecodeError> {
        // First as it stands: JSON has no infinity, and another form of numbers of 128 bits.
        let read = match self {
            Self::Json => return serde_json::from_slice(without_mark(body)).map_err(misfit),
            Self::MessagePack => message_pack::decode(body),
            Self::Cbor => cbor::tree(body).and_then(|tree| cbor::from_tree(&tree)),
        };
        read.or_else(|_| serde_json::from_value(self.to_json(body)?).map_err(misfit))
    }

    /// Reads a body as JSON would have it: bytes become an array of numbers, and keys become text.
    ///
    /// # Errors
    /// If the body is not in this format.
    pub fn to_json(self, body: &[u8]) -> Result<Value, DecodeError> {
        match self {
            Self::Json => serde_json::from_slice(without_mark(body)).map_err(misfit),
            Self::MessagePack => message_pack::decode(body).map(cbor::to_json).map_err(DecodeError::Misfit),
            Self::Cbor => cbor::tree(body).map(cbor::to_json).map_err(DecodeError::Misfit),
        }
    }
}

/// JSON without the byte order mark that some programs on Windows put in front, and that serde_json does not read.
fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

/// Reads a JSON object as a payload: what an `upcast` made.
///
/// # Errors
/// If it does not fit.
#[doc(hidden)]
pub fn from_object<T: DeserializeOwned>(object: Map<String, Value>) -> Result<T, DecodeError> {
    read(Reader::object(object))
}

/// All that is compiled for each payload.
fn read<T: DeserializeOwned>(mut reader: Reader<'_>) -> Result<T, DecodeError> {
    loop {
        let error = match T::deserialize(&mut reader) {
            Ok(payload) => match reader.end() {
                Ok(()) => return Ok(payload),
                Err(error) => error,
            },
            Err(error) => error,
        };
        reader = match reader.explaining(error) {
            Ok(reader) => reader,
            Err(words) => return Err(DecodeError::Misfit(words)),
        };
    }
}

fn misfit(error: serde_json::Error) -> DecodeError {
    DecodeError::Misfit(error.into())
}

/// True if a `content_encoding` leaves the body as it is. Kombu, and so Celery, writes the character set here.
fn is_plain(encoding: &str) -> bool {
    const PLAIN: [&str; 9] = ["", "identity", "utf-8", "utf8", "us-ascii", "ascii", "binary", "7bit", "8bit"];
    PLAIN.iter().any(|plain| encoding.trim().eq_ignore_ascii_case(plain))
}

/// A message whose body Leveret cannot read, by its properties.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnknownFormat {
    /// Its `content_type` names none of our formats.
    ContentType(String),
    /// Its `content_encoding` says that the body is packed.
    ContentEncoding(String),
}

impl fmt::Display for UnknownFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (json, msgpack, cbor) =
            (Format::Json.content_type(), Format::MessagePack.content_type(), Format::Cbor.content_type());
        match self {
            Self::ContentType(unknown) => write!(
                f,
                "its content type `{unknown}` is not understood; send `{json}`, `{msgpack}` or `{cbor}`, or leave it \
                 out for JSON"
            ),
            Self::ContentEncoding(unknown) => write!(
                f,
                "its content encoding `{unknown}` is not understood; send the body as it is, without the AMQP property \
                 `content_encoding`, or take it with a subscriber to `RawMessage`"
            ),
        }
    }
}

impl std::error::Error for UnknownFormat {}

/// The reason why a body could not be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum DecodeError {
    /// It is no object, or in a binary format no map.
    NotAnObject(Format),
    /// It is not in the format, or does not fit the type. What serde said.
    Misfit(BoxError),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject(Format::Json) => f.write_str("not a JSON object"),
            Self::NotAnObject(Format::MessagePack) => f.write_str("not a MessagePack map"),
            Self::NotAnObject(Format::Cbor) => f.write_str("not a CBOR map"),
            Self::Misfit(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DecodeError {}

#[cfg(test)]
mod tests;
