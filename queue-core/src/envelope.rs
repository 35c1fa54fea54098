//! A job as it crosses the wire: the payload and its metadata. Between `client` and `broker/*`.
//!
//! The body is the payload as plain JSON, or in the task's own [`format`](crate::format), so that any AMQP client can write and
//! read it. Everything else stands in AMQP properties and in headers beginning with `q-`; [`header`] lists them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// The headers that Leveret writes. All others are the user's and pass through untouched.
pub mod header {
    /// Unique to each publish, so that a message that RabbitMQ returns is attributed to its publish. Set only while two messages
    /// of one id are under way from the same client, and replaces a header of this name.
    pub const PUBLISH: &str = "q-publish";
    /// The number of the next attempt, from 1. Absent means 1.
    pub const ATTEMPT: &str = "q-attempt";
    /// The number of copies made of the job up to this one: see [`Envelope::copy_number`](super::Envelope::copy_number).
    /// Absent means 0.
    pub const COPY: &str = "q-copy";
    /// True on a copy that replaces a returned job: the job has been delivered before, and may have run in part. RabbitMQ does not
    /// mark copies as redelivered.
    pub const REDELIVERED: &str = "q-redelivered";
    /// The number of times that the process that held the job ended or lost its connection, as far as is known. On a copy, for which
    /// RabbitMQ counts from zero.
    pub const CRASHES: &str = "q-crashes";
    /// The runs of a job that runs alone, each begun and, as far as is known, not ended: a list of texts
    /// `process milliseconds worker`.
    pub const BEGUN: &str = "q-begun";
    /// A random number, on messages whose id a user has chosen: two jobs of one id are two jobs. Copies keep it.
    pub const SERIAL: &str = "q-serial";
    /// The moment that a delayed job is due, in milliseconds since 1970: by RabbitMQ's clock where its producer knew that, else by
    /// the producer's.
    pub const ETA: &str = "q-eta";
    /// The queue that a delayed job is for.
    pub const TARGET: &str = "q-target";
    /// The delay that a job has left when it leaves its rung of RabbitMQ's delay ladder. A table; it counts only after that rung,
    /// and without it [`ETA`] counts.
    pub const WAIT: &str = "q-wait";
    /// The time for which a delayed job has waited for its missing queue, in milliseconds.
    pub const MISSING: &str = "q-missing";
    /// The job's priority while it waits: messages on the delay ladder have none.
    pub const PRIORITY: &str = "q-priority";
    /// The version of the task's payload in the body, from 1. Absent means 1.
    pub const VERSION: &str = "q-version";
    /// The error of the last failed attempt, at most 4 KiB.
    pub const ERROR: &str = "q-error";
    /// The kind of that failure: see [`ReasonKind`](crate::outcome::ReasonKind).
    pub const ERROR_KIND: &str = "q-error-kind";
    /// The moment of that failure, in milliseconds since 1970.
    pub const FAILED_AT: &str = "q-failed-at";
    /// The worker of that attempt.
    pub const WORKER: &str = "q-worker";
    /// The queue in which a dead letter failed, and to which a replay returns it.
    pub const QUEUE: &str = "q-queue";
    /// The exchange that an event was published to, on its retries, which go to the queue alone.
    pub const EXCHANGE: &str = "q-exchange";
    /// The routing key that an event was published with, on its retries.
    pub const ROUTING_KEY: &str = "q-routing-key";
    /// The user that published the message, from AMQP's `user_id`. A broker accepts that property from this user only, so a copy
    /// cannot carry it.
    pub const USER_ID: &str = "q-user-id";
    /// True where the message had no id, and Leveret generated one.
    pub const NO_ID: &str = "q-no-id";
    /// The number of the job's replays.
    pub const REPLAYS: &str = "q-replays";
    /// The moment until which the caller of an RPC waits for its reply, in milliseconds since 1970.
    pub const DEADLINE: &str = "q-deadline";
    /// The moment since which no worker has known the job's task, in milliseconds since 1970.
    pub const UNKNOWN_SINCE: &str = "q-unknown-since";
    /// W3C trace context.
    pub const TRACEPARENT: &str = "traceparent";

    /// Headers that brokers write while a message is on its way. They are stripped from every republish:
    /// RabbitMQ 3 silently drops a message whose `x-death` shows a cycle, and 4 ignores it.
    /// See <https://www.rabbitmq.com/docs/dlx#effects>.
    pub fn is_broker_trace(name: &str) -> bool {
        name.starts_with("x-death")
            || name.starts_with("x-first-death-")
            || name.starts_with("x-last-death-")
            || name == "x-delivery-count"
            || name == "x-acquired-count"
    }
}

