//! The server's clock, by which delays go: this machine's may be wrong. AMQP does not tell the time, but a message that
//! expires says in which second it did. So one is sent through a queue of our own where it expires at once; some more,
//! each sent when the one before has left a doubt, tell the time to some 20 ms.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Consumer};
use tokio::sync::watch;
use tokio::time::Instant;

use super::waiting::{self, Reading};
use crate::broker::Settings;
use crate::broker::rabbitmq::connection::closing::Closing;
use crate::broker::rabbitmq::connection::connect::Link;
use crate::broker::rabbitmq::connection::dial::Dialer;
use crate::broker::rabbitmq::connection::fault;
use crate::broker::rabbitmq::connection::runtime::Tasks;
use crate::broker::rabbitmq::message::convert::{self, short};
use crate::error::{Error, ErrorKind, Result, chain};

/// For how long what is known is good enough.
const FRESH: Duration = Duration::from_secs(300);
/// After how long a failure is tried again.
const AGAIN: Duration = Duration::from_secs(60);
/// How exactly it is told at best.
const EXACT: Duration = Duration::from_millis(20);
/// How many messages that takes at most.
const MESSAGES: u32 = 8;
/// How long the server may take for each answer, and how long a router waits until the clock is known.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the step that is under way may take once the broker is closed, and then the goodbye.
const GOODBYE: Duration = Duration::from_secs(1);
/// From what difference on it is said that this machine's clock is wrong, and how often.
const WRONG: Duration = Duration::from_secs(2);
const SAY_AGAIN: Duration = Duration::from_secs(3600);

/// The server's clock, as far as it is known.
pub(crate) struct ServerClock {
    dialer: Arc<Dialer>,
    tasks: Arc<Tasks>,
    closing: Closing,
    settings: Arc<Settings>,
    known: watch::Sender<Known>,
}

#[derive(Debug, Default)]
struct Known {
    bounds: Option<Bounds>,
    is_asking: bool,
    /// When it was last asked for.
    asked: Option<Instant>,
    /// When it was last said that this machine's clock is wrong.
    said: Option<Instant>,
}

/// The bounds of the server's clock, in time since 1970, at a moment of ours.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bounds {
    at: Instant,
    /// The same moment by this machine's clock: while the machine is suspended only that goes on.
    wall: SystemTime,
    earliest: Duration,
    latest: Duration,
}

impl Bounds {
    /// The bounds that follow from a message that was sent and came back at these moments, and expired in between.
    fn of(second: u64, sent: Instant, came: Instant, wall: SystemTime) -> Self {
        let second = Duration::from_secs(second);
        let latest = second + Duration::from_secs(1) + came.duration_since(sent);
        Self { at: came, wall, earliest: second, latest }
    }

    /// The bounds at a later moment. Clocks differ in speed, by less than this.
    fn on(self, at: Instant) -> Self {
        let since = at.duration_since(self.at);
        let doubt = since / 5000;
        Self {
            at,
            wall: self.wall + since,
            earliest: self.earliest + since - doubt,
            latest: self.latest + since + doubt,
        }
    }

    /// With what is told now. If that contradicts what was known, the server's clock has been set meanwhile.
    fn with(self, told: Self) -> Self {
        let known = self.on(told.at);
        let (earliest, latest) = (known.earliest.max(told.earliest), known.latest.min(told.latest));
        if earliest <= latest { Self { earliest, latest, ..told } } else { told }
    }

    fn middle(&self) -> Duration {
        (self.earliest + self.latest) / 2
    }

    /// How long to wait before the next message tells whether it is sooner or later than the middle.
    fn until_it_tells(&self) -> Duration {
        Duration::from_secs(1) - Duration::from_nanos(self.middle().subsec_nanos().into())
    }

    /// True if the machine has been suspended since, or its clock set.
    fn is_out_of_step(&self, wall: SystemTime) -> bool {
        let apart = wall.duration_since(self.wall).unwrap_or_else(|error| error.duration());
        apart > Duration::from_secs(1)
    }

    fn reading(&self) -> Reading {
        let millis = |since: Duration| i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        Reading { earliest: millis(self.earliest), latest: millis(self.latest).saturating_add(1) }
    }
}

impl ServerClock {
    pub(crate) fn new(
        dialer: Arc<Dialer>,
        tasks: Arc<Tasks>,
        closing: Closing,
        settings: Arc<Settings>,
    ) -> Self {
        Self { dialer, tasks, closing, settings, known: watch::Sender::default() }
    }

