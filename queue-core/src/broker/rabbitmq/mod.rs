//! The RabbitMQ broker. [`connect`] opens it; from there a job's way is `publish/publisher` ⇢ the server ⇢
//! `consume/consumer` → `consume/settle`, with `consume/due` routing what is delayed.
//!
//! The folders import one another in one direction, each only those before it: `message`, `connection`, `topology`,
//! `supervise`, `declare`, `delay`, `publish`, `consume`, `operate`; `broker` and `operator` stand on top.
//!
//! Everything runs on a small runtime of its own: a handler that blocks the user's threads must not keep
//! heartbeats from being sent.

use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::{OnceCell, watch};
use tokio_util::sync::CancellationToken;

use self::broker::RabbitMq;
use self::connection::closing::Closing;
use self::connection::connect::Link;
use self::connection::dial::Dialer;
use self::connection::fault::Fault;
use self::connection::runtime::{OwnRuntime, Tasks};
use self::connection::url::Target;
use self::consume::consumer::Consuming;
use self::consume::due::Routing;
use self::consume::router::DueRouter;
use self::declare::declaring::Declarer;
use self::declare::exact::Exact;
use self::declare::restore::Restorer;
use self::delay::ladder::Ladder;
use self::delay::server_clock::ServerClock;
use self::operate::channels::Channels;
use self::operate::control::ControlConnection;
use self::operate::process::Process;
use self::operate::turn::Turns;
use self::operate::walk::Walking;
use self::publish::caller::PublisherHandle;
use self::publish::publisher::Setup;
use self::publish::publishing::Publishing;
use self::publish::replier::Replier;
use self::supervise::connections::Connections;
use self::supervise::pause::{Pauses, Waiters};
use self::supervise::session::State;
use self::supervise::supervision::{PUBLISHER, Supervision, supervise};
use self::topology::declared::Declared;
use super::{Broker, Settings};
use crate::error::{Result, chain};

mod broker;
mod connection;
mod consume;
mod declare;
mod delay;
mod message;
mod operate;
mod operator;
mod publish;
mod supervise;
mod topology;

/// Connects to one of the hosts that the URL names.
///
/// # Errors
/// If the URL makes no sense, the server refuses us, or none answered in as many attempts as the URL says.
pub async fn connect(url: &str, settings: &Settings) -> Result<Arc<dyn Broker>> {
    let target = Target::parse(url)?;
    let exact = Exact::new(settings, &target)?;
    let runtime = OwnRuntime::new()?;
    let handle = runtime.handle().clone();
    let settings = Arc::new(settings.clone());
    let closing = Closing::default();
    let dialer = Arc::new(Dialer::new(target, &settings.name));
    let declared = Arc::new(Declared::default());
    let supervision = Arc::new(Supervision::new(dialer.clone(), declared.clone(), closing.clone()));
    let waiters = supervision.waiters.clone();
    let first = (dialer.clone(), settings.clone(), waiters.clone());
    let link = runtime.run(async move { first_link(&first.0, &first.1, &first.2).await }).await?;

    let (state, mut connection) = watch::channel(State::default());
    let setup = Setup {
        state: connection.clone(),
        timeout: settings.publish_timeout,
        waiters: waiters.clone(),
        listeners: supervision.listeners.clone(),
    };
    let (publisher, publisher_task) = PublisherHandle::publisher(&setup);
    let publisher_done = CancellationToken::new();
    let (stop, done) = (closing.closed.clone(), publisher_done.clone().drop_guard());
    handle.spawn(async move {
        publisher_task.run(stop).await;
        drop(done);
    });
    let keep_connections = Arc::new(Tasks::new(&handle));
    keep_connections.spawn(supervise(supervision.clone(), PUBLISHER, state, Some(link)));
    // So that the broker's health is right from the first call on.
    let _ = connection.wait_for(|state| state.session.is_some() || state.down.is_some()).await;

    let tasks = Arc::new(Tasks::new(&handle));
    let connections = Arc::new(Connections::new(supervision, keep_connections.clone()));
    let control = Arc::new(ControlConnection::new(dialer.clone(), keep_connections.clone(), closing.clone()));
    let channels = Channels { declared: declared.clone(), connections: connections.clone(), control };
    let restorer = Arc::new(Restorer::new(
        dialer.clone(),
        declared.clone(),
        connections.clone(),
        settings.namespace.clone(),
        handle.clone(),
    ));
    let declarer = Arc::new(Declarer {
        dialer: dialer.clone(),
        declared: declared.clone(),
        connections: connections.clone(),
        exact,
        waiters: waiters.clone(),
        closing: closing.clone(),
        connection: connection.clone(),
        publish_timeout: settings.publish_timeout,
        handle: handle.clone(),
    });
    let clock = ServerClock::new(dialer.clone(), tasks.clone(), closing.clone(), settings.clone());
    let publishing = Arc::new(Publishing {
        settings: settings.clone(),
        publisher,
        requester: OnceLock::new(),
        replier: Arc::new(Replier::new(&setup, closing.clone(), handle)),
        setup,
        tasks: tasks.clone(),
        closing: closing.clone(),
        ladder: Ladder::new(settings.clone(), declarer.clone(), Arc::new(clock)),
        restorer: restorer.clone(),
    });
    let consuming = Arc::new(Consuming {
        settings: settings.clone(),
        connections,
        declared,
        restorer: restorer.clone(),
        publishing: publishing.clone(),
        waiters,
        closing: closing.clone(),
        tasks: tasks.clone(),
        unparsable: Mutex::default(),
    });
    let routing = Routing {
        settings: settings.clone(),
        consuming: consuming.clone(),
        publishing: publishing.clone(),
        restorer,
        closing: closing.clone(),
    };
    let turns = Turns::new(channels.clone(), settings.namespace.clone());
    let process = Process {
        declarer: declarer.clone(),
        control: channels.control.clone(),
        namespace: settings.namespace.clone(),
        name: OnceCell::new(),
    };
    let walking = Walking { settings, publishing: publishing.clone(), turns, tasks: tasks.clone() };
    Ok(Arc::new(RabbitMq {
        dialer,
        connection,
        publishing,
        declarer,
        consuming,
        router: Arc::new(DueRouter::new(routing, tasks.clone())),
        channels,
        walking: Arc::new(walking),
        process: Arc::new(process),
        closing,
        tasks,
        keep_connections,
        publisher_done,
        _runtime: runtime,
    }))
}

/// The first connection: a broker that is away is tried as often as the URL says, or for ever; one that refuses us
/// once.
async fn first_link(dialer: &Dialer, settings: &Settings, waiters: &Arc<Waiters>) -> Result<Link> {
    let waits = settings.wait_for_broker.then(|| waiters.wait());
    let mut pauses = Pauses::new();
    for attempt in 1.. {
        match dialer.dial(PUBLISHER).await {
            Ok(link) => return Ok(link),
            Err(Fault { cause, error }) => {
                if cause.is_for_a_person() || (attempt >= dialer.target.attempts && waits.is_none()) {
                    return Err(error);
                }
                let delay = dialer.target.retry_delay;
                let pause = if waits.is_some() { pauses.failed(cause) } else { Some(delay) };
                if let Some(pause) = pause {
                    tracing::warn!(attempt, ?pause, error = %chain(&error), "RabbitMQ is away; trying again");
                }
                if waits.is_some() {
                    pauses.rest(waiters).await;
                } else {
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }
    unreachable!("the loop ends by returning")
}
