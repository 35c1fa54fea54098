//! Between an [`Envelope`] and AMQP's properties. What a foreign producer wrote is read leniently: nothing that
//! arrives is refused here, since a message that cannot be read can never leave its queue.

use std::time::{Duration, UNIX_EPOCH};

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString};

use crate::broker::{DIRECT_REPLY_TO, reply};
use crate::envelope::{Envelope, HeaderValue, Headers, JobId, header};
use crate::topology::MAX_NAME;

/// AMQP's `delivery_mode` of a message that survives a restart of the broker. One without does not.
const PERSISTENT: u8 = 2;

/// A short string of what [`check_publish`](crate::broker::amqp::check_publish) has let through; what is longer nevertheless is cut, never a panic.
pub(crate) fn short(text: &str) -> ShortString {
    ShortString::try_new(crate::envelope::truncate(text, MAX_NAME)).unwrap_or_default()
}

/// The properties of an envelope. `mark` is unique to this publish; a returned message is [known by it](crate::broker::rabbitmq::publish::returns).
pub(crate) fn properties(envelope: &Envelope, mark: Option<i64>) -> BasicProperties {
    let properties = transient_properties(envelope, mark);
    // After a restart of the broker no caller waits for the reply to a request any more.
    if reply::is_request(envelope) { properties } else { properties.with_delivery_mode(PERSISTENT) }
}

/// The properties of a direct reply, which is not returned, and is kept nowhere.
pub(crate) fn reply_properties(envelope: &Envelope) -> BasicProperties {
    transient_properties(envelope, None)
}

/// Ignores the delivery mode: the server reads and writes every property that there is.
fn transient_properties(envelope: &Envelope, mark: Option<i64>) -> BasicProperties {
    let mut headers = table(&envelope.headers);
    if let Some(mark) = mark {
        headers.insert(short(header::PUBLISH), AMQPValue::LongLongInt(mark));
    }
    // Absent means 1, so that a first attempt looks like any AMQP client's message.
    if envelope.attempt > 1 {
        headers.insert(short(header::ATTEMPT), AMQPValue::LongLongInt(envelope.attempt.into()));
    }
    let mut properties = BasicProperties::default().with_message_id(short(envelope.id.as_str()));
    if !headers.inner().is_empty() {
        properties = properties.with_headers(headers);
    }
    if let Some(task) = &envelope.task {
        properties = properties.with_type(short(task));
    }
    if let Some(content_type) = &envelope.content_type {
        properties = properties.with_content_type(short(content_type));
    }
    if let Some(encoding) = &envelope.content_encoding {
        properties = properties.with_content_encoding(short(encoding));
    }
    if let Some(priority) = envelope.priority {
        properties = properties.with_priority(priority);
    }
    if let Some(at) = envelope.enqueued_at {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        properties = properties.with_timestamp(since.as_secs());
    }
    if let Some(id) = &envelope.correlation_id {
        properties = properties.with_correlation_id(short(id));
    }
    if let Some(address) = &envelope.reply_to {
        properties = properties.with_reply_to(short(address));
    }
    if let Some(expiration) = envelope.expiration {
        properties = properties.with_expiration(short(&expiration.as_millis().to_string()));
    }
    if let Some(app) = &envelope.app_id {
        properties = properties.with_app_id(short(app));
    }
    if let Some(cluster) = &envelope.cluster_id {
        properties = properties.with_cluster_id(short(cluster));
    }
    properties
}

