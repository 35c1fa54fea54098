//! Events: messages to an exchange, for all subscribers. `#[derive(Event)]` writes the impl.
//! Published by [`Client::publish`](crate::client::Client::publish).

use std::fmt::{self, Display};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::body::Body;
use crate::envelope::{Headers, Hidden, JobId};
use crate::error::PublishError;
use crate::format::{DecodeError, Format, UnknownFormat};
use crate::topology::{ExchangeKind, MAX_NAME, Name, Subscription};

/// Something that happened, published to an exchange for all subscribers. `#[derive(Event)]` implements it.
///
/// ```
/// use leveret::Event;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(exchange = "order.events", kind = "topic", key = "order.{region}.placed")]
/// struct OrderPlaced {
///     order: u64,
///     region: String,
/// }
///
/// assert_eq!(OrderPlaced::EXCHANGE, "order.events");
/// let placed = OrderPlaced { order: 7, region: "europe".into() };
/// assert_eq!(placed.routing_key().unwrap(), "order.europe.placed");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    note = "`#[derive(Event)]` with `#[event(exchange = \"order.events\", kind = \"fanout\")]` makes a struct one"
)]
pub trait Event: Body + Send + Sync + 'static {
    /// The event's name on the wire (AMQP `type`): for people and for subscribers in other languages. Leveret's subscribers
    /// take every message of their queue.
    const NAME: &'static str;

    /// The exchange that it is published to.
    const EXCHANGE: &'static str;

    /// How the exchange routes.
    const KIND: ExchangeKind;

    /// How it is written. Those that arrive are read by their own `content_type`.
    const FORMAT: Format = Format::Json;

    /// The routing key, filled from the event's fields.
    ///
    /// # Errors
    /// If a field makes no key that AMQP carries.
    fn routing_key(&self) -> Result<Name, PublishError> {
        Ok(Name::Borrowed(""))
    }

    /// The headers by which a headers exchange routes.
    fn headers(&self) -> Headers {
        Headers::new()
    }
}

/// A message as it crossed the wire, for subscribers that read messages of other programs, or of any kind.
///
/// ```
/// use leveret::{RawMessage, subscriber};
///
/// #[subscriber(queue = "audit", exchange = "order.events", kind = "topic")]
/// async fn audit(message: RawMessage) {
///     println!("{}: {} bytes", message.routing_key, message.body.len());
/// }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct RawMessage {
    /// The body.
    pub body: Bytes,
    /// The message's id (AMQP `message_id`). Leveret generates it where the message has none: see `Context::has_stable_id`.
    pub id: JobId,
    /// AMQP `type`.
    pub kind: Option<String>,
    /// AMQP `content_type`.
    pub content_type: Option<String>,
    /// AMQP `content_encoding`: how the body is packed. It is not unpacked.
    pub content_encoding: Option<String>,
    /// The exchange that it was published to.
    pub exchange: String,
    /// The routing key that it was published with.
    pub routing_key: String,
    /// AMQP `correlation_id`.
    pub correlation_id: Option<String>,
    /// AMQP `reply_to`.
    pub reply_to: Option<String>,
    /// AMQP `priority`.
    pub priority: Option<u8>,
    /// AMQP `timestamp`.
    pub timestamp: Option<SystemTime>,
    /// AMQP `expiration`: how long the message might wait in its queue. A retry has none, so that it cannot expire.
    pub expiration: Option<Duration>,
    /// AMQP `app_id`: the program that published it, if it says so.
    pub app_id: Option<String>,
    /// AMQP `user_id`: the user that published the message, if the message names it. RabbitMQ has checked it. On a retry or
    /// replay it comes from the header `q-user-id`, which every user that may publish can write.
    pub user_id: Option<String>,
    /// AMQP `cluster_id`.
    pub cluster_id: Option<String>,
    /// The headers, without Leveret's own.
    pub headers: Headers,
}

impl fmt::Debug for RawMessage {
    /// Prints the length of the body, and not the body.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { body, id, kind, content_type, content_encoding, exchange, routing_key, .. } = self;
        let Self { correlation_id, reply_to, priority, timestamp, expiration, .. } = self;
        let Self { app_id, user_id, cluster_id, headers, .. } = self;
        f.debug_struct("RawMessage")
            .field("body", &Hidden(body))
            .field("id", id)
            .field("kind", kind)
            .field("content_type", content_type)
            .field("content_encoding", content_encoding)
            .field("exchange", exchange)
            .field("routing_key", routing_key)
            .field("correlation_id", correlation_id)
            .field("reply_to", reply_to)
            .field("priority", priority)
            .field("timestamp", timestamp)
            .field("expiration", expiration)
            .field("app_id", app_id)
            .field("user_id", user_id)
            .field("cluster_id", cluster_id)
            .field("headers", headers)
            .finish()
    }
}

