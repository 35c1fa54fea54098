//! "Did you mean": the known word nearest to a misspelt one.

/// The word of `known` that `word` was most likely meant to be, if any is near.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        // A third of the word may be wrong; `max(1)` gives short words one slip.
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The option that is meant by a name from another library, or by a common mistake.
pub(crate) fn synonym(word: &str) -> Option<&'static str> {
    SYNONYMS.iter().find(|(_, words)| words.contains(&word)).map(|(ours, _)| *ours)
}

const SYNONYMS: &[(&str, &[&str])] = &[
    ("queue", &["queue_name", "routing_key", "topic", "channel"]),
    ("name", &["task", "task_name", "type", "job"]),
    ("aliases", &["alias", "old_names", "former_names", "also_known_as"]),
    ("reply", &["replies", "reply_to", "answer", "answers", "ignore_result", "rpc", "call", "calls"]),
    ("payload", &["payload_name", "args", "message"]),
    ("retries", &["retry", "max_retries", "max_retry", "retry_limit", "max_attempts", "attempts", "tries"]),
    ("backoff", &["delay", "retry_delay", "retry_backoff", "retry_after", "retry_wait", "countdown"]),
    ("timeout", &["time_limit", "max_duration", "deadline"]),
    ("dlx", &["dead_letter_exchange", "dead_letter", "x_dead_letter_exchange", "dlq_exchange"]),
    ("dead_letter_queue", &["dlq", "dead_queue", "failed_queue"]),
    ("dead_letter_key", &["dead_letter_routing_key", "x_dead_letter_routing_key", "dlx_key"]),
    ("ttl", &["message_ttl", "x_message_ttl", "expires", "expiration"]),
    ("max_length", &["max_len", "x_max_length", "limit", "capacity"]),
    ("max_priority", &["x_max_priority"]),
    ("declare", &["passive"]),
    ("concurrency", &["workers", "threads", "parallelism", "max_concurrency"]),
    ("prefetch", &["prefetch_count", "qos"]),
    ("crash_limit", &["delivery_limit", "x_delivery_limit", "max_deliveries", "max_crashes", "crashes"]),
    ("format", &["content_type", "codec", "serializer"]),
];

/// The reason why there is no such option, where there is none to take its place.
pub(crate) fn needless(word: &str) -> Option<&'static str> {
    Some(match word {
        "durable" | "persistent" | "delivery_mode" => {
            "queues are durable and jobs persistent without it: remove it"
        }
        "auto_delete" | "exclusive" => "a task's queue outlives its workers: remove it",
        "auto_ack" | "no_ack" | "ack_late" | "acks_late" => {
            "a job is acknowledged when it is done, never before: remove it"
        }
        "jitter" => "waits are longer by up to a quarter at random without it: remove it",
        "rate_limit" | "rate" => "there is no limit by time; `concurrency = 1` runs one job at once",
        "cron" | "schedule" | "every" => {
            "a task has no timetable: enqueue it when it is time, with `.at(..)` or `.delay(..)`"
        }
        _ => return None,
    })
}

/// How many letters must be added, dropped, replaced or swapped with their neighbour to get from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // rows[i][j] is the distance between the first `i` letters of `a` and the first `j` of `b`.
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_a_stranger_is_not() {
        let known = ["retries", "queue", "timeout", "max_length", "dlx"];

        assert_eq!(nearest("retires", known), Some("retries"));
        assert_eq!(nearest("queu", known), Some("queue"));
        assert_eq!(nearest("max_len", known), Some("max_length"));
        assert_eq!(nearest("dxl", known), Some("dlx"));
        assert_eq!(nearest("colour", known), None);
    }

    #[test]
    fn no_word_has_two_meanings() {
        let words: Vec<_> = SYNONYMS.iter().flat_map(|(_, words)| *words).collect();

        for (at, word) in words.iter().enumerate() {
            assert!(!words[..at].contains(word) && needless(word).is_none(), "{word}");
        }
    }
}
