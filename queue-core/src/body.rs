//! The bound on events: they can cross the wire.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::BoxError;
use crate::format::{DecodeError, Format};

/// A type that can be a message's body: every type with serde's derives.
///
/// It does not have serde's traits as supertraits: the compiler would then name each of them, and what else implements
/// them, where it now says once which derives are missing.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an event without serde's derives",
    label = "not `Serialize + DeserializeOwned`",
    note = "add `#[derive(serde::Serialize, serde::Deserialize)]`, with `cargo add serde --features derive`"
)]
pub trait Body: Sized {
    /// Writes it.
    ///
    /// # Errors
    /// If a part of it cannot be written in this format.
    #[doc(hidden)]
    fn encode_body(&self, format: Format) -> Result<Vec<u8>, BoxError>;

    /// Reads it.
    ///
    /// # Errors
    /// If the body does not fit.
    #[doc(hidden)]
    fn decode_body(format: Format, body: &[u8]) -> Result<Self, DecodeError>;
}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned> Body for T {
    fn encode_body(&self, format: Format) -> Result<Vec<u8>, BoxError> {
        format.encode(self)
    }

    fn decode_body(format: Format, body: &[u8]) -> Result<Self, DecodeError> {
        format.decode(body)
    }
}
