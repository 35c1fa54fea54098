//! How a broker let a message die, as its header `x-death` says. Read by `admin` and `settlement`; written by brokers
//! alone. See <https://www.rabbitmq.com/docs/dlx#effects>.

use std::time::SystemTime;

use crate::clock;
use crate::envelope::{Envelope, HeaderValue, Headers};

/// One death of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Death<'a>(&'a Headers);

/// The newest death, if the broker let the message die at all.
pub(crate) fn last(job: &Envelope) -> Option<Death<'_>> {
    match job.headers.get("x-death")? {
        HeaderValue::List(deaths) => match deaths.first()? {
            HeaderValue::Table(death) => Some(Death(death)),
            _ => None,
        },
        _ => None,
    }
}

impl<'a> Death<'a> {
    /// The queue that it died in.
    pub(crate) fn queue(self) -> Option<&'a str> {
        self.text("queue")
    }

    /// AMQP's reason: `rejected`, `expired`, `maxlen` or `delivery_limit`.
    pub(crate) fn reason(self) -> Option<&'a str> {
        self.text("reason")
    }

    /// When it died, in whole seconds.
    pub(crate) fn at(self) -> Option<SystemTime> {
        match self.0.get("time")? {
            HeaderValue::Timestamp(seconds) => {
                Some(clock::from_millis((*seconds as i64).saturating_mul(1000)))
            }
            _ => None,
        }
    }

    /// The exchange and the routing key that it was published with; none for the default exchange.
    pub(crate) fn origin(self) -> Option<(&'a str, &'a str)> {
        let exchange = self.text("exchange").filter(|name| !name.is_empty())?;
        match self.0.get("routing-keys")? {
            HeaderValue::List(keys) => Some((exchange, keys.first()?.as_str()?)),
            _ => None,
        }
    }

    fn text(self, name: &str) -> Option<&'a str> {
        self.0.get(name).and_then(HeaderValue::as_str)
    }
}