impl RawMessage {
    /// A message of `body`, without properties, for the unit test of a subscriber.
    ///
    /// ```
    /// use leveret::{RawMessage, subscriber};
    ///
    /// #[subscriber(queue = "audit", exchange = "order.events", kind = "topic")]
    /// async fn audit(message: RawMessage) -> Result<(), std::string::FromUtf8Error> {
    ///     String::from_utf8(message.body.to_vec()).map(drop)
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// assert!(audit(RawMessage::new("order 7")).await.is_ok());
    /// # }
    /// ```
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            id: JobId::new(),
            kind: None,
            content_type: None,
            content_encoding: None,
            exchange: String::new(),
            routing_key: String::new(),
            correlation_id: None,
            reply_to: None,
            priority: None,
            timestamp: None,
            expiration: None,
            app_id: None,
            user_id: None,
            cluster_id: None,
            headers: Headers::new(),
        }
    }
}

/// Writes a routing key from a template's parts. Generated code calls it; not public API.
#[doc(hidden)]
#[derive(Debug)]
pub struct KeyWriter {
    key: String,
    event: &'static str,
    is_topic: bool,
}

impl KeyWriter {
    /// A key without words yet.
    pub fn new(event: &'static str, kind: ExchangeKind) -> Self {
        Self { key: String::new(), event, is_topic: kind == ExchangeKind::Topic }
    }

    /// Adds what the template says literally.
    #[must_use]
    pub fn literal(mut self, text: &str) -> Self {
        self.key.push_str(text);
        self
    }

    /// Adds a field's value.
    ///
    /// # Errors
    /// In a topic's key, if it is empty or holds a dot: it would be no word, or several, and bindings would miss it.
    pub fn field(mut self, field: &str, value: &dyn Display) -> Result<Self, PublishError> {
        let start = self.key.len();
        // Writing to a string cannot fail, but a `Display` of the user's may say that it did.
        std::fmt::Write::write_fmt(&mut self.key, format_args!("{value}"))
            .map_err(|_| self.refuse(format_args!("field `{field}` cannot be written")))?;
        let word = &self.key[start..];
        if self.is_topic && (word.is_empty() || word.contains('.')) {
            return Err(self.refuse(format_args!(
                "field `{field}` is `{word}`, and must be one word: neither empty nor with a dot"
            )));
        }
        Ok(self)
    }

    /// The key.
    ///
    /// # Errors
    /// If it is longer than AMQP carries.
    pub fn finish(self) -> Result<Name, PublishError> {
        if self.key.len() > MAX_NAME {
            let len = self.key.len();
            return Err(self.refuse(format_args!("it has {len} bytes, and AMQP carries at most {MAX_NAME}")));
        }
        Ok(Name::Owned(self.key))
    }

    fn refuse(&self, why: std::fmt::Arguments<'_>) -> PublishError {
        PublishError::Invalid(format!("the routing key of event `{}` cannot be made: {why}", self.event))
    }
}

/// The parameter of a subscriber: an [`Event`] or a [`RawMessage`]. Not public API.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is neither an event nor a `RawMessage`",
    note = "`#[derive(Event)]` makes a struct an event"
)]
pub trait EventBody: Sized + Send + 'static {
    /// The exchange that it comes by, if the type says so.
    const EXCHANGE: Option<&'static str>;
    /// How that exchange routes.
    const KIND: Option<ExchangeKind>;

    /// Reads the message, of which most need no more than the body and its format.
    ///
    /// # Errors
    /// In words for the reason of a dead letter.
    fn read(
        body: &Bytes,
        format: &Result<Format, UnknownFormat>,
        message: &dyn Fn() -> RawMessage,
    ) -> Result<Self, String>;
}

#[diagnostic::do_not_recommend]
impl<E: Event> EventBody for E {
    const EXCHANGE: Option<&'static str> = Some(E::EXCHANGE);
    const KIND: Option<ExchangeKind> = Some(E::KIND);

    fn read(
        body: &Bytes,
        format: &Result<Format, UnknownFormat>,
        _: &dyn Fn() -> RawMessage,
    ) -> Result<Self, String> {
        let event = E::NAME;
        let format = format.as_ref().map_err(|unknown| format!("event `{event}`: {unknown}"))?;
        E::decode_body(*format, body).map_err(|error| match error {
            DecodeError::NotAnObject(_) => format!("the body of event `{event}` is {error}"),
            misfit => format!("the body does not fit event `{event}`: {misfit}"),
        })
    }
}