/// The id of one job, the same through all its attempts. Generated ids are UUIDv7, which sort by time of creation; any text of up
/// to 255 bytes is an id as well (AMQP `message_id`).
///
/// ```
/// use leveret::JobId;
///
/// let generated = JobId::new();
/// let chosen = JobId::from("order-7");
/// assert!(generated.is_generated() && !chosen.is_generated());
/// assert_eq!(chosen.to_string(), "order-7");
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(Arc<str>);

impl JobId {
    /// A new id, whose first 48 bits are the present time in milliseconds, and whose last 16 are a checksum of the others.
    pub fn new() -> Self {
        let mut bytes = Uuid::now_v7().into_bytes();
        // Replaces random bits, of which enough are left.
        let checksum = checksum(&bytes).to_be_bytes();
        bytes[14..].copy_from_slice(&checksum);
        Uuid::from_bytes(bytes).into()
    }

    /// A new id for properties, which may be sent more than once: not a [generated](Self::is_generated) one.
    pub(crate) fn of_properties() -> Self {
        let mut bytes = Uuid::now_v7().into_bytes();
        let no_checksum = (!checksum(&bytes)).to_be_bytes();
        bytes[14..].copy_from_slice(&no_checksum);
        Uuid::from_bytes(bytes).into()
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if [`new`](Self::new) made the id, judged by its checksum. Programs that choose ids themselves may give one id to many
    /// messages.
    ///
    /// ```
    /// use leveret::JobId;
    ///
    /// assert!(JobId::new().is_generated());
    /// assert!(!JobId::from("order-7").is_generated());
    /// assert!(!JobId::from("01993c1f-93a0-7a3e-8d5e-0d4b6a3f2c11").is_generated());
    /// ```
    pub fn is_generated(&self) -> bool {
        Uuid::try_parse(&self.0).is_ok_and(|id| id.as_bytes()[14..] == checksum(id.as_bytes()).to_be_bytes())
    }
}

/// A checksum of all but the last two bytes. It must stay as it is: messages outlive the program that numbered them.
fn checksum(id: &[u8; 16]) -> u16 {
    let [mut high, mut low] = [[0; 8]; 2];
    high.copy_from_slice(&id[..8]);
    low[..6].copy_from_slice(&id[8..14]);
    let mixed = (u64::from_be_bytes(high) ^ u64::from_be_bytes(low).rotate_left(29))
        .wrapping_mul(0x9E37_79B9_7F4A_7C15);
    u16::try_from(mixed >> 48).expect("sixteen bits are left")
}

impl Default for JobId {
    /// A new id.
    fn default() -> Self {
        Self::new()
    }
}

impl From<String> for JobId {
    fn from(id: String) -> Self {
        Self(id.into())
    }
}

impl From<&str> for JobId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl From<Uuid> for JobId {
    fn from(id: Uuid) -> Self {
        Self((&*id.hyphenated().encode_lower(&mut Uuid::encode_buffer())).into())
    }
}

/// Serialises as its text.
impl Serialize for JobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The value of a header, as AMQP 0-9-1 field tables know it.
///
/// Text, `bool`, floats, and integers of up to 63 bits convert to one: `.header("tenant", 7)`. AMQP has no `u64`, so `u64` and
/// `usize` do not: convert with `i64::try_from(n)`, or send text.
///
/// ```
/// use leveret::HeaderValue;
///
/// assert_eq!(HeaderValue::from("blue").as_str(), Some("blue"));
/// assert_eq!(HeaderValue::from(7).as_int(), Some(7));
/// assert_eq!(HeaderValue::from(true), HeaderValue::Bool(true));
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum HeaderValue {
    /// No value (AMQP `V`).
    Null,
    /// True or false.
    Bool(bool),
    /// Any integer; AMQP has no unsigned 64-bit one.
    Int(i64),
    /// A floating point number.
    Float(f64),
    /// Text.
    String(String),
    /// Bytes that are not UTF-8, which AMQP allows in a long string.
    Bytes(Bytes),
    /// Seconds since 1970 (AMQP `T`).
    Timestamp(u64),
    /// An array, such as `x-death`.
    List(Vec<HeaderValue>),
    /// A nested table.
    Table(Headers),
}

impl HeaderValue {
    /// The text, if it is text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The integer, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(int) => Some(*int),
            _ => None,
        }
    }

    /// The approximate size on the wire, in bytes.
    fn wire_size(&self) -> usize {
        match self {
            Self::Null => 1,
            Self::Bool(_) => 2,
            Self::Int(_) | Self::Float(_) | Self::Timestamp(_) => 9,
            Self::String(text) => 5 + text.len(),
            Self::Bytes(bytes) => 5 + bytes.len(),
            Self::List(values) => 5 + values.iter().map(Self::wire_size).sum::<usize>(),
            Self::Table(table) => 1 + table.wire_size(),
        }
    }
}

