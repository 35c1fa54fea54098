//! Publishes to exchanges: events, and raw messages. Beside [`Client::enqueue`], which sends a job to its queue.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::broker::Publish;
use crate::client::Client;
use crate::envelope::{Envelope, HeaderValue, JobId};
use crate::error::{EventError, PublishError};
use crate::event::Event;
#[cfg(feature = "sqlite-system")]
use crate::outbox::SqlInsert;
use crate::seal::Options;
use crate::sending::Sending;
use crate::topology::{ExchangeDecl, Name, Topology};

impl Client {
    /// Publishes an event to all its subscribers. `.await` it: `Ok(id)` means that the broker has the event, in every queue that
    /// is bound for it. An event without subscribers is no error, unless [`must_route`](PublishEvent::must_route) makes it one.
    ///
    /// The exchange is declared before its first use.
    ///
    /// ```
    /// use leveret::{Client, Event};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize, Event)]
    /// #[event(exchange = "order.events", kind = "topic", key = "order.{region}.placed")]
    /// struct OrderPlaced {
    ///     order: u64,
    ///     region: String,
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// client.publish(OrderPlaced { order: 7, region: "europe".into() }).await?;
    /// # Ok(()) }
    /// ```
    pub fn publish<E: Event>(&self, event: E) -> PublishEvent<E> {
        PublishEvent(Sending::Prepared(Occurrence {
            client: self.clone(),
            event,
            must_route: false,
            options: Options::default(),
        }))
    }

    /// Publishes a raw message to an exchange that exists; the empty exchange routes to the queue that `routing_key` names.
    /// `Ok(id)` means that the broker has the message, and by the empty exchange that the queue has it. On another exchange, a
    /// message that reaches no queue is no error, unless [`must_route`](PublishRaw::must_route) makes it one.
    ///
    /// ```no_run
    /// use leveret::Properties;
    /// # use leveret::Client;
    /// # async fn f(client: Client) -> leveret::Result<()> {
    ///
    /// let properties = Properties::new().content_type("text/csv").header("tenant", "blue");
    /// client.publish_raw("amq.topic", "imports.csv", "a,b\n1,2\n", properties).must_route().await?;
    /// # Ok(()) }
    /// ```
    pub fn publish_raw(
        &self,
        exchange: impl Into<Name>,
        routing_key: impl Into<Name>,
        body: impl Into<Bytes>,
        properties: Properties,
    ) -> PublishRaw {
        let mut envelope = properties.0;
        envelope.payload = body.into();
        let publish = Publish::to_exchange(exchange, routing_key, envelope);
        PublishRaw(Sending::Prepared(Message { client: self.clone(), publish }))
    }

    /// Declares an event's exchange, unless this client has done so.
    async fn declare_exchange<E: Event>(&self) -> Result<(), EventError> {
        let name = E::EXCHANGE;
        let topology = || {
            let passive = name.starts_with("amq.");
            Ok(Topology::new().exchange(ExchangeDecl { passive, ..ExchangeDecl::new(name, E::KIND) }))
        };
        let declared = self.declare_once(&exchange_of::<E>(), topology).await;
        declared.map_err(|source| match self.if_away(source) {
            Ok(away) => EventError::Publish(away),
            Err(source) => EventError::Declare { exchange: name.to_owned(), source },
        })
    }
}

/// The key under which a client remembers that it has declared an event's exchange. No queue can have this name.
fn exchange_of<E: Event>() -> String {
    format!("exchange\n{}\n{}", E::EXCHANGE, E::KIND.as_str())
}

/// An event about to be published: set options, then `.await` it. It is a future like any other, for `tokio::spawn` or
/// `join!`. Made by [`Client::publish`].
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # use leveret::{Client, Event, task};
/// # #[derive(Serialize, Deserialize, Event)]
/// # #[event(exchange = "order.events", kind = "topic", key = "order.{region}.placed")]
/// # struct OrderPlaced { order: u64, region: String }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
/// # let client = Client::connect("memory:").await?;
/// let placed = OrderPlaced { order: 7, region: "europe".into() };
/// client.publish(placed).id("order-7").header("tenant", "blue").await?;
/// # Ok(()) }
/// ```
///
/// Setting an option after the first poll panics.
#[derive(Debug)]
#[must_use = "nothing is published until you `.await` it"]
pub struct PublishEvent<E>(Sending<Occurrence<E>, Result<JobId, EventError>>);

