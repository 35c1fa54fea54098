//! Calls on the wire, as any AMQP program can make them.
//!
//! A request is a job with `reply_to` and, so that replies can be told apart, `correlation_id`; ours also carry in
//! `q-deadline` the moment until which the caller waits. A reply is published to the default exchange with that address as routing
//! key and that `correlation_id`. Its body is what the task returned, as plain JSON: `null` for `()`. A failure's body
//! is `{"error": "…", "kind": "failed"}`; the header `q-error-kind` tells it from a result that looks like it. A request
//! in another [`Format`] is answered in that one, failures included.

use std::time::SystemTime;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::CallError;
use crate::broker::{DIRECT_REPLY_TO, Publish};
use crate::clock;
use crate::envelope::{Envelope, HeaderValue, header, truncate};
use crate::error::BoxError;
use crate::format::{DecodeError, Format};
use crate::settlement::{MAX_ERROR, Reason, ReasonKind};
use crate::task::Task;

/// The body of a failure.
#[derive(Debug, Serialize, Deserialize)]
struct Failure {
    error: String,
    kind: String,
}

/// Makes a job a request of this client's. `deadline` is until when its caller waits; `None` is for ever.
pub(crate) fn make_request(job: &mut Envelope, deadline: Option<SystemTime>) {
    job.reply_to = Some(DIRECT_REPLY_TO.to_owned());
    job.correlation_id = Some(job.id.to_string());
    if let Some(deadline) = deadline {
        job.headers.insert(header::DEADLINE, clock::to_millis(deadline));
    }
}

/// True if a caller waits for a reply to this job, or did.
pub fn is_call(job: &Envelope) -> bool {
    address(job).is_some()
}

/// The moment until which the caller waits, where it says so. `None` for a job without a caller.
pub fn deadline(job: &Envelope) -> Option<SystemTime> {
    address(job)?;
    job.headers.get(header::DEADLINE)?.as_int().map(clock::from_millis)
}

/// The result of a task that has none to give.
pub fn nothing(job: &Envelope) -> Bytes {
    format(job).encode(&()).unwrap_or_default().into()
}

/// The reply that carries a result, which is in the format of the request; `None` if the job is no call. Not mandatory:
/// the caller may have gone.
pub fn result(job: &Envelope, result: Bytes) -> Option<Publish> {
    let mut reply = Envelope::new(result);
    reply.content_type = Some(format(job).content_type().to_owned());
    reply.correlation_id = job.correlation_id.clone();
    let mut publish = Publish::to_queue(address(job)?.to_owned(), reply);
    publish.mandatory = false;
    Some(publish)
}

/// The reply that says why there is no result; `None` if the job is no call.
pub fn failure(job: &Envelope, reason: &Reason) -> Option<Publish> {
    let body = Failure { error: reason.message.clone(), kind: reason.kind.to_string() };
    let body = format(job).encode(&body).expect("two texts can be written in every format");
    let mut publish = result(job, body.into())?;
    let headers = &mut publish.envelope.headers;
    headers.insert(header::ERROR_KIND, reason.kind.as_str());
    headers.insert(header::ERROR, truncate(&reason.message, MAX_ERROR));
    Some(publish)
}

/// The format that the caller reads: that of its request, or JSON if that is unknown.
fn format(job: &Envelope) -> Format {
    Format::of(job.content_type.as_deref()).unwrap_or_default()
}

fn address(job: &Envelope) -> Option<&str> {
    job.reply_to.as_deref().filter(|address| !address.is_empty())
}

/// The result that a reply carries.
pub(crate) fn read<T: Task>(reply: &Envelope) -> Result<T::Output, CallError> {
    if let Some(kind) = reply.headers.get(header::ERROR_KIND).and_then(HeaderValue::as_str) {
        // A kind of a later version is a failure all the same.
        let kind = ReasonKind::from_name(kind).unwrap_or(ReasonKind::Failed);
        return Err(CallError::Handler { task: T::NAME, kind, message: words(reply) });
    }
    decode(reply).map_err(|source| CallError::Decode {
        task: T::NAME,
        expected: std::any::type_name::<T::Output>(),
        source,
    })
}

/// Reads a body of any shape.
fn decode<T: DeserializeOwned>(reply: &Envelope) -> Result<T, BoxError> {
    match Format::of_message(reply.content_type.as_deref(), reply.content_encoding.as_deref())? {
        // A program that has nothing to say sends nothing.
        Format::Json if reply.payload.is_empty() => Ok(serde_json::from_str("null")?),
        format => format.decode_value(&reply.payload).map_err(|error| match error {
            DecodeError::Misfit(source) => source,
            error @ DecodeError::NotAnObject(_) => error.into(),
        }),
    }
}

