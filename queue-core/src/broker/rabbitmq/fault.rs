//! What lapin's errors mean: whether trying again helps, and what to tell the user.
//!
//! lapin's own classes mislead here: a refused login is a "soft" error that ends the connection, and it calls every
//! protocol error recoverable. So it is judged by where it happened and by its code.

use lapin::ErrorKind as Lapin;
use lapin::protocol::AMQPError;

use super::url::{Host, Target};
use crate::error::{BoxError, Error, ErrorKind};

/// Why a connection could not be opened.
#[derive(Debug)]
pub(super) struct Fault {
    /// Whether only a person can mend it: wrong password, missing vhost, bad certificate.
    pub(super) permanent: bool,
    /// In words.
    pub(super) error: Error,
}

impl Fault {
    fn passing(error: Error) -> Self {
        Self { permanent: false, error }
    }

    fn permanent(error: Error) -> Self {
        Self { permanent: true, error }
    }
}

/// AMQP's reply codes, as far as they are told apart here.
pub(super) mod code {
    pub(crate) const ACCESS_REFUSED: u16 = 403;
    pub(crate) const NOT_FOUND: u16 = 404;
    pub(crate) const RESOURCE_LOCKED: u16 = 405;
    pub(crate) const PRECONDITION_FAILED: u16 = 406;
    pub(crate) const NOT_ALLOWED: u16 = 530;
}

/// The code and text of an error that the server sent.
pub(super) fn protocol(error: &lapin::Error) -> Option<(u16, &str)> {
    match error.kind() {
        Lapin::ProtocolError(error) => Some((AMQPError::get_id(error), error.get_message().as_str())),
        _ => None,
    }
}

/// What stands beside our own words: the server's, without lapin's around them, or what lapin says of its own.
pub(super) fn words(error: &lapin::Error) -> BoxError {
    match protocol(error) {
        Some((_, text)) => text.into(),
        None => error.clone().into(),
    }
}

/// Whether the message could not even be parsed; lapin gives the connection up then.
pub(super) fn is_unparsable(error: &lapin::Error) -> bool {
    matches!(error.kind(), Lapin::ParsingError(_))
}

/// What a failed connect means.
pub(super) fn connecting(target: &Target, host: &Host, error: &lapin::Error) -> Fault {
    let Target { user, vhost, .. } = target;
    match protocol(error) {
        // A limit on connections passes; the other refusals do not.
        Some((code::NOT_ALLOWED, text)) if text.contains("limit") => Fault::passing(
            Error::new(
                ErrorKind::Connection,
                format!("RabbitMQ at {host} takes no more connections for user `{user}` and vhost `{vhost}`"),
            )
            .with_source(words(error)),
        ),
        Some((code::NOT_ALLOWED, text)) if text.contains("not found") => Fault::permanent(
            Error::new(
                ErrorKind::Refused,
                format!(
                    "vhost `{vhost}` does not exist at {host}: create it (`rabbitmqctl add_vhost`), or name another \
                     after the host in the URL"
                ),
            )
            .with_source(words(error)),
        ),
        Some((code::NOT_ALLOWED, _)) => Fault::permanent(
            Error::new(
                ErrorKind::Refused,
                format!(
                    "user `{user}` may not use vhost `{vhost}` at {host}: grant it (`rabbitmqctl set_permissions`), \
                     or name another vhost in the URL"
                ),
            )
            .with_source(words(error)),
        ),
        Some((code::ACCESS_REFUSED, _)) => Fault::permanent(
            Error::new(
                ErrorKind::Refused,
                format!(
                    "RabbitMQ at {host} refused user `{user}` (vhost `{vhost}`): check user name and password in the URL"
                ),
            )
            .with_source(words(error)),
        ),
        _ if is_certificate(error) => Fault::permanent(
            Error::new(
                ErrorKind::Refused,
                format!(
                    "the TLS handshake with {host} failed: if its certificate is of your own authority, name that \
                     with `cacertfile=` in the URL; if it is for another name, with `server_name=`"
                ),
            )
            .with_source(words(error)),
        ),
        _ => Fault::passing(
            Error::new(ErrorKind::Connection, format!("RabbitMQ at {host} cannot be reached"))
                .with_source(words(error)),
        ),
    }
}

/// What a connect that took too long means.
pub(super) fn timed_out(target: &Target, host: &Host) -> Fault {
    Fault::passing(Error::new(
        ErrorKind::Connection,
        format!(
            "RabbitMQ at {host} did not answer within {:?} (`socket_timeout` in the URL): is it RabbitMQ that listens \
             there?",
            target.deadline
        ),
    ))
}

fn is_certificate(error: &lapin::Error) -> bool {
    // rustls tells a certificate from other failures in its words only, once it is wrapped.
    match error.kind() {
        Lapin::IOError(error) => {
            let words = error.to_string();
            error.kind() == std::io::ErrorKind::InvalidData || words.contains("certificate")
        }
        _ => false,
    }
}

/// What the end of a connection or channel says in a log line or a source.
pub(super) fn lost(error: &lapin::Error) -> Error {
    Error::new(ErrorKind::Connection, "the connection to RabbitMQ was lost").with_source(words(error))
}