/// The envelope of a delivered message. A message without an id is given one.
pub(crate) fn envelope(properties: BasicProperties, body: Vec<u8>) -> Envelope {
    let text = |value: &Option<ShortString>| value.as_ref().map(|text| text.as_str().to_owned());
    let mut headers = properties.headers().as_ref().map(headers).unwrap_or_default();
    let id = match properties.message_id() {
        Some(id) if !id.as_str().is_empty() => JobId::from(id.as_str()),
        _ => {
            // One made of the body would be the same at each delivery, and the same for two orders of one item: a handler
            // that deduplicates would lose the second.
            headers.insert(header::NO_ID, true);
            JobId::new()
        }
    };
    headers.remove(header::PUBLISH);
    // The server closes the channel of a user who publishes in another's name, and a copy of the message is ours.
    if let Some(user) = properties.user_id() {
        headers.insert(header::USER_ID, user.as_str());
    }
    let attempt = match headers.get(header::ATTEMPT).and_then(HeaderValue::as_int) {
        Some(attempt) => {
            headers.remove(header::ATTEMPT);
            u32::try_from(attempt.max(1)).unwrap_or(u32::MAX)
        }
        None => 1,
    };
    let expiration = properties.expiration().as_ref().and_then(|text| text.as_str().parse().ok());
    let enqueued_at =
        properties.timestamp().and_then(|secs| UNIX_EPOCH.checked_add(Duration::from_secs(secs)));
    Envelope {
        id,
        task: text(properties.kind()),
        payload: body.into(),
        content_type: text(properties.content_type()),
        content_encoding: text(properties.content_encoding()),
        attempt,
        priority: *properties.priority(),
        enqueued_at,
        correlation_id: text(properties.correlation_id()),
        // The server replaces this name by an address. Where something else let it through, it leads nowhere, and a copy
        // of the job would be refused for it.
        reply_to: text(properties.reply_to()).filter(|address| address != DIRECT_REPLY_TO),
        expiration: expiration.map(Duration::from_millis),
        app_id: text(properties.app_id()),
        cluster_id: text(properties.cluster_id()),
        headers,
    }
}

/// The mark of a returned message, if it carries one.
pub(crate) fn mark(properties: &BasicProperties) -> Option<i64> {
    match properties.headers().as_ref()?.inner().get(header::PUBLISH)? {
        AMQPValue::LongLongInt(id) => Some(*id),
        _ => None,
    }
}

/// Headers or queue arguments as an AMQP table.
pub(crate) fn table(headers: &Headers) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in headers.iter() {
        table.insert(short(name), amqp_value(value));
    }
    table
}

fn amqp_value(value: &HeaderValue) -> AMQPValue {
    match value {
        HeaderValue::Null => AMQPValue::Void,
        HeaderValue::Bool(value) => AMQPValue::Boolean(*value),
        HeaderValue::Int(value) => AMQPValue::LongLongInt(*value),
        HeaderValue::Float(value) => AMQPValue::Double(*value),
        HeaderValue::String(text) => AMQPValue::LongString(LongString::from(text.as_bytes())),
        HeaderValue::Bytes(bytes) => AMQPValue::LongString(LongString::from(bytes.as_ref())),
        HeaderValue::Timestamp(secs) => AMQPValue::Timestamp(*secs),
        HeaderValue::List(values) => {
            AMQPValue::FieldArray(FieldArray::from(values.iter().map(amqp_value).collect::<Vec<_>>()))
        }
        HeaderValue::Table(headers) => AMQPValue::FieldTable(table(headers)),
    }
}

fn headers(table: &FieldTable) -> Headers {
    nested_headers(table, 0)
}

fn nested_headers(table: &FieldTable, depth: usize) -> Headers {
    table.inner().iter().map(|(name, value)| (name.as_str(), header_value(value, depth))).collect()
}

/// `depth` is how many lists and tables are around it.
fn header_value(value: &AMQPValue, depth: usize) -> HeaderValue {
    match value {
        // A copy with it would be refused, and the message could never leave its queue.
        AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) if depth == Headers::MAX_DEPTH => {
            HeaderValue::Null
        }
        AMQPValue::Boolean(value) => HeaderValue::Bool(*value),
        AMQPValue::ShortShortInt(value) => HeaderValue::Int((*value).into()),
        AMQPValue::ShortShortUInt(value) => HeaderValue::Int((*value).into()),
        AMQPValue::ShortInt(value) => HeaderValue::Int((*value).into()),
        AMQPValue::ShortUInt(value) => HeaderValue::Int((*value).into()),
        AMQPValue::LongInt(value) => HeaderValue::Int((*value).into()),
        AMQPValue::LongUInt(value) => HeaderValue::Int((*value).into()),
        AMQPValue::LongLongInt(value) => HeaderValue::Int(*value),
        AMQPValue::Float(value) => HeaderValue::Float((*value).into()),
        AMQPValue::Double(value) => HeaderValue::Float(*value),
        AMQPValue::DecimalValue(value) => {
            HeaderValue::Float(f64::from(value.value) / 10_f64.powi(value.scale.into()))
        }
        AMQPValue::ShortString(text) => HeaderValue::from(text.as_str()),
        AMQPValue::LongString(bytes) => text_or_bytes(bytes.as_bytes()),
        AMQPValue::FieldArray(values) => {
            HeaderValue::List(values.as_slice().iter().map(|value| header_value(value, depth + 1)).collect())
        }
        AMQPValue::Timestamp(secs) => HeaderValue::Timestamp(*secs),
        AMQPValue::FieldTable(table) => HeaderValue::Table(nested_headers(table, depth + 1)),
        AMQPValue::ByteArray(bytes) => HeaderValue::Bytes(bytes.as_slice().to_vec().into()),
        AMQPValue::Void => HeaderValue::Null,
    }
}

