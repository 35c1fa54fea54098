//! A program that is not ours: it publishes, declares and reads by AMQP alone. On RabbitMQ a plain lapin client
//! ([`by_lapin`](super::by_lapin)); on the brokers that only Leveret reaches, the broker's own interface.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use leveret::Client;
use queue_core::broker::{ConsumeOptions, Publish};
use queue_core::envelope::{Envelope, HeaderValue};
use queue_core::settlement::Settlement;
use queue_core::topology::{BindingDecl, ExchangeDecl, ExchangeKind, QueueDecl, Topology};

use super::Leftovers;
#[cfg(feature = "rabbitmq")]
use super::by_lapin::Lapin;

#[allow(clippy::large_enum_variant, reason = "there is one for each test")]
pub(crate) enum Foreign {
    #[cfg(feature = "rabbitmq")]
    Lapin(Lapin),
    Ours(Client),
}

/// A message as it crosses the wire. [`Message::bare`] has nothing but its body.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Message {
    pub(crate) body: Vec<u8>,
    /// AMQP's property `type`.
    pub(crate) task: Option<String>,
    /// AMQP's property `message_id`.
    pub(crate) id: Option<String>,
    /// AMQP's property `delivery_mode`; brokers of our own have none.
    pub(crate) delivery_mode: Option<u8>,
    /// AMQP's property `user_id`; brokers of our own have none.
    pub(crate) user_id: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) content_encoding: Option<String>,
    pub(crate) app_id: Option<String>,
    pub(crate) cluster_id: Option<String>,
    pub(crate) correlation_id: Option<String>,
    pub(crate) reply_to: Option<String>,
    pub(crate) priority: Option<u8>,
    /// In seconds since 1970.
    pub(crate) timestamp: Option<u64>,
    /// In milliseconds.
    pub(crate) expiration: Option<u64>,
    pub(crate) headers: BTreeMap<String, Header>,
}

/// The kinds of header that the tests need.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Header {
    Text(String),
    /// A long string that is not UTF-8.
    Bytes(Vec<u8>),
    Int(i64),
    /// So many lists, each in the next.
    Lists(usize),
    /// Some other kind.
    Other,
}

impl From<&str> for Header {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl Message {
    /// What any program can send: a body without properties.
    pub(crate) fn bare(body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::default() }
    }

    /// With the property `type`.
    pub(crate) fn task(mut self, task: impl Into<String>) -> Self {
        self.task = Some(task.into());
        self
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<Header>) -> Self {
        self.headers.insert(name.to_owned(), value.into());
        self
    }

    /// A header that is text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.headers.get(name)? {
            Header::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// A queue as a program declares it: durable, with these arguments.
pub(crate) struct Queue {
    pub(crate) name: &'static str,
    pub(crate) arguments: Vec<(&'static str, Argument)>,
}

/// A queue's argument, as AMQP types it.
#[derive(Clone)]
pub(crate) enum Argument {
    Text(&'static str),
    /// What pika makes of an integer: 32 bits, where it fits.
    Short(i32),
    /// What lapin's users often write: 64 bits.
    Long(i64),
}

impl Foreign {
    pub(crate) async fn connect(url: &str) -> Self {
        #[cfg(feature = "rabbitmq")]
        if url.starts_with("amqp") {
            return Self::Lapin(Lapin::connect(url).await);
        }
        // Without the feature `rabbitmq`, Leveret says here that RabbitMQ takes it.
        Self::Ours(Client::connect(url).await.unwrap_or_else(|error| panic!("{error}")))
    }

    /// Publishes to a queue, and waits for the confirm.
    pub(crate) async fn send(&self, queue: &str, message: Message) {
        self.try_send(queue, message).await.expect("published");
    }

    /// The same, where the broker may refuse.
    pub(crate) async fn try_send(&self, queue: &str, message: Message) -> Result<(), String> {
        match self {
            #[cfg(feature = "rabbitmq")]
            Self::Lapin(lapin) => lapin.send(queue, &message).await,
            Self::Ours(client) => {
                let publish = Publish::to_queue(queue.to_owned(), envelope(message));
                client.broker().publish(publish).await.map_err(|error| error.to_string())
            }
        }
    }

    /// Takes one message, if there is one.
    pub(crate) async fn get(&self, queue: &str) -> Option<Message> {
        match self {
            #[cfg(feature = "rabbitmq")]
            Self::Lapin(lapin) => lapin.get(queue).await,
            Self::Ours(client) => {
                let ready =
                    client.operator().unwrap().inspect(queue).await.expect("the queue is there").ready;
                if ready == 0 {
                    return None;
                }
                let consume = client.broker().consume(ConsumeOptions::new(queue.to_owned()));
                let delivery = consume.await.unwrap().next().await.expect("a message").expect("no error");
                let message = read_envelope(&delivery.envelope);
                delivery.settle(Settlement::Ack).await.unwrap();
                Some(message)
            }
        }
    }