    /// The bounds that are known now, and their age.
    fn known(&self) -> Option<(Bounds, Duration)> {
        let bounds = self.known.borrow().bounds?;
        let now = Instant::now();
        let present = bounds.on(now);
        if present.is_out_of_step(SystemTime::now()) {
            self.known.send_modify(|known| (known.bounds, known.asked) = (None, None));
            return None;
        }
        Some((present, now.duration_since(bounds.at)))
    }

    fn learn(&self, told: Bounds) -> Bounds {
        let mut learnt = told;
        self.known.send_modify(|known| {
            learnt = known.bounds.map_or(told, |bounds| bounds.with(told));
            known.bounds = Some(learnt);
        });
        learnt
    }

    /// True if the caller must ask for it now.
    fn begin(&self) -> bool {
        self.known.send_if_modified(|known| {
            let is_due = !known.is_asking && known.asked.is_none_or(|asked| asked.elapsed() > AGAIN);
            if is_due {
                (known.is_asking, known.asked) = (true, Some(Instant::now()));
            }
            is_due
        })
    }

    /// Logs from time to time how far this machine's clock is from the server's.
    fn compare(&self, wall: SystemTime) {
        let Some((bounds, _)) = self.known() else { return };
        let Ok(wall) = wall.duration_since(UNIX_EPOCH) else { return };
        let by = wall.abs_diff(bounds.middle());
        let is_said = self.known.borrow().said.is_some_and(|said| said.elapsed() < SAY_AGAIN);
        if by < WRONG + (bounds.latest - bounds.earliest) || is_said {
            return;
        }
        self.known.send_modify(|known| known.said = Some(Instant::now()));
        let direction = if wall > bounds.middle() { "ahead of" } else { "behind" };
        tracing::warn!(
            ?by,
            "this machine's clock is {direction} RabbitMQ's: delays go by RabbitMQ's, but `.at(..)` trusts this one; set it \
             (NTP)"
        );
    }

    /// The time there, if it is known. It is asked for in the background, the first time and from time to time.
    pub(super) fn read(self: &Arc<Self>) -> Option<Reading> {
        let known = self.known();
        if known.is_none_or(|(_, age)| age > FRESH) && self.begin() {
            self.tasks.spawn(ask(self.clone()));
        }
        known.map(|(bounds, _)| bounds.reading())
    }

    /// Waits for a moment until it is known. Without it rungs alone count.
    pub(super) async fn wait_until_known(self: &Arc<Self>) {
        if self.read().is_none() {
            let mut state = self.known.subscribe();
            let told = state.wait_for(|known| known.bounds.is_some() || !known.is_asking);
            let _ = tokio::time::timeout(PATIENCE, told).await;
        }
    }
}

/// Asks for the server's clock, until it is known well enough or the broker is closed.
async fn ask(clock: Arc<ServerClock>) {
    if let Err(error) = ask_on_its_own(&clock).await {
        tracing::debug!(error = %chain(&error), "RabbitMQ's clock cannot be read; delays go by rungs alone");
    }
    clock.known.send_modify(|known| known.is_asking = false);
    clock.compare(clock.settings.clock.now());
}

/// Asks on a connection of its own: one that publishes is not read while memory is short, and a refusal closes channels.
///
/// When the broker is closed, it ends between two steps, and within one only if that takes longer than [`GOODBYE`]. lapin closes a channel in the background that
/// is dropped while it is opened or waits for an answer, and fails if the connection is closed meanwhile. A connection
/// that ends without a goodbye is a warning in the server's log.
async fn ask_on_its_own(clock: &ServerClock) -> Result<()> {
    let closed = &clock.closing.closed;
    let too_late = async {
        closed.cancelled().await;
        tokio::time::sleep(GOODBYE).await;
    };
    tokio::pin!(too_late);
    let link = tokio::select! {
        link = clock.dialer.dial("clock") => link.map_err(|fault| fault.error)?,
        () = &mut too_late => return Ok(()),
    };
    let asked = tokio::select! {
        asked = read(clock, &link) => asked,
        () = too_late => Ok(()),
    };
    // Its queues go with it.
    link.close(GOODBYE).await;
    asked
}

/// Opens a channel for the question, and closes it whatever became of that.
async fn read(clock: &ServerClock, link: &Link) -> Result<()> {
    if clock.closing.closed.is_cancelled() {
        return Ok(());
    }
    let channel = within(link.connection.create_channel()).await?.map_err(|error| fault::lost(&error))?;
    let name = format!("{}.clock.{:016x}", clock.settings.namespace, fastrand::u64(..));
    let mut told = within(declare(&channel, &name)).await?.map_err(|error| fault::lost(&error))?;
    let read = read_on(clock, &channel, &name, &mut told).await;
    // Before `told` is dropped: lapin cancels a consumer that is dropped on an open channel. Not for ever: while the server
    // blocks the connection, lapin does not even send this.
    let _ = tokio::time::timeout(GOODBYE, channel.close(200, short("the clock is read"))).await;
    read
}

