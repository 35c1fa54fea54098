//! An envelope as the columns of a row, and back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rusqlite::Row;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};

use super::headers;
use crate::envelope::{Envelope, JobId};

/// The columns of an envelope, in the order of [`values`] and [`read`].
pub(super) const COLUMNS: &str = "id, task, payload, content_type, attempt, priority, enqueued_at, \
     correlation_id, reply_to, expiration, headers, content_encoding, app_id, cluster_id";
/// How many they are.
pub(super) const COUNT: usize = 14;

/// Text where it is text, so that `payload->>'to'` works in the shell; bytes where it is not.
pub(super) struct Payload<'a>(pub(super) &'a [u8]);

impl ToSql for Payload<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let value = match std::str::from_utf8(self.0) {
            // An empty blob, because an empty text with a null pointer would be NULL.
            Ok("") | Err(_) => ValueRef::Blob(self.0),
            Ok(text) => ValueRef::Text(text.as_bytes()),
        };
        Ok(ToSqlOutput::Borrowed(value))
    }
}

/// An envelope, ready to be bound to the parameters of [`COLUMNS`].
pub(super) struct Values<'a> {
    payload: Payload<'a>,
    id: &'a str,
    task: Option<&'a str>,
    content_type: Option<&'a str>,
    attempt: i64,
    priority: Option<i64>,
    enqueued_at: Option<i64>,
    correlation_id: Option<&'a str>,
    reply_to: Option<&'a str>,
    expiration: Option<i64>,
    headers: Option<String>,
    content_encoding: Option<&'a str>,
    app_id: Option<&'a str>,
    cluster_id: Option<&'a str>,
}

impl<'a> Values<'a> {
    pub(super) fn new(envelope: &'a Envelope) -> Self {
        Self {
            payload: Payload(&envelope.payload),
            id: envelope.id.as_str(),
            task: envelope.task.as_deref(),
            content_type: envelope.content_type.as_deref(),
            attempt: envelope.attempt.into(),
            priority: envelope.priority.map(i64::from),
            enqueued_at: envelope.enqueued_at.map(micros),
            correlation_id: envelope.correlation_id.as_deref(),
            reply_to: envelope.reply_to.as_deref(),
            expiration: envelope
                .expiration
                .map(|expiration| i64::try_from(expiration.as_micros()).unwrap_or(i64::MAX)),
            headers: headers::write(&envelope.headers),
            content_encoding: envelope.content_encoding.as_deref(),
            app_id: envelope.app_id.as_deref(),
            cluster_id: envelope.cluster_id.as_deref(),
        }
    }

    /// In the order of [`COLUMNS`].
    pub(super) fn as_params(&self) -> [&dyn ToSql; COUNT] {
        [
            &self.id,
            &self.task,
            &self.payload,
            &self.content_type,
            &self.attempt,
            &self.priority,
            &self.enqueued_at,
            &self.correlation_id,
            &self.reply_to,
            &self.expiration,
            &self.headers,
            &self.content_encoding,
            &self.app_id,
            &self.cluster_id,
        ]
    }
}

/// Reads an envelope whose columns begin at `at`. The row may have been written by hand, so what is no number or
/// text where one is wanted is as if it were not there.
pub(super) fn read(row: &Row<'_>, at: usize) -> rusqlite::Result<Envelope> {
    let id = text(row, at)?.map_or_else(JobId::new, JobId::from);
    let mut envelope = Envelope::with_id(id, Bytes::copy_from_slice(bytes(row.get_ref(at + 2)?)));
    envelope.task = text(row, at + 1)?;
    envelope.content_type = text(row, at + 3)?;
    envelope.attempt = int(row, at + 4)?.and_then(|attempt| u32::try_from(attempt).ok()).unwrap_or(1);
    envelope.priority = int(row, at + 5)?.and_then(|priority| u8::try_from(priority).ok());
    envelope.enqueued_at = int(row, at + 6)?.map(moment);
    envelope.correlation_id = text(row, at + 7)?;
    envelope.reply_to = text(row, at + 8)?;
    envelope.expiration = int(row, at + 9)?.map(|micros| Duration::from_micros(micros.unsigned_abs()));
    if let ValueRef::Text(json) = row.get_ref(at + 10)? {
        envelope.headers = headers::read(&String::from_utf8_lossy(json));
    }
    envelope.content_encoding = text(row, at + 11)?;
    envelope.app_id = text(row, at + 12)?;
    envelope.cluster_id = text(row, at + 13)?;
    Ok(envelope)
}

fn bytes(value: ValueRef<'_>) -> &[u8] {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        _ => &[],
    }
}

/// A text column.
pub(super) fn text(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<String>> {
    Ok(match row.get_ref(at)? {
        ValueRef::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Integer(int) => Some(int.to_string()),
        _ => None,
    })
}

fn int(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<i64>> {
    Ok(match row.get_ref(at)? {
        ValueRef::Integer(int) => Some(int),
        _ => None,
    })
}

/// Microseconds since 1970: finer than a delay is asked for, so that none is early. Before 1970 is 0.
pub(crate) fn micros(moment: SystemTime) -> i64 {
    moment.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// As [`micros`], but a moment within a microsecond is the end of it, so that what waits for it is not early.
pub(crate) fn micros_after(moment: SystemTime) -> i64 {
    let micros = micros(moment);
    let is_whole = self::moment(micros) >= moment;
    if is_whole { micros } else { micros.saturating_add(1) }
}

/// The reverse of [`micros`].
pub(super) fn moment(micros: i64) -> SystemTime {
    let since = Duration::from_micros(u64::try_from(micros).unwrap_or(0));
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) * 64))
}
