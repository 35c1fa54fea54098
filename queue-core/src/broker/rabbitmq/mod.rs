//! The RabbitMQ broker. [`connect`] opens it; from there a job's way is `publisher` ⇢ the server ⇢ `consumer` →
//! `settle`, with `due` routing what is delayed.
//!
//! Everything runs on a small runtime of its own: a handler that blocks the user's threads must not keep
//! heartbeats from being sent.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::aside::Aside;
use self::broker::RabbitMq;
use self::caller::PublisherHandle;
use self::core::Core;
use self::declared::Declared;
use self::dial::Dialer;
use self::exact::Exact;
use self::fault::Fault;
use self::pause::Pauses;
use self::replier::Replier;
use self::restore::Restored;
use self::runtime::{OwnRuntime, Tasks};
use self::server_clock::ServerClock;
use self::session::State;
use self::shared::Shared;
use self::silence::Listeners;
use self::turn::Turns;
use self::url::Target;
use super::{Broker, Settings};
use crate::declaring::Declaring;
use crate::error::{Result, chain};

mod address;
mod aside;
mod asked;
mod backlog;
mod blame;
mod broker;
mod caller;
mod channel;
mod command;
mod connect;
mod consumer;
mod convert;
mod core;
mod declare;
mod declared;
mod declaring;
mod delayed;
mod dial;
mod due;
mod exact;
mod exclusive;
mod fault;
mod flight;
mod hosts;
mod ledger;
#[cfg(feature = "management")]
mod management;
mod many;
mod operator;
mod outgoing;
mod pause;
mod publish;
mod publisher;
mod redeclare;
mod replier;
mod reply;
mod restore;
mod returns;
mod router;
mod runtime;
mod server_clock;
mod session;
mod settle;
mod shared;
mod silence;
mod supervise;
mod tags;
mod tap;
mod transport;
mod turn;
mod url;
mod waiting;
mod walk;
mod wire;

/// Connects to one of the hosts that the URL names.
///
/// # Errors
/// If the URL makes no sense, the server refuses us, or none answered in as many attempts as the URL says.
pub async fn connect(url: &str, settings: &Settings) -> Result<Arc<dyn Broker>> {
    let target = Target::parse(url)?;
    let exact = Exact::new(settings, &target)?;
    let runtime = OwnRuntime::new()?;
    let shared = Arc::new(Shared {
        dialer: Arc::new(Dialer::new(target, &settings.name)),
        declared: Declared::default(),
        settings: settings.clone(),
        waiters: Arc::default(),
        publishers: Listeners::default(),
        sessions: AtomicU64::new(0),
        closed: CancellationToken::new(),
        flushed: CancellationToken::new(),
    });
    let first = shared.clone();
    let link = runtime.run(async move { first_link(&first).await }).await?;

    let (state, mut publishing) = watch::channel(State::default());
    let (publisher, publisher_task) = PublisherHandle::publisher(&shared, publishing.clone());
    let publisher_done = CancellationToken::new();
    let (stop, done) = (shared.closed.clone(), publisher_done.clone().drop_guard());
    runtime.handle().spawn(async move {
        publisher_task.run(stop).await;
        drop(done);
    });
    let connections = Tasks::new();
    connections.spawn(
        runtime.handle(),
        supervise::supervise(shared.clone(), supervise::PUBLISHER, state, Some(link)),
    );
    // So that whoever asks for the broker's health at once hears of the connection that there is.
    let _ = publishing.wait_for(|state| state.session.is_some() || state.down.is_some()).await;
    Ok(Arc::new(RabbitMq {
        core: Arc::new(Core {
            shared,
            exact,
            publisher,
            requester: OnceLock::new(),
            replier: Replier::default(),
            aside: Aside::default(),
            turns: Turns::default(),
            publishing,
            consuming: OnceLock::new(),
            unparsable: Mutex::default(),
            ladder: OnceLock::new(),
            declaring_ladder: Declaring::default(),
            restored: Restored::default(),
            server_clock: ServerClock::default(),
            router: Mutex::default(),
            handle: runtime.handle().clone(),
            tasks: Tasks::new(),
            connections,
        }),
        publisher_done,
        _runtime: runtime,
    }))
}

/// The first connection: a broker that is away is tried as often as the URL says, or for ever; one that refuses us
/// once.
async fn first_link(shared: &Shared) -> Result<connect::Link> {
    let waits = shared.settings.wait_for_broker.then(|| shared.waiters.wait());
    let mut pauses = Pauses::new();
    for attempt in 1.. {
        match shared.dialer.dial(supervise::PUBLISHER).await {
            Ok(link) => return Ok(link),
            Err(Fault { cause, error }) => {
                if cause.is_for_a_person() || (attempt >= shared.dialer.target.attempts && waits.is_none()) {
                    return Err(error);
                }
                let delay = shared.dialer.target.retry_delay;
                let pause = if waits.is_some() { pauses.failed(cause) } else { Some(delay) };
                if let Some(pause) = pause {
                    tracing::warn!(attempt, ?pause, error = %chain(&error), "RabbitMQ is away; trying again");
                }
                if waits.is_some() {
                    pauses.rest(&shared.waiters).await;
                } else {
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }
    unreachable!("the loop ends by returning")
}