fn text_or_bytes(bytes: &[u8]) -> HeaderValue {
    match std::str::from_utf8(bytes) {
        Ok(text) => HeaderValue::from(text),
        Err(_) => HeaderValue::Bytes(bytes.to_vec().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelope_survives_the_round_trip() {
        let mut sent = Envelope::new(r#"{"to":"ada"}"#);
        sent.task = Some("send_email".into());
        sent.attempt = 3;
        sent.priority = Some(7);
        sent.enqueued_at = Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        sent.correlation_id = Some("c".into());
        sent.reply_to = Some("amq.rabbitmq.reply-to.g1h2".into());
        sent.expiration = Some(Duration::from_millis(1500));
        sent.content_type = Some("application/json".into());
        sent.content_encoding = Some("utf-8".into());
        sent.app_id = Some("billing".into());
        sent.cluster_id = Some("west".into());
        sent.headers = Headers::from([
            ("null", HeaderValue::Null),
            ("flag", true.into()),
            ("int", (-5_i64).into()),
            ("float", 0.5.into()),
            ("text", "é".into()),
            ("bytes", HeaderValue::Bytes(vec![0xff, 0xfe].into())),
            ("when", HeaderValue::Timestamp(9)),
            ("list", HeaderValue::List(vec![1_i64.into(), HeaderValue::Table(Headers::from([("a", "b")]))])),
        ]);

        for mark in [None, Some(42)] {
            let properties = properties(&sent, mark);
            assert_eq!(super::mark(&properties), mark);
            let back = envelope(properties, sent.payload.to_vec());
            assert_eq!(format!("{back:?}"), format!("{sent:?}"));
        }
    }

    #[test]
    fn bare_message_of_a_foreign_client_becomes_a_first_attempt_with_an_id() {
        let bare = envelope(BasicProperties::default(), b"{}".to_vec());

        assert_eq!(bare.attempt, 1);
        assert_eq!(bare.task, None);
        assert_eq!(bare.id.as_str().len(), 36);
        assert_eq!(bare.headers, Headers::from([(header::NO_ID, true)]));
        // From its first copy on it has that id, and still says whose it is.
        let copy = envelope(properties(&bare, None), b"{}".to_vec());
        assert_eq!((copy.id, copy.headers), (bare.id, bare.headers));
    }

    #[test]
    fn user_who_published_is_a_header_from_then_on_whatever_the_message_says_itself() {
        let mut headers = FieldTable::default();
        headers.insert("q-user-id".into(), AMQPValue::LongString("mallory".into()));
        let theirs = BasicProperties::default().with_user_id("ada".into()).with_headers(headers);

        let got = envelope(theirs, Vec::new());

        assert_eq!(got.headers.get(header::USER_ID), Some(&"ada".into()));
        assert_eq!(*properties(&got, None).user_id(), None);
    }

    #[test]
    fn header_nested_too_deep_is_cut_where_a_copy_may_still_have_it() {
        let deep = (0..60).fold(AMQPValue::Void, |inner, _| AMQPValue::FieldArray(vec![inner].into()));
        let mut headers = FieldTable::default();
        headers.insert("deep".into(), deep);

        let got = envelope(BasicProperties::default().with_headers(headers), Vec::new());

        let expected = (0..32).fold(HeaderValue::Null, |inner, _| HeaderValue::List(vec![inner]));
        assert_eq!(got.headers.get("deep"), Some(&expected));
        crate::broker::amqp::check_publish(&crate::broker::Publish::to_queue("q", got)).unwrap();
    }

    #[test]
    fn attempt_that_makes_no_sense_is_the_first() {
        let mut headers = FieldTable::default();
        headers.insert("q-attempt".into(), AMQPValue::LongLongInt(-7));

        let odd = envelope(BasicProperties::default().with_headers(headers), Vec::new());

        assert_eq!(odd.attempt, 1);
    }
}