/// An event, and how it is published.
#[derive(Debug)]
struct Occurrence<E> {
    client: Client,
    event: E,
    must_route: bool,
    options: Options,
}

impl<E: Event> PublishEvent<E> {
    /// Makes an event that reaches no queue an error: [`PublishError::Unroutable`].
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use leveret::{Client, Event, task};
    /// # #[derive(Serialize, Deserialize, Event)]
    /// # #[event(exchange = "order.events", kind = "topic", key = "order.{region}.placed")]
    /// # struct OrderPlaced { order: u64, region: String }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leveret::Result<()> {
    /// # let client = Client::connect("memory:").await?;
    /// // No service has subscribed yet.
    /// let published = client.publish(OrderPlaced { order: 7, region: "europe".into() }).must_route().await;
    /// assert!(published.is_err());
    /// # Ok(()) }
    /// ```
    pub fn must_route(mut self) -> Self {
        self.0.message().must_route = true;
        self
    }

    /// Sets the message's id (AMQP `message_id`).
    pub fn id(mut self, id: impl Into<JobId>) -> Self {
        self.0.message().options.id = Some(id.into());
        self
    }

    /// Adds a header. Names beginning with `q-` are Leveret's own.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.0.message().options.headers.insert(name, value);
        self
    }
}

impl<E: Event> PublishEvent<E> {
    /// Makes an `INSERT` of the event, for a transaction of your own: the event is published if, and only if, that commits. See
    /// [`SqlInsert`], and [`SqlInsert::event`] for a program that has no client. [`must_route`](Self::must_route) has no
    /// effect here.
    ///
    /// # Errors
    /// If the event cannot be encoded or is too large, or its fields make no routing key.
    #[cfg(feature = "sqlite-system")]
    pub fn into_sql(self) -> Result<SqlInsert, EventError> {
        let Occurrence { client, event, options, .. } = self.0.into_message();
        Ok(SqlInsert::of_event(&client.sealer().event(&event, options)?))
    }

    /// Makes the compiler name the missing feature.
    #[cfg(not(feature = "sqlite-system"))]
    #[doc(hidden)]
    pub fn into_sql(self) -> Result<crate::without_sqlite::NoInsert, EventError>
    where
        Self: crate::without_sqlite::IntoSql,
    {
        unreachable!("nothing is `IntoSql`")
    }
}

impl<E: Event> Occurrence<E> {
    async fn send(self) -> Result<JobId, EventError> {
        let Self { client, event, must_route, options } = self;
        let mut publish = client.sealer().event(&event, options)?;
        publish.mandatory |= must_route;
        let id = publish.envelope.id.clone();
        client.declare_exchange::<E>().await?;
        match client.broker().publish(publish.clone()).await {
            // The exchange may have been deleted since we declared it.
            Err(PublishError::Unroutable { .. }) => {
                client.forget(&exchange_of::<E>());
                client.declare_exchange::<E>().await?;
                client.broker().publish(publish).await
            }
            confirmed => confirmed,
        }
        .map_err(EventError::Publish)?;
        Ok(id)
    }
}

impl<E: Event> Future for PublishEvent<E> {
    type Output = Result<JobId, EventError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, Occurrence::send)
    }
}

// The event is moved out of it before anything borrows from it.
impl<E> Unpin for PublishEvent<E> {}

/// The AMQP properties of a raw message, for [`Client::publish_raw`].
///
/// ```
/// use leveret::Properties;
///
/// let properties = Properties::new()
///     .kind("invoice.created")
///     .content_type("application/json")
///     .correlation_id("order-7")
///     .header("tenant", "blue");
/// # let _ = properties;
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Properties(Envelope);