impl From<&str> for HeaderValue {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for HeaderValue {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<bool> for HeaderValue {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

/// Integers that are an `i64` whatever their value.
macro_rules! from_integers {
    ($($integer:ident)*) => {
        $(impl From<$integer> for HeaderValue {
            fn from(value: $integer) -> Self {
                Self::Int(value.into())
            }
        })*
    };
}

from_integers!(i8 i16 i32 i64 u8 u16 u32);

impl From<f32> for HeaderValue {
    fn from(value: f32) -> Self {
        Self::Float(value.into())
    }
}

impl From<f64> for HeaderValue {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

/// Headers, sorted by name. Names have at most 255 bytes, and all headers together less than
/// [`Headers::MAX_SIZE`]; the publisher checks.
///
/// ```
/// use leveret::{HeaderValue, Headers};
///
/// let headers = Headers::from([("tenant", "blue"), ("source", "shop")]);
/// assert_eq!(headers.get("tenant").and_then(HeaderValue::as_str), Some("blue"));
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Headers(BTreeMap<String, HeaderValue>);

impl Headers {
    /// The largest size of all headers of a message on the wire, in bytes. AMQP wants them in one frame.
    pub const MAX_SIZE: usize = 32 * 1024;

    /// The largest nesting of lists and tables in a header. A publisher refuses more; in a message that arrives with more, deeper
    /// values are null.
    pub const MAX_DEPTH: usize = 32;

    /// No headers.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&HeaderValue> {
        self.0.get(name)
    }

    /// Sets `name`, replacing what it was.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<HeaderValue>) {
        self.0.insert(name.into(), value.into());
    }

    /// Takes `name` out.
    pub fn remove(&mut self, name: &str) -> Option<HeaderValue> {
        self.0.remove(name)
    }

    /// All headers, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Keeps the headers for which `keep` returns true.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &HeaderValue) -> bool) {
        self.0.retain(|name, value| keep(name, value));
    }