    /// Declares a queue, with the words of the refusal where it exists with other arguments.
    pub(crate) async fn declare(&self, queue: &Queue) -> Result<(), String> {
        match self {
            #[cfg(feature = "rabbitmq")]
            Self::Lapin(lapin) => lapin.declare(queue).await,
            Self::Ours(client) => {
                let mut decl = QueueDecl::new(queue.name);
                for (name, value) in &queue.arguments {
                    decl = match value {
                        Argument::Text(text) => decl.argument(*name, *text),
                        Argument::Short(int) => decl.argument(*name, i64::from(*int)),
                        Argument::Long(int) => decl.argument(*name, *int),
                    };
                }
                client.declare(&Topology::new().queue(decl)).await.map_err(|error| error.to_string())
            }
        }
    }

    /// Declares a durable direct exchange, and binds a queue to it.
    pub(crate) async fn bind(&self, exchange: &'static str, queue: &'static str, key: &'static str) {
        match self {
            #[cfg(feature = "rabbitmq")]
            Self::Lapin(lapin) => lapin.bind(exchange, queue, key).await,
            Self::Ours(client) => {
                let exchange_decl = ExchangeDecl::new(exchange, ExchangeKind::Direct);
                let binding = BindingDecl::new(exchange, queue, key);
                client.declare(&Topology::new().exchange(exchange_decl).binding(binding)).await.unwrap();
            }
        }
    }

    /// Deletes what an earlier test may have left. What is not there is fine.
    #[cfg_attr(
        not(feature = "rabbitmq"),
        expect(unused_variables, reason = "each test has a broker of its own")
    )]
    pub(crate) async fn delete(&self, leftovers: &Leftovers) {
        match self {
            #[cfg(feature = "rabbitmq")]
            Self::Lapin(lapin) => lapin.delete(leftovers).await,
            // A broker of our own is each test's own.
            Self::Ours(_) => {}
        }
    }

    pub(crate) async fn close(&self) {
        match self {
            #[cfg(feature = "rabbitmq")]
            Self::Lapin(lapin) => lapin.close().await,
            Self::Ours(client) => client.close().await,
        }
    }
}

fn envelope(message: Message) -> Envelope {
    let mut envelope = Envelope::new(message.body);
    envelope.task = message.task;
    if let Some(id) = message.id {
        envelope.id = id.into();
    }
    envelope.content_type = message.content_type;
    envelope.content_encoding = message.content_encoding;
    envelope.app_id = message.app_id;
    envelope.cluster_id = message.cluster_id;
    envelope.correlation_id = message.correlation_id;
    envelope.reply_to = message.reply_to;
    envelope.priority = message.priority;
    envelope.enqueued_at = message.timestamp.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
    envelope.expiration = message.expiration.map(Duration::from_millis);
    for (name, value) in message.headers {
        let value = match value {
            Header::Text(text) => HeaderValue::from(text),
            Header::Bytes(bytes) => HeaderValue::Bytes(bytes.into()),
            Header::Int(int) => HeaderValue::Int(int),
            Header::Lists(depth) => {
                (0..depth).fold(HeaderValue::Null, |inner, _| HeaderValue::List(vec![inner]))
            }
            Header::Other => HeaderValue::Null,
        };
        envelope.headers.insert(name, value);
    }
    envelope
}

fn read_envelope(envelope: &Envelope) -> Message {
    let header = |value: &HeaderValue| match value {
        HeaderValue::String(text) => Header::from(text.as_str()),
        HeaderValue::Bytes(bytes) => Header::Bytes(bytes.to_vec()),
        HeaderValue::Int(int) => Header::Int(*int),
        _ => Header::Other,
    };
    Message {
        body: envelope.payload.to_vec(),
        task: envelope.task.clone(),
        id: Some(envelope.id.as_str().to_owned()),
        // Brokers of our own keep everything alike.
        delivery_mode: Some(2),
        user_id: None,
        content_type: envelope.content_type.clone(),
        content_encoding: envelope.content_encoding.clone(),
        app_id: envelope.app_id.clone(),
        cluster_id: envelope.cluster_id.clone(),
        correlation_id: envelope.correlation_id.clone(),
        reply_to: envelope.reply_to.clone(),
        priority: envelope.priority,
        timestamp: envelope.enqueued_at.map(|at| at.duration_since(UNIX_EPOCH).unwrap().as_secs()),
        expiration: envelope.expiration.map(|expiration| expiration.as_millis().try_into().unwrap()),
        headers: envelope.headers.iter().map(|(name, value)| (name.to_owned(), header(value))).collect(),
    }
}