impl Default for Properties {
    fn default() -> Self {
        Self::new()
    }
}

impl Properties {
    /// A persistent message with an id of its own, and nothing else.
    pub fn new() -> Self {
        Self(Envelope::with_id(JobId::of_properties(), Bytes::new()))
    }

    /// AMQP `message_id`.
    pub fn id(mut self, id: impl Into<JobId>) -> Self {
        self.0.id = id.into();
        self
    }

    /// AMQP `type`: the name of the task or event.
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.0.task = Some(kind.into());
        self
    }

    /// AMQP `content_type`.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.0.content_type = Some(content_type.into());
        self
    }

    /// AMQP `content_encoding`: how the body is packed, such as `gzip`. Leveret neither packs nor unpacks: a subscriber
    /// to [`RawMessage`](crate::event::RawMessage) gets the body as it is, and a task or typed event refuses it.
    pub fn content_encoding(mut self, encoding: impl Into<String>) -> Self {
        self.0.content_encoding = Some(encoding.into());
        self
    }

    /// AMQP `app_id`: the program that publishes.
    pub fn app_id(mut self, app: impl Into<String>) -> Self {
        self.0.app_id = Some(app.into());
        self
    }

    /// AMQP `priority`.
    pub fn priority(mut self, priority: u8) -> Self {
        self.0.priority = Some(priority);
        self
    }

    /// AMQP `correlation_id`.
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.0.correlation_id = Some(id.into());
        self
    }

    /// AMQP `reply_to`.
    pub fn reply_to(mut self, address: impl Into<String>) -> Self {
        self.0.reply_to = Some(address.into());
        self
    }

    /// AMQP `expiration`: how long the message may wait in a queue. Whole milliseconds.
    pub fn expiration(mut self, expiration: std::time::Duration) -> Self {
        self.0.expiration = Some(expiration);
        self
    }

    /// A header. Names beginning with `q-` are Leveret's own.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<HeaderValue>) -> Self {
        self.0.headers.insert(name, value);
        self
    }
}

/// A raw message about to be published: set options, then `.await` it. It is a future like any other, for `tokio::spawn` or
/// `join!`. Made by [`Client::publish_raw`].
///
/// ```no_run
/// # use leveret::{Client, Properties};
/// # async fn f(client: Client) -> leveret::Result<()> {
/// let message = client.publish_raw("amq.topic", "imports.csv", "a,b\n1,2\n", Properties::new());
/// message.must_route().await?;
/// # Ok(()) }
/// ```
///
/// Setting an option after the first poll panics.
#[derive(Debug)]
#[must_use = "nothing is published until you `.await` it"]
pub struct PublishRaw(Sending<Message, Result<JobId, PublishError>>);

/// A message as it is.
#[derive(Debug)]
struct Message {
    client: Client,
    publish: Publish,
}

impl PublishRaw {
    /// Makes a message that reaches no queue an error: [`PublishError::Unroutable`]. On the default exchange it always is one.
    pub fn must_route(mut self) -> Self {
        self.0.message().publish.mandatory = true;
        self
    }

    /// Drops a message to the default exchange, without an error, where its queue is missing.
    ///
    /// ```no_run
    /// # use leveret::{Client, Properties};
    /// # async fn f(client: Client) -> leveret::Result<()> {
    /// // The caller that waited for this answer may have ended, and its queue with it.
    /// client.publish_raw("", "replies.of.a.shell", "42", Properties::new()).allow_unroutable().await?;
    /// # Ok(()) }
    /// ```
    pub fn allow_unroutable(mut self) -> Self {
        self.0.message().publish.mandatory = false;
        self
    }
}

impl Message {
    async fn send(mut self) -> Result<JobId, PublishError> {
        self.client.sealer().raw(&mut self.publish.envelope)?;
        let id = self.publish.envelope.id.clone();
        self.client.broker().publish(self.publish).await?;
        Ok(id)
    }
}

impl Future for PublishRaw {
    type Output = Result<JobId, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, Message::send)
    }
}