impl EventBody for RawMessage {
    const EXCHANGE: Option<&'static str> = None;
    const KIND: Option<ExchangeKind> = None;

    fn read(
        _: &Bytes,
        _: &Result<Format, UnknownFormat>,
        message: &dyn Fn() -> RawMessage,
    ) -> Result<Self, String> {
        Ok(message())
    }
}

/// The exchange that a subscriber's queue gets its messages from, as the attribute says it, or else the event's type.
#[doc(hidden)]
pub fn subscription<E: EventBody>(
    exchange: Option<&'static str>,
    kind: Option<ExchangeKind>,
) -> Subscription {
    let exchange = exchange.or(E::EXCHANGE).expect("a constant has checked it");
    Subscription::new(exchange, kind.or(E::KIND).expect("a constant has checked it"))
}

/// Checks at compile time that attribute and type agree, and that the bindings suit the exchange. `by_headers` has one element
/// a binding: true for a binding by headers.
///
/// # Panics
/// If they do not.
#[doc(hidden)]
pub const fn check_subscription<E: EventBody>(
    exchange: Option<&str>,
    kind: Option<ExchangeKind>,
    by_headers: &[bool],
) {
    match (exchange, E::EXCHANGE) {
        (None, None) => panic!(
            "a `RawMessage` does not say where it comes from: add `exchange = \"…\"`, or `exchange = \"\"` for what is \
             sent to the queue by its name"
        ),
        // AMQP's default exchange, which needs neither a kind nor a binding.
        (Some(written), None) if written.is_empty() => return,
        (Some(written), Some(_)) if written.is_empty() => panic!(
            "an event comes by its own exchange: leave `exchange` out, or take a `RawMessage`, which may be sent to the \
             queue by its name"
        ),
        (Some(written), Some(own)) if !is_same(written, own) => {
            panic!(
                "the event is published to another exchange: leave `exchange` out, or take an event of this one"
            )
        }
        _ => {}
    }
    let kind = match (kind, E::KIND) {
        (None, None) => {
            panic!("a `RawMessage` does not say how its exchange routes: add `kind = \"topic\"`, say")
        }
        (Some(written), Some(own)) if written as u8 != own as u8 => {
            panic!("the event's exchange is of another kind: leave `kind` out")
        }
        (Some(kind), _) | (None, Some(kind)) => kind,
    };
    match kind {
        ExchangeKind::Direct if by_headers.is_empty() => {
            panic!("a direct exchange sends nothing without a binding: add `binding = \"key\"`")
        }
        ExchangeKind::Headers if by_headers.is_empty() => {
            panic!(
                "a headers exchange sends nothing without a binding: add `binding(region = \"europe\")`, say"
            )
        }
        ExchangeKind::Fanout if !by_headers.is_empty() => {
            panic!("a fanout exchange sends everything to everybody: remove `binding`")
        }
        _ => {}
    }
    let mut at = 0;
    while at < by_headers.len() {
        match kind {
            ExchangeKind::Headers if !by_headers[at] => {
                panic!("a headers exchange ignores keys: write `binding(region = \"europe\")`, say")
            }
            ExchangeKind::Direct | ExchangeKind::Topic if by_headers[at] => {
                panic!("only a headers exchange looks at headers: write `binding = \"key\"`")
            }
            _ => {}
        }
        at += 1;
    }
}

/// `==` of text, which constants cannot say yet.
const fn is_same(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    let mut at = 0;
    while at < left.len() && at < right.len() && left[at] == right[at] {
        at += 1;
    }
    at == left.len() && at == right.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: ExchangeKind, region: &str) -> Result<Name, PublishError> {
        KeyWriter::new("OrderPlaced", kind)
            .literal("order.")
            .field("region", &region)?
            .literal(".placed")
            .finish()
    }

    #[test]
    fn key_is_filled_from_fields() {
        assert_eq!(key(ExchangeKind::Topic, "europe").unwrap(), "order.europe.placed");
        assert_eq!(key(ExchangeKind::Direct, "eu.west").unwrap(), "order.eu.west.placed");
    }

    #[test]
    fn value_that_is_no_word_of_a_topic_is_refused_by_name() {
        for region in ["eu.west", ""] {
            let words = key(ExchangeKind::Topic, region).unwrap_err().to_string();
            assert!(words.contains("`OrderPlaced`") && words.contains("field `region`"), "{words}");
        }
        assert!(key(ExchangeKind::Topic, &"x".repeat(250)).unwrap_err().to_string().contains("263 bytes"));
    }
}