    /// The number of headers.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there are no headers.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The approximate size on the wire, in bytes.
    pub fn wire_size(&self) -> usize {
        4 + self.0.iter().map(|(name, value)| 1 + name.len() + value.wire_size()).sum::<usize>()
    }
}

impl<N: Into<String>, V: Into<HeaderValue>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(headers: I) -> Self {
        Self(headers.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl<N: Into<String>, V: Into<HeaderValue>, const LEN: usize> From<[(N, V); LEN]> for Headers {
    fn from(headers: [(N, V); LEN]) -> Self {
        headers.into_iter().collect()
    }
}

/// A job as it crosses the wire. Its `Debug` prints the length of the payload, and not the payload.
#[derive(Clone)]
#[non_exhaustive]
pub struct Envelope {
    /// AMQP `message_id`. A message without one gets one when it is delivered, marked by [`header::NO_ID`]. Its copies keep that
    /// id; delivered again without a copy, it gets another.
    pub id: JobId,
    /// AMQP `type`: the task's name. `None` goes to the queue's only task, or to the one marked `default`.
    pub task: Option<String>,
    /// The body: the payload, in the format of `content_type`.
    pub payload: Bytes,
    /// AMQP `content_type`.
    pub content_type: Option<String>,
    /// AMQP `content_encoding`: how the payload is packed, such as `gzip`. Leveret packs nothing.
    pub content_encoding: Option<String>,
    /// The number of the next attempt, from 1 (`q-attempt`).
    pub attempt: u32,
    /// AMQP `priority`.
    pub priority: Option<u8>,
    /// The moment that it was enqueued (AMQP `timestamp`, whole seconds on RabbitMQ).
    pub enqueued_at: Option<SystemTime>,
    /// AMQP `correlation_id`: the id of the request that a reply answers.
    pub correlation_id: Option<String>,
    /// AMQP `reply_to`: the address of the reply.
    pub reply_to: Option<String>,
    /// AMQP `expiration`: how long the message may wait in a queue before it expires there.
    pub expiration: Option<std::time::Duration>,
    /// AMQP `app_id`: the program that published it, if the message names it.
    pub app_id: Option<String>,
    /// AMQP `cluster_id`, which has no meaning in AMQP 0-9-1. It is passed on, since some programs write it.
    pub cluster_id: Option<String>,
    /// The user's headers and those of [`header`] that have no field here.
    pub headers: Headers,
}

impl Envelope {
    /// An envelope around `payload`, with a new id, for the first attempt.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self::with_id(JobId::new(), payload.into())
    }

    /// An envelope with a given id, since generating one takes time.
    pub(crate) fn with_id(id: JobId, payload: Bytes) -> Self {
        Self {
            id,
            task: None,
            payload,
            content_type: None,
            content_encoding: None,
            attempt: 1,
            priority: None,
            enqueued_at: None,
            correlation_id: None,
            reply_to: None,
            expiration: None,
            app_id: None,
            cluster_id: None,
            headers: Headers::new(),
        }
    }

    /// The number of this copy of its job, from the header [`header::COPY`]: 0 as it was enqueued, 1 for the first copy. Each
    /// retry, snooze and replay is one more copy. Queue, id, attempt and copy together name one run; the id alone does not: a
    /// job that is snoozed or replayed runs again under the same id and attempt.
    ///
    /// A header that is no number, or a negative one, counts as 0; a number that is too large counts as the largest.
    ///
    /// ```
    /// use leveret::broker::Envelope;
    /// # use queue_core::envelope::header;
    ///
    /// let mut job = Envelope::new("{}");
    /// assert_eq!(job.copy_number(), 0);
    ///
    /// job.headers.insert(header::COPY, 3_i64);
    /// assert_eq!(job.copy_number(), 3);
    /// ```
    pub fn copy_number(&self) -> u32 {
        let number = self.headers.get(header::COPY).and_then(HeaderValue::as_int).unwrap_or(0);
        u32::try_from(number.max(0)).unwrap_or(u32::MAX)
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id, task, payload, content_type, content_encoding, attempt, priority, enqueued_at, ..
        } = self;
        let Self { correlation_id, reply_to, expiration, app_id, cluster_id, headers, .. } = self;
        f.debug_struct("Envelope")
            .field("id", id)
            .field("task", task)
            .field("payload", &Hidden(payload))
            .field("content_type", content_type)
            .field("content_encoding", content_encoding)
            .field("attempt", attempt)
            .field("priority", priority)
            .field("enqueued_at", enqueued_at)
            .field("correlation_id", correlation_id)
            .field("reply_to", reply_to)
            .field("expiration", expiration)
            .field("app_id", app_id)
            .field("cluster_id", cluster_id)
            .field("headers", headers)
            .finish()
    }
}

/// A payload in a `Debug`, which may end up in logs, and payloads are often secret.
pub(crate) struct Hidden<'a>(pub(crate) &'a Bytes);

impl fmt::Debug for Hidden<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// `text`, cut to at most `max` bytes at a character's boundary.
pub(crate) fn truncate(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let end = (0..=max).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_earlier_programs_stay_generated_ones() {
        assert!(JobId::from("01993c1f-93a0-7a3e-8d5e-0d4b6a3f291c").is_generated());
        assert!(!JobId::from("01993c1f-93a0-7a3e-8d5e-0d4b6a3f2910").is_generated());
        assert!((0..1000).all(|_| JobId::new().is_generated() && !JobId::of_properties().is_generated()));
    }

    #[test]
    fn truncate_never_cuts_a_character() {
        assert_eq!(truncate("añb", 2), "a");
        assert_eq!(truncate("añb", 3), "añ");
        assert_eq!(truncate("abc", 9), "abc");
    }

    #[test]
    fn debug_shows_how_long_the_payload_is_and_not_what_is_in_it() {
        let words = format!("{:?}", Envelope::new("my secret"));

        assert!(words.contains("payload: 9 bytes") && !words.contains("secret"), "{words}");
    }

    #[test]
    fn id_is_plain_text_in_json() {
        let id = JobId::new();

        let json = serde_json::to_string(&id).unwrap();

        assert_eq!(json, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<JobId>(&json).unwrap(), id);
    }

    #[test]
    fn integers_make_headers() {
        let all = Headers::from_iter([
            ("plain", HeaderValue::from(1)),
            ("i8", (-1_i8).into()),
            ("i16", (-1_i16).into()),
            ("u8", u8::MAX.into()),
            ("u16", u16::MAX.into()),
            ("u32", u32::MAX.into()),
            ("i64", i64::MIN.into()),
        ]);

        let ints: Vec<_> = all.iter().filter_map(|(_, value)| value.as_int()).collect();
        assert_eq!(ints, [-1, i64::MIN, -1, 1, 65_535, 4_294_967_295, 255]);
    }

    #[test]
    fn new_ids_sort_by_age() {
        let ids: Vec<_> = (0..100).map(|_| JobId::new()).collect();

        assert!(ids.is_sorted());
    }
}