/// The message of a failure, from its body, since the header may be cut.
fn words(reply: &Envelope) -> String {
    match decode::<Failure>(reply) {
        Ok(failure) => failure.error,
        Err(_) => match reply.headers.get(header::ERROR).and_then(HeaderValue::as_str) {
            Some(words) => words.to_owned(),
            None => String::from_utf8_lossy(&reply.payload).into_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::task::TaskOptions;
    use crate::topology::QueueSpec;

    #[derive(Debug, Serialize, Deserialize)]
    struct Add;

    impl Task for Add {
        const NAME: &'static str = "add";
        type Output = Option<u32>;

        fn queue() -> &'static QueueSpec {
            unreachable!("nothing is sent")
        }

        fn options() -> &'static TaskOptions {
            unreachable!("nothing is run")
        }
    }

    fn request() -> Envelope {
        let mut request = Envelope::new("{}");
        make_request(&mut request, Some(UNIX_EPOCH + Duration::from_millis(1_500)));
        request
    }

    #[test]
    fn request_says_where_to_reply_and_until_when() {
        let request = request();

        assert!(is_call(&request));
        assert_eq!(request.reply_to.as_deref(), Some("amq.rabbitmq.reply-to"));
        assert_eq!(request.correlation_id.as_deref(), Some(request.id.as_str()));
        assert_eq!(request.headers.get("q-deadline"), Some(&1_500_i64.into()));
        assert_eq!(deadline(&request), Some(UNIX_EPOCH + Duration::from_millis(1_500)));
    }

    #[test]
    fn job_without_an_address_is_no_call_whatever_else_it_says() {
        let mut job = request();
        job.reply_to = Some(String::new());

        assert!(!is_call(&job));
        assert_eq!(deadline(&job), None);
        assert!(result(&job, "1".into()).is_none());
        assert!(failure(&job, &Reason::new(ReasonKind::Failed, "no")).is_none());
    }

    #[test]
    fn result_is_read_as_it_was_written() {
        let reply = result(&request(), "7".into()).unwrap();

        assert!(!reply.mandatory);
        assert_eq!((&*reply.route.exchange, &*reply.route.routing_key), ("", "amq.rabbitmq.reply-to"));
        assert_eq!(reply.envelope.content_type.as_deref(), Some("application/json"));
        assert_eq!(read::<Add>(&reply.envelope).unwrap(), Some(7));
        assert_eq!(read::<Add>(&Envelope::new("")).unwrap(), None);
    }

    #[test]
    fn result_that_json_could_not_carry_is_read_as_it_was_written() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Ack;

        for format in [Format::MessagePack, Format::Cbor] {
            let mut request = request();
            request.content_type = Some(format.content_type().to_owned());
            let written = (7_u128, i128::MIN, Ack);

            let reply = result(&request, format.encode(&written).unwrap().into()).unwrap().envelope;

            assert_eq!(decode::<(u128, i128, Ack)>(&reply).unwrap(), written, "{format:?}");
            // Ours is refused before it is sent. Other programs may reply it.
            let marker = if format == Format::Cbor { 0xfb } else { 0xcb };
            let payload = [vec![marker], f64::INFINITY.to_be_bytes().to_vec()].concat();
            let infinite = Envelope { payload: payload.into(), ..reply };
            assert_eq!(decode::<f64>(&infinite).unwrap(), f64::INFINITY, "{format:?}");
        }
    }

    #[test]
    fn result_that_fits_as_json_is_read_however_it_was_written() {
        let read = |format: Format, body: &'static [u8]| {
            let mut reply = Envelope::new(body);
            reply.content_type = Some(format.content_type().to_owned());
            decode::<Vec<u8>>(&reply).unwrap()
        };

        // Bytes where an array of numbers is read.
        assert_eq!(read(Format::MessagePack, b"\xc4\x02ab"), b"ab");
        assert_eq!(read(Format::Cbor, b"\x42ab"), b"ab");
    }

    #[test]
    fn failure_is_plain_json_and_comes_back_whole() {
        let reason = Reason::new(ReasonKind::Timeout, "é".repeat(5_000));

        let reply = failure(&request(), &reason).unwrap().envelope;

        let body: serde_json::Value = serde_json::from_slice(&reply.payload).unwrap();
        assert_eq!(body, serde_json::json!({ "error": reason.message, "kind": "timeout" }));
        assert!(reply.headers.get("q-error").unwrap().as_str().unwrap().len() <= MAX_ERROR);
        match read::<Add>(&reply) {
            Err(CallError::Handler { task: "add", kind: ReasonKind::Timeout, message }) => {
                assert_eq!(message, reason.message);
            }
            other => panic!("not that failure: {other:?}"),
        }
    }

    #[test]
    fn failure_of_a_kind_unknown_here_is_a_failure() {
        let mut reply = Envelope::new("out of cheese");
        reply.headers.insert(header::ERROR_KIND, "no-cheese");

        let error = read::<Add>(&reply).unwrap_err();

        assert_eq!(error.to_string(), "task `add` failed (failed): out of cheese");
    }

    #[test]
    fn reply_of_another_shape_names_the_type_that_was_expected() {
        let error = read::<Add>(&Envelope::new(r#"{"sum": 3}"#)).unwrap_err();

        let words = error.to_string();
        assert!(words.contains("task `add`") && words.contains("Option<u32>"), "{words}");
    }
}
