//! Queues whose bindings are exactly those of the code, and the list of all queues. AMQP lists neither bindings nor queues, so
//! this takes the management API.

#[cfg(feature = "management")]
use std::time::Duration;

use crate::broker::Settings;
use crate::broker::rabbitmq::connection::url::Target;
use crate::broker::rabbitmq::topology::declared::Declared;
use crate::error::{Error, ErrorKind, Result};
use crate::topology::{Name, Topology};

#[cfg(feature = "management")]
use super::management::Management;

/// How often, and how soon again, the policy of a queue is asked for: the API knows that of a new queue some seconds later, and
/// later still where the server is busy.
#[cfg(feature = "management")]
const ASKED: u32 = 20;
#[cfg(feature = "management")]
const AGAIN: Duration = Duration::from_secs(3);

/// The management API that makes bindings exact, if it may be used.
#[derive(Debug)]
pub(crate) struct Exact {
    #[cfg(feature = "management")]
    management: Option<Management>,
}

/// Queues whose other bindings are to be taken out when all is declared.
#[derive(Debug)]
pub(super) struct Wanted {
    queues: Vec<Name>,
    topology: Topology,
}

impl Exact {
    #[cfg(feature = "management")]
    pub(crate) fn new(settings: &Settings, target: &Target) -> Result<Self> {
        let management = settings.management.as_ref().map(|url| Management::new(url.as_str(), target));
        Ok(Self { management: management.transpose()? })
    }

    #[cfg(not(feature = "management"))]
    pub(crate) fn new(settings: &Settings, _target: &Target) -> Result<Self> {
        if settings.management.is_some() {
            return Err(Error::config(
                "the management API's URL is set, but not compiled in: enable the feature `management` of `leveret`",
            ));
        }
        Ok(Self {})
    }

    #[cfg(feature = "management")]
    pub(crate) fn is_possible(&self) -> bool {
        self.management.is_some()
    }

    #[cfg(not(feature = "management"))]
    pub(crate) fn is_possible(&self) -> bool {
        false
    }

    /// The names of all queues in the vhost that are not exclusive.
    ///
    /// # Errors
    /// Unsupported, if the management API may not be used; if it does not answer, or refuses us.
    pub(crate) async fn queues(&self) -> Result<Vec<String>> {
        #[cfg(feature = "management")]
        if let Some(management) = self.management.clone() {
            return blocking(move || management.queues()).await;
        }
        let words = "AMQP cannot list queues: give the URL of RabbitMQ's management API (`Client::builder().management(..)` or \
                     LEVERET_MANAGEMENT_URL, with the feature `management`), or name the queue that you ask about";
        Err(Error::new(ErrorKind::Unsupported, words))
    }

    /// Warns if a policy has RabbitMQ drop jobs of a queue before a worker can set them apart. Says nothing without the management
    /// API, nor where that does not answer.
    pub(crate) async fn tell_of_low_limit(&self, queue: Name, crash_limit: u32) {
        #[cfg(feature = "management")]
        if let Some(management) = self.management.clone() {
            let mut limit = None;
            for _ in 0..ASKED {
                let (management, asked) = (management.clone(), queue.clone());
                match blocking(move || management.delivery_limit(&asked)).await {
                    Ok(Some(found)) => {
                        limit = found;
                        break;
                    }
                    Ok(None) => {}
                    Err(error) => {
                        tracing::debug!(%queue, %error, "the queue's policy is not known");
                        // Asked again, RabbitMQ would refuse us again.
                        if error.kind() != ErrorKind::Connection {
                            break;
                        }
                    }
                }
                tokio::time::sleep(AGAIN).await;
            }
            if let Some(limit) = limit
                && limit < u64::from(crash_limit)
            {
                tracing::warn!(
                    %queue, delivery_limit = limit, crash_limit,
                    "a policy has RabbitMQ make dead letters of jobs before a worker can set them apart, and of those that were in \
                     hand beside them: raise its `delivery-limit` to `crash_limit` at least"
                );
            }
        }
        #[cfg(not(feature = "management"))]
        let _ = (queue, crash_limit);
    }

    /// Takes the wish out of `topology`: on every reconnect it would take out what a newer program has bound since.
    ///
    /// # Errors
    /// If it cannot be met.
    pub(super) fn take_from(&self, topology: &mut Topology) -> Result<Wanted> {
        let mut queues = Vec::new();
        for queue in topology.queues.iter_mut().filter(|queue| queue.exact_bindings) {
            if !self.is_possible() {
                return Err(Error::config(format!(
                    "queue `{}` asks for exact bindings, which AMQP cannot list: give the URL of RabbitMQ's management API \
                     (`Client::builder().management(..)` or LEVERET_MANAGEMENT_URL, with the feature `management`), or \
                     leave `bindings = \"exact\"` out and take a binding out with `rabbitmqadmin delete binding` or \
                     `Client::declare` with `Topology::unbind`",
                    queue.name
                )));
            }
            queue.exact_bindings = false;
            queues.push(queue.name.clone());
        }
        let topology = if queues.is_empty() { Topology::default() } else { topology.clone() };
        Ok(Wanted { queues, topology })
    }
}

impl Exact {
    /// Takes out all other bindings, there and from what is declared on every connect.
    ///
    /// # Errors
    /// If the management API does not answer, or refuses us.
    pub(super) async fn apply(&self, wanted: Wanted, declared: &Declared) -> Result<()> {
        let Wanted { queues, topology } = wanted;
        if queues.is_empty() {
            return Ok(());
        }
        for remembered in [&mut *declared.remembered(), &mut *declared.exclusive()] {
            remembered.keep_bindings(|binding| {
                !queues.contains(&binding.queue)
                    || topology.makes(
                        &binding.queue,
                        &binding.exchange,
                        &binding.routing_key,
                        &binding.arguments,
                    )
            });
        }
        #[cfg(feature = "management")]
        if let Some(management) = self.management.clone() {
            let keep = move || queues.iter().try_for_each(|queue| management.keep_only(queue, &topology));
            return blocking(keep).await;
        }
        Ok(())
    }
}

/// Asks the management API, which blocks.
#[cfg(feature = "management")]
async fn blocking<T: Send + 'static>(ask: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(ask).await.unwrap_or_else(|error| {
        error
            .try_into_panic()
            .map_or_else(|_| Err(crate::broker::closed()), |panic| std::panic::resume_unwind(panic))
    })
}
