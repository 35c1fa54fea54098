//! Explains lapin's errors: if trying again helps, and what to tell the user.
//!
//! lapin's own classes mislead here: a refused login is a "soft" error that ends the connection, and it calls every
//! protocol error recoverable. So it is judged by where it happened and by its code.

use std::time::Duration;

use lapin::ErrorKind as Lapin;
use lapin::protocol::AMQPError;

use super::url::{Host, Target};
use crate::error::{BoxError, Error, ErrorKind};

/// The reason why a connection could not be opened.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) cause: Cause,
    /// In words.
    pub(crate) error: Error,
}

/// The cause that kept a connection from being opened. Of several hosts' causes the greatest counts, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// Only a person can mend this host: a bad certificate, or another service behind its port. That says nothing of the
    /// other hosts, which may only be restarting.
    Unfit,
    /// Nothing takes connections there, or it hangs up before the login.
    Absent,
    /// It takes connections, and says nothing.
    Silent,
    /// It answers, but something fails: what it ran out of, or the connection broke.
    Unwell,
    /// Only a person can mend it: wrong password, missing vhost. The other hosts of a cluster would say the same.
    Refused,
}

impl Cause {
    /// True if only a person can mend it.
    pub(crate) fn is_for_a_person(self) -> bool {
        matches!(self, Self::Unfit | Self::Refused)
    }
}

impl Fault {
    pub(crate) fn unwell(error: Error) -> Self {
        Self { cause: Cause::Unwell, error }
    }

    pub(super) fn refused(error: Error) -> Self {
        Self { cause: Cause::Refused, error }
    }

    fn unfit(error: Error) -> Self {
        Self { cause: Cause::Unfit, error }
    }

    fn absent(error: Error) -> Self {
        Self { cause: Cause::Absent, error }
    }
}

/// AMQP's reply codes, as far as they are told apart here.
pub(crate) mod code {
    pub(crate) const ACCESS_REFUSED: u16 = 403;
    pub(crate) const NOT_FOUND: u16 = 404;
    pub(crate) const RESOURCE_LOCKED: u16 = 405;
    pub(crate) const PRECONDITION_FAILED: u16 = 406;
    pub(crate) const NOT_ALLOWED: u16 = 530;
    pub(crate) const INTERNAL_ERROR: u16 = 541;
}

/// The code and text of an error that the server sent.
pub(crate) fn protocol(error: &lapin::Error) -> Option<(u16, &str)> {
    match error.kind() {
        Lapin::ProtocolError(error) => Some((AMQPError::get_id(error), error.get_message().as_str())),
        _ => None,
    }
}

/// The source of our own errors: the server's text without lapin's words around it, or lapin's own error.
pub(crate) fn words(error: &lapin::Error) -> BoxError {
    match protocol(error) {
        Some((_, text)) => text.into(),
        None => error.clone().into(),
    }
}

/// True if the connection has as many channels as it may have.
pub(crate) fn is_out_of_channels(error: &lapin::Error) -> bool {
    matches!(error.kind(), Lapin::ChannelsLimitReached)
}

/// The error for a queue on a connection that is out of channels; each queue is consumed on a channel of its own.
pub(crate) fn out_of_channels(queue: &str) -> Error {
    Error::config(format!(
        "queue `{queue}` cannot be consumed: the connection has no channel left, and each queue takes one; raise \
         `channel_max` in the broker's URL and on the server, or consume fewer queues in one worker"
    ))
}

/// True if the message could not even be parsed; lapin gives the connection up then.
pub(crate) fn is_unparsable(error: &lapin::Error) -> bool {
    matches!(error.kind(), Lapin::ParsingError(_))
}

