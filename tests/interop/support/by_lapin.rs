//! A plain lapin client, as its users write it.

use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind};

use super::Leftovers;
use super::foreign::{Argument, Header, Message, Queue};

pub(crate) struct Lapin {
    connection: Connection,
    /// With confirms.
    main: Channel,
}

impl Lapin {
    pub(super) async fn connect(url: &str) -> Self {
        let connection =
            Connection::connect(url, ConnectionProperties::default()).await.expect("the node answers");
        let main = connection.create_channel().await.expect("a channel");
        main.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        Self { connection, main }
    }

    /// Another channel.
    pub(crate) async fn channel(&self) -> Channel {
        self.connection.create_channel().await.expect("a channel")
    }

    pub(super) async fn send(&self, queue: &str, message: &Message) -> Result<(), String> {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = properties(message);
        let publish = self.main.basic_publish("".into(), queue.into(), options, &message.body, properties);
        let confirm = publish.await.map_err(|error| error.to_string())?;
        match confirm.await {
            Ok(Confirmation::Ack(None)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    pub(super) async fn get(&self, queue: &str) -> Option<Message> {
        let got = self.main.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await;
        let got = got.expect("the queue is there")?.delivery;
        Some(read(got.properties, got.data))
    }

    pub(super) async fn declare(&self, queue: &Queue) -> Result<(), String> {
        // A refusal closes the channel, so it has one of its own.
        let channel = self.channel().await;
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let mut arguments = FieldTable::default();
        for (name, value) in &queue.arguments {
            let value = match value {
                Argument::Text(text) => AMQPValue::LongString(LongString::from(*text)),
                Argument::Short(int) => AMQPValue::LongInt(*int),
                Argument::Long(int) => AMQPValue::LongLongInt(*int),
            };
            arguments.insert((*name).into(), value);
        }
        let declared = channel.queue_declare(queue.name.into(), options, arguments).await;
        declared.map(drop).map_err(|error| error.to_string())
    }

    pub(super) async fn bind(&self, exchange: &'static str, queue: &'static str, key: &'static str) {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let none = FieldTable::default;
        self.main.exchange_declare(exchange.into(), ExchangeKind::Direct, options, none()).await.unwrap();
        let options = QueueBindOptions::default();
        self.main.queue_bind(queue.into(), exchange.into(), key.into(), options, none()).await.unwrap();
    }

    pub(super) async fn delete(&self, leftovers: &Leftovers) {
        let channel = self.channel().await;
        for queue in leftovers.queues {
            channel.queue_delete((*queue).into(), QueueDeleteOptions::default()).await.unwrap();
        }
        for exchange in leftovers.exchanges {
            channel.exchange_delete((*exchange).into(), ExchangeDeleteOptions::default()).await.unwrap();
        }
    }

    pub(super) async fn close(&self) {
        // Fails where a refused declare's channel is still closing. It ends the connection all the same.
        let _ = self.connection.close(200, "done".into()).await;
    }
}

fn properties(message: &Message) -> BasicProperties {
    let mut properties = BasicProperties::default();
    if let Some(task) = &message.task {
        properties = properties.with_type(task.as_str().into());
    }
    if let Some(id) = &message.id {
        properties = properties.with_message_id(id.as_str().into());
    }
    if let Some(mode) = message.delivery_mode {
        properties = properties.with_delivery_mode(mode);
    }
    if let Some(user) = &message.user_id {
        properties = properties.with_user_id(user.as_str().into());
    }
    if let Some(content_type) = &message.content_type {
        properties = properties.with_content_type(content_type.as_str().into());
    }
    if let Some(encoding) = &message.content_encoding {
        properties = properties.with_content_encoding(encoding.as_str().into());
    }
    if let Some(app) = &message.app_id {
        properties = properties.with_app_id(app.as_str().into());
    }
    if let Some(cluster) = &message.cluster_id {
        properties = properties.with_cluster_id(cluster.as_str().into());
    }
    if let Some(id) = &message.correlation_id {
        properties = properties.with_correlation_id(id.as_str().into());
    }
    if let Some(address) = &message.reply_to {
        properties = properties.with_reply_to(address.as_str().into());
    }
    if let Some(priority) = message.priority {
        properties = properties.with_priority(priority);
    }
    if let Some(seconds) = message.timestamp {
        properties = properties.with_timestamp(seconds);
    }
    if let Some(millis) = message.expiration {
        properties = properties.with_expiration(millis.to_string().as_str().into());
    }
    if !message.headers.is_empty() {
        let mut table = FieldTable::default();
        for (name, value) in &message.headers {
            let value = match value {
                Header::Text(text) => AMQPValue::LongString(LongString::from(text.as_bytes())),
                Header::Bytes(bytes) => AMQPValue::LongString(LongString::from(bytes.as_slice())),
                Header::Int(int) => AMQPValue::LongLongInt(*int),
                Header::Lists(depth) => {
                    (0..*depth).fold(AMQPValue::Void, |inner, _| AMQPValue::FieldArray(vec![inner].into()))
                }
                Header::Other => AMQPValue::Void,
            };
            table.insert(name.as_str().into(), value);
        }
        properties = properties.with_headers(table);
    }
    properties
}

fn read(properties: BasicProperties, body: Vec<u8>) -> Message {
    let text = |value: &Option<ShortString>| value.as_ref().map(|text| text.as_str().to_owned());
    let header = |value: &AMQPValue| match value {
        AMQPValue::LongString(long) => match std::str::from_utf8(long.as_bytes()) {
            Ok(text) => Header::from(text),
            Err(_) => Header::Bytes(long.as_bytes().to_vec()),
        },
        AMQPValue::LongLongInt(int) => Header::Int(*int),
        _ => Header::Other,
    };
    let headers = properties.headers().iter().flat_map(|table| table.inner());
    Message {
        task: text(properties.kind()),
        id: text(properties.message_id()),
        delivery_mode: *properties.delivery_mode(),
        user_id: text(properties.user_id()),
        content_type: text(properties.content_type()),
        content_encoding: text(properties.content_encoding()),
        app_id: text(properties.app_id()),
        cluster_id: text(properties.cluster_id()),
        correlation_id: text(properties.correlation_id()),
        reply_to: text(properties.reply_to()),
        priority: *properties.priority(),
        timestamp: *properties.timestamp(),
        expiration: text(properties.expiration()).and_then(|millis| millis.parse().ok()),
        headers: headers.map(|(name, value)| (name.as_str().to_owned(), header(value))).collect(),
        body,
    }
}
