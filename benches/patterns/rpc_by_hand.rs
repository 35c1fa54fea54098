//! RPC by hand, as the AMQP tutorials have it: direct reply-to, correlation ids, each send awaited. The server answers
//! `callers` requests at once, and the client shares one channel among its callers.
//!
//! Plain, nothing is confirmed: a request to a queue that is gone is never heard of again. Confirmed, it is mandatory and
//! its confirm awaited. One caller alone reads its replies by itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::stream::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use queue_core::envelope::JobId;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::rpc::{AsyncCall, Round, measure};

const REPLIES: &str = "amq.rabbitmq.reply-to";

/// Whether requests say which job they are, of what type, since and until when, and replies what they are, as Leveret's
/// do.
pub(crate) static IS_LABELLED: AtomicBool = AtomicBool::new(false);

/// The payload, field for field that of our task.
#[derive(Serialize, Deserialize)]
struct Add {
    a: u64,
    b: u64,
}

/// One round.
pub(crate) async fn by_hand(
    url: &str,
    queue: &str,
    callers: usize,
    calls: usize,
    is_confirmed: bool,
) -> Round {
    let server = serve(url, queue, callers).await;
    let connection = connect(url).await;
    let wire = Wire::open(&connection, queue, is_confirmed).await;
    let round = if callers == 1 {
        measure(&Lone::new(wire).await, callers, calls).await
    } else {
        measure(&Shared::new(wire).await, callers, calls).await
    };
    close(connection).await;
    close(server).await;
    round
}

async fn connect(url: &str) -> Connection {
    Connection::connect(url, ConnectionProperties::default()).await.expect("the bench's node answers")
}

async fn close(connection: Connection) {
    connection.close(200, "done".into()).await.expect("closed");
}

async fn serve(url: &str, queue: &str, slots: usize) -> Connection {
    let connection = connect(url).await;
    let channel = connection.create_channel().await.expect("a channel");
    let prefetch = u16::try_from(slots).expect("few slots");
    channel.basic_qos(prefetch, BasicQosOptions::default()).await.expect("qos");
    let options = BasicConsumeOptions::default();
    let requests = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
    let mut requests = requests.await.expect("a consumer");
    tokio::spawn(async move {
        while let Some(Ok(request)) = requests.next().await {
            if slots == 1 {
                answer(&channel, request).await;
            } else {
                let channel = channel.clone();
                tokio::spawn(async move { answer(&channel, request).await });
            }
        }
    });
    connection
}

async fn answer(channel: &Channel, request: Delivery) {
    let Add { a, b } = serde_json::from_slice(&request.data).expect("JSON");
    let reply = serde_json::to_vec(&(a + b)).expect("JSON");
    let mut properties = BasicProperties::default()
        .with_correlation_id(request.properties.correlation_id().clone().expect("an id"));
    if IS_LABELLED.load(Ordering::Relaxed) {
        properties = properties
            .with_message_id(JobId::new().as_str().into())
            .with_content_type("application/json".into());
    }
    let address = request.properties.reply_to().clone().expect("an address");
    channel
        .basic_publish("".into(), address, BasicPublishOptions::default(), &reply, properties)
        .await
        .expect("published");
    // The last one may come after the connection is closed.
    let _ = request.ack(BasicAckOptions::default()).await;
}

/// The client's channel.
#[derive(Clone)]
struct Wire {
    channel: Channel,
    queue: ShortString,
    is_confirmed: bool,
}

impl Wire {
    async fn open(connection: &Connection, queue: &str, is_confirmed: bool) -> Self {
        let channel = connection.create_channel().await.expect("a channel");
        if is_confirmed {
            channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        }
        Self { channel, queue: queue.into(), is_confirmed }
    }

    async fn replies(&self) -> Consumer {
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let replies = self.channel.basic_consume(REPLIES.into(), "".into(), options, FieldTable::default());
        replies.await.expect("a consumer")
    }

    async fn ask(&self, id: String, a: u64, b: u64) {
        let mut properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_correlation_id(id.into())
            .with_reply_to(REPLIES.into());
        if IS_LABELLED.load(Ordering::Relaxed) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
            let deadline = i64::try_from((now + Duration::from_secs(30)).as_millis()).expect("soon");
            let mut headers = FieldTable::default();
            headers.insert("q-deadline".into(), AMQPValue::LongLongInt(deadline));
            properties = properties
                .with_message_id(JobId::new().as_str().into())
                .with_type("add_classic".into())
                .with_timestamp(now.as_secs())
                .with_headers(headers);
        }
        let body = serde_json::to_vec(&Add { a, b }).expect("JSON");
        let options = BasicPublishOptions { mandatory: self.is_confirmed, ..BasicPublishOptions::default() };
        let publish = self.channel.basic_publish("".into(), self.queue.clone(), options, &body, properties);
        // Without confirms this is there at once.
        let confirmation = publish.await.expect("published").await.expect("confirmed");
        assert!(!confirmation.is_nack() && confirmation.take_message().is_none(), "it reached no queue");
    }
}

/// One caller alone.
#[derive(Clone)]
struct Lone {
    wire: Wire,
    replies: Arc<tokio::sync::Mutex<Consumer>>,
    next: Arc<AtomicU64>,
}

impl Lone {
    async fn new(wire: Wire) -> Self {
        let replies = Arc::new(tokio::sync::Mutex::new(wire.replies().await));
        Self { wire, replies, next: Arc::default() }
    }
}

impl AsyncCall for Lone {
    async fn add(&self, a: u64, b: u64) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let mut replies = self.replies.lock().await;
        self.wire.ask(id.clone(), a, b).await;
        let reply = replies.next().await.expect("a reply").expect("no error");
        let answers = reply.properties.correlation_id().as_ref().map(ShortString::as_str);
        assert_eq!(answers, Some(&*id));
        serde_json::from_slice(&reply.data).expect("JSON")
    }
}

/// Many callers on one channel.
#[derive(Clone)]
struct Shared {
    wire: Wire,
    waiting: Arc<Mutex<HashMap<String, oneshot::Sender<Vec<u8>>>>>,
    next: Arc<AtomicU64>,
}

impl Shared {
    async fn new(wire: Wire) -> Self {
        let mut replies = wire.replies().await;
        let waiting = Arc::new(Mutex::new(HashMap::<String, oneshot::Sender<Vec<u8>>>::new()));
        let reading = waiting.clone();
        tokio::spawn(async move {
            while let Some(Ok(reply)) = replies.next().await {
                let id = reply.properties.correlation_id().as_ref().expect("an id").to_string();
                let caller = reading.lock().unwrap().remove(&id);
                let _ = caller.expect("who asked").send(reply.data);
            }
        });
        Self { wire, waiting, next: Arc::default() }
    }
}

impl AsyncCall for Shared {
    async fn add(&self, a: u64, b: u64) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let (sender, reply) = oneshot::channel();
        self.waiting.lock().unwrap().insert(id.clone(), sender);
        self.wire.ask(id, a, b).await;
        serde_json::from_slice(&reply.await.expect("a reply")).expect("JSON")
    }
}
