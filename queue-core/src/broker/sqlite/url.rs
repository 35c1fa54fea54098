//! Parses `sqlite:` URLs.

use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};

/// Where the file is, and how it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) path: PathBuf,
    /// How long jobs that are done stay in the file.
    pub(super) keep: Duration,
    /// How long a program may be silent before its jobs go to others.
    pub(super) lease: Duration,
}

const DEFAULT_LEASE: Duration = Duration::from_secs(30);
/// Below, a program that waits for a slow disk would be taken for dead.
const SHORTEST_LEASE: Duration = Duration::from_secs(1);
const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl Options {
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let rest = url.split_once(':').map_or("", |(_, rest)| rest);
        // As sqlx writes it: `sqlite://jobs.db` is relative, `sqlite:///var/jobs.db` is not.
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = percent_decode_str(path).decode_utf8().map_err(|error| {
            Error::config(format!("the path in `{url}` is not UTF-8: write it without `%`"))
                .with_source(error)
        })?;
        if path.is_empty() {
            return Err(Error::config(format!("`{url}` names no file: write for example `sqlite:jobs.db`")));
        }
        if path == ":memory:" {
            return Err(Error::config(format!("`{url}` would keep nothing: take `memory:`")));
        }
        if path.contains('\0') {
            return Err(Error::config(format!("`{url}` cannot be a file: its name has a zero byte")));
        }
        let path = PathBuf::from(path.as_ref());
        let mut options = Self { path, keep: Duration::ZERO, lease: DEFAULT_LEASE };
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            match name {
                "keep" => options.keep = duration(url, name, value)?,
                "lease" => options.lease = duration(url, name, value)?,
                _ => {
                    return Err(Error::config(format!(
                        "`{url}` has the option `{name}`, which `sqlite:` does not know: it takes `keep` and `lease`"
                    )));
                }
            }
        }
        if options.lease < SHORTEST_LEASE {
            return Err(Error::config(format!(
                "`{url}` has a lease of {:?}, under the least of {SHORTEST_LEASE:?}: a slow disk would look like a \
                 dead program; take more",
                options.lease
            )));
        }
        Ok(options)
    }
}

fn duration(url: &str, name: &str, value: &str) -> Result<Duration> {
    let bad = || {
        Error::config(format!(
            "`{url}` has `{name}={value}`, which is no duration: write a number and `ms`, `s`, `m`, `h` or `d`, such as \
             `{name}=30s`"
        ))
    };
    let end = value.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let (number, unit) = value.split_at(end);
    let millis = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?.1;
    let number: u64 = number.parse().map_err(|_| bad())?;
    // A century is as good as for ever.
    let longest = 100 * 365 * 86_400_000;
    let millis = number.checked_mul(millis).filter(|millis| *millis <= longest).ok_or_else(bad)?;
    Ok(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_relative_or_absolute() {
        let path = |url: &str| Options::parse(url).unwrap().path;

        assert_eq!(path("sqlite:jobs.db"), PathBuf::from("jobs.db"));
        assert_eq!(path("sqlite:/var/jobs.db"), PathBuf::from("/var/jobs.db"));
        assert_eq!(path("sqlite://jobs.db"), PathBuf::from("jobs.db"));
        assert_eq!(path("sqlite:///var/jobs.db?keep=1d"), PathBuf::from("/var/jobs.db"));
        assert_eq!(path("sqlite:what%3F.db"), PathBuf::from("what?.db"));
        assert_eq!(path("sqlite:my jobs.db"), PathBuf::from("my jobs.db"));
    }

    #[test]
    fn options_are_durations() {
        let options = Options::parse("sqlite:jobs.db?keep=7d&lease=1500ms").unwrap();

        assert_eq!((options.keep.as_secs(), options.lease.as_millis()), (7 * 86_400, 1500));
        assert_eq!(Options::parse("sqlite:jobs.db?").unwrap().lease, DEFAULT_LEASE);
    }

    #[test]
    fn mistakes_are_named_with_a_remedy() {
        for (url, says) in [
            ("sqlite:", "names no file"),
            ("sqlite::memory:", "take `memory:`"),
            ("sqlite:jobs.db?keeep=1d", "`keep` and `lease`"),
            ("sqlite:jobs.db?keep=1", "such as `keep=30s`"),
            ("sqlite:jobs.db?keep=forever", "no duration"),
            ("sqlite:jobs.db?keep", "no duration"),
            ("sqlite:jobs.db?keep=99999999999999999999d", "no duration"),
            ("sqlite:jobs.db?keep=1000000d", "no duration"),
            ("sqlite:jobs.db?lease=0s", "slow disk"),
            ("sqlite:%ff.db", "not UTF-8"),
        ] {
            let text = Options::parse(url).unwrap_err().to_string();
            assert!(text.contains(says) && text.contains(url), "{text}");
        }
    }
}