/// Explains a failed connect.
pub(super) fn connecting(target: &Target, host: &Host, error: &lapin::Error) -> Fault {
    let Target { user, vhost, .. } = target;
    match protocol(error) {
        // A limit on connections passes; the other refusals do not.
        Some((code::NOT_ALLOWED, text)) if text.contains("limit") => Fault::unwell(
            Error::new(
                ErrorKind::Connection,
                format!("RabbitMQ at {host} takes no more connections for user `{user}` and vhost `{vhost}`"),
            )
            .with_source(words(error)),
        ),
        Some((code::NOT_ALLOWED, text)) if text.contains("not found") => Fault::refused(
            Error::new(
                ErrorKind::Refused,
                format!(
                    "vhost `{vhost}` does not exist at {host}: create it (`rabbitmqctl add_vhost`), or name another \
                     after the host in the URL"
                ),
            )
            .with_source(words(error)),
        ),
        Some((code::NOT_ALLOWED, _)) => Fault::refused(
            Error::new(
                ErrorKind::Refused,
                format!(
                    "user `{user}` may not use vhost `{vhost}` at {host}: grant it (`rabbitmqctl set_permissions`), \
                     or name another vhost in the URL"
                ),
            )
            .with_source(words(error)),
        ),
        Some((code::ACCESS_REFUSED, _)) => Fault::refused(
            Error::new(
                ErrorKind::Refused,
                format!(
                    "RabbitMQ at {host} refused user `{user}` (vhost `{vhost}`): check user name and password in the URL"
                ),
            )
            .with_source(words(error)),
        ),
        _ if is_unparsable(error) => Fault::unfit(Error::new(
            ErrorKind::Config,
            format!(
                "what listens at {host} does not speak AMQP 0-9-1: check the port in the URL; if that is a TLS port, begin \
                 the URL with `amqps://`"
            ),
        )),
        _ if is_tls(error) => {
            let (kind, message) = handshake(target, host, &error.to_string());
            Fault::unfit(Error::new(kind, message).with_source(words(error)))
        }
        // A server that hangs up may be one that refuses us: its reason, if it sent one, is lost when it closes too soon.
        _ if is_hang_up(error) => Fault::absent(
            Error::new(
                ErrorKind::Connection,
                format!("{host} closed the connection before the login: {}", refused_perhaps(target)),
            )
            .with_source(words(error)),
        ),
        _ => Fault::absent(
            Error::new(
                ErrorKind::Connection,
                format!("RabbitMQ at {host} cannot be reached: start it, or check host and port in the URL"),
            )
            .with_source(words(error)),
        ),
    }
}

/// Explains a connect that took too long.
pub(super) fn timed_out(host: &Host, deadline: Duration) -> Fault {
    let words = format!(
        "RabbitMQ at {host} did not answer within {deadline:?} (`socket_timeout` in the URL): is it RabbitMQ that \
         listens there?"
    );
    Fault { cause: Cause::Silent, error: Error::new(ErrorKind::Connection, words) }
}

fn is_tls(error: &lapin::Error) -> bool {
    // rustls tells a certificate from other failures in its words only, once it is wrapped.
    match error.kind() {
        Lapin::IOError(error) => {
            let words = error.to_string();
            error.kind() == std::io::ErrorKind::InvalidData || words.contains("certificate")
        }
        _ => false,
    }
}

fn is_hang_up(error: &lapin::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error.kind() {
        Lapin::IOError(error) => {
            matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
        }
        _ => false,
    }
}

/// The advice for a server that gives no reason.
fn refused_perhaps(target: &Target) -> &'static str {
    match &target.tls {
        None => "if that is a TLS port, begin the URL with `amqps://`",
        Some(tls) if tls.identity.is_some() => {
            "if it does not trust our certificate, check `certfile=` and `keyfile=` in the URL"
        }
        Some(_) => "if it wants a certificate of ours, give `certfile=` and `keyfile=` in the URL",
    }
}

/// Explains a failed TLS handshake. `said` is rustls's error.
fn handshake(target: &Target, host: &Host, said: &str) -> (ErrorKind, String) {
    let tls = target.tls.as_ref();
    if said.contains("corrupt message") {
        let words = format!(
            "what listens at {host} does not speak TLS: use its TLS port (RabbitMQ's is 5671), or begin the URL with \
             `amqp://`"
        );
        return (ErrorKind::Config, words);
    }
    let words = if said.contains("UnknownIssuer") && tls.is_some_and(|tls| tls.ca.is_some()) {
        format!(
            "the certificate of {host} is not of the authority that `cacertfile=` in the URL names: name the right one"
        )
    } else if said.contains("UnknownIssuer") {
        format!(
            "the certificate of {host} is of no authority that this machine trusts: name your own with `cacertfile=` in \
             the URL"
        )
    } else if said.contains("not valid for name") {
        format!(
            "the certificate of {host} is for another name: write that name in the URL, or give it with `server_name=`"
        )
    } else if said.contains("fatal alert") && tls.is_some_and(|tls| tls.identity.is_some()) {
        format!("{host} refused our certificate: check `certfile=` and `keyfile=` in the URL")
    } else if said.contains("fatal alert") {
        format!(
            "{host} refused the TLS handshake: if it wants a certificate of ours, give `certfile=` and `keyfile=` in the URL"
        )
    } else {
        format!(
            "the TLS handshake with {host} failed: check its certificate, and the clocks of both machines"
        )
    };
    (ErrorKind::Refused, words)
}

/// Describes the end of a connection or channel, for a log line or a source.
pub(crate) fn lost(error: &lapin::Error) -> Error {
    Error::new(ErrorKind::Connection, "the connection to RabbitMQ was lost").with_source(words(error))
}

/// The error of a caller that finds the connection gone.
pub(crate) fn gone() -> Error {
    Error::new(ErrorKind::Connection, "the connection to RabbitMQ is gone")
}