/// Sends messages until the time is known well enough, or the broker is closed.
async fn read_on(clock: &ServerClock, channel: &Channel, name: &str, told: &mut Consumer) -> Result<()> {
    let closed = &clock.closing.closed;
    for _ in 0..MESSAGES {
        if closed.is_cancelled() {
            break;
        }
        let bounds = clock.learn(within(tell(channel, name, told)).await??);
        if bounds.latest - bounds.earliest < EXACT {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(bounds.on(Instant::now()).until_it_tells()) => {}
            () = closed.cancelled() => {}
        }
    }
    Ok(())
}

/// Waits for an answer of the server's.
async fn within<T>(answer: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(PATIENCE, answer).await.map_err(|_| untold())
}

/// A queue where messages expire at once, and one where they arrive.
async fn declare(channel: &Channel, name: &str) -> lapin::Result<Consumer> {
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(short(name), options, FieldTable::default()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert(short("x-message-ttl"), AMQPValue::LongInt(0));
    arguments.insert(short("x-dead-letter-exchange"), AMQPValue::LongString("".into()));
    arguments.insert(short("x-dead-letter-routing-key"), AMQPValue::LongString(name.into()));
    channel.queue_declare(short(&expiring(name)), options, arguments).await?;
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    channel.basic_consume(short(name), short("clock"), options, FieldTable::default()).await
}

fn expiring(name: &str) -> String {
    format!("{name}.in")
}

/// Sends a message and reads in which second it expired.
async fn tell(channel: &Channel, name: &str, told: &mut Consumer) -> Result<Bounds> {
    let (sent, options) = (Instant::now(), BasicPublishOptions::default());
    channel
        .basic_publish(short(""), short(&expiring(name)), options, b"", BasicProperties::default())
        .await
        .map_err(|error| fault::lost(&error))?;
    let message = told.next().await.ok_or_else(untold)?.map_err(|error| fault::lost(&error))?;
    let came = Instant::now();
    let envelope = convert::envelope(message.properties, message.data);
    let (_, second) = waiting::last_death(&envelope).ok_or_else(untold)?;
    let second = u64::try_from(second).map_err(|_| untold())?;
    Ok(Bounds::of(second, sent, came, SystemTime::now()))
}

fn untold() -> Error {
    Error::new(ErrorKind::Connection, "RabbitMQ did not say when a message expired")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server's clock that runs with ours, `ahead` of what `Instant` began with.
    fn told(begin: Instant, ahead: Duration, sent: Duration, trip: Duration) -> Bounds {
        let second = (ahead + sent + trip / 2).as_secs();
        Bounds::of(second, begin + sent, begin + sent + trip, UNIX_EPOCH + sent + trip)
    }

    #[test]
    fn a_few_messages_tell_the_time_to_some_milliseconds() {
        let trip = Duration::from_millis(2);
        for millis in [0, 1, 250, 499, 500, 777, 998, 999] {
            let ahead = Duration::from_millis(1_700_000_000_000 + millis);
            let begin = Instant::now();
            let mut sent = Duration::ZERO;
            let mut known = told(begin, ahead, sent, trip);
            let mut messages = 1;
            while known.latest - known.earliest >= EXACT {
                sent += trip + known.until_it_tells();
                known = known.with(told(begin, ahead, sent, trip));
                messages += 1;
                let now = ahead + known.at.duration_since(begin);
                assert!(known.earliest <= now && now <= known.latest, "{millis}: {known:?} at {now:?}");
            }
            assert!(messages <= MESSAGES, "{millis}: {messages}");
        }
    }

    #[test]
    fn what_is_known_grows_doubtful_with_time_and_is_never_wrong() {
        let begin = Instant::now();
        let known = Bounds::of(1_000, begin, begin, UNIX_EPOCH);

        let later = known.on(begin + Duration::from_secs(100));

        assert_eq!(later.earliest, Duration::from_millis(1_099_980));
        assert_eq!(later.latest, Duration::from_millis(1_101_020));
    }

    #[test]
    fn clock_that_was_set_is_learnt_anew() {
        let begin = Instant::now();
        let known = Bounds::of(1_000, begin, begin, UNIX_EPOCH);
        let told = Bounds::of(5_000, begin, begin, UNIX_EPOCH);

        assert_eq!(known.with(told), told);
        assert!(known.is_out_of_step(UNIX_EPOCH + Duration::from_secs(60)));
        assert!(!known.is_out_of_step(UNIX_EPOCH + Duration::from_millis(300)));
    }
}
