//! One channel's deliveries, and what RabbitMQ is told of them. Between `consumer`, which takes them from lapin, and
//! `settle`.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicQosOptions};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio_util::task::TaskTracker;

use super::tags::{Held, Tags};
use crate::broker::ConsumeOptions;
use crate::broker::rabbitmq::connection::runtime::Tasks;
use crate::broker::rabbitmq::message::convert::short;
use crate::broker::rabbitmq::publish::publishing::Publishing;
use crate::topology::{Name, Route};

/// A channel of RabbitMQ has 32 settlements on their way to a quorum queue (`quorum_commands_soft_limit`), and stashes the
/// others; see [`Ledger::barrier`].
pub(crate) const STASHED: usize = 32;
/// For how long acks wait for their task, before others do not wait with them.
const LATE: Duration = Duration::from_millis(5);
/// How soon it is seen that the channel is gone while a copy is being published: sooner than a publisher that lost its
/// connection in the same moment can send on the next one.
pub(super) const LOOK: Duration = Duration::from_millis(50);

/// One channel's deliveries. It dies with its session: a tag of an old channel is never sent on a new one, where it
/// would ack another message.
///
/// Frames are queued by the first poll of lapin's futures; to wait until they are written would cost a wake each.
pub(crate) struct Ledger {
    /// Publishes copies of its jobs.
    pub(super) publishing: Arc<Publishing>,
    pub(super) tasks: Arc<Tasks>,
    channel: Channel,
    /// The queue that its jobs belong to.
    pub(super) queue: Name,
    /// Lets a message be published anew instead of being given back. It is false where a copy would not do: one that waits for its time carries in `x-death` how
    /// long it has waited, which no copy does; and one that waits to run alone is to stay the same copy, however often it comes back.
    pub(super) may_publish_anew: bool,
    /// Where its dead letters go; `None` drops them.
    pub(super) dead_letter: Option<Route>,
    /// How often the holders of a message may be lost, before it is set apart.
    pub(super) crash_limit: u32,
    acks: Mutex<Acks>,
    /// True if deliveries that have not begun must go back although the channel is open: the server has ended its consumer.
    is_recalled: AtomicBool,
    /// Counts the messages that are published anew instead of being given back, and are not acked yet.
    renewals: TaskTracker,
    /// Told when none is out any more, once they are recalled.
    all_in: Notify,
    /// Keeps the connection: a delivery outlives its consumer.
    _connection: Box<dyn Any + Send + Sync>,
}

/// The deliveries to ack. Its lock is held while frames are queued: an ack of many must not overtake what was settled by
/// itself.
#[derive(Default)]
struct Acks {
    tags: Tags,
    /// Acks that wait for a task that will send them, unless another caller does before.
    due: Option<Due>,
    /// True if none waits any more.
    at_once: bool,
}

/// Acks that wait to be sent.
struct Due {
    since: Instant,
    /// `close` waits for it.
    _running: mpsc::Sender<()>,
}

/// Sends what is due when it is dropped, be it by a runtime that goes down.
struct SendOnDrop(Arc<Ledger>);

impl Drop for SendOnDrop {
    fn drop(&mut self) {
        self.0.send_due();
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("channel", &self.channel.id()).finish()
    }
}

impl Ledger {
    pub(crate) fn new(
        publishing: Arc<Publishing>,
        channel: Channel,
        connection: Box<dyn Any + Send + Sync>,
        options: &ConsumeOptions,
    ) -> Arc<Self> {
        let (queue, dead_letter) = (options.queue.clone(), options.dead_letter.clone());
        let may_publish_anew = options.home.is_none() && queue != publishing.settings.namespace.due();
        let queue = options.home.clone().unwrap_or(queue);
        let renewals = TaskTracker::new();
        // So that it can be waited for until there is none.
        renewals.close();
        Arc::new(Self {
            tasks: publishing.tasks.clone(),
            publishing,
            channel,
            queue,
            may_publish_anew,
            dead_letter,
            crash_limit: options.crash_limit,
            acks: Mutex::default(),
            is_recalled: AtomicBool::new(false),
            renewals,
            all_in: Notify::new(),
            _connection: connection,
        })
    }

    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Returns when the server has every settlement: it handles a channel's frames in their order, so that its answer
    /// to a question says that it has what came before.
    ///
    /// With a `queue`, returns when that has them as well. A channel has only [so many](STASHED) settlements on their way
    /// to a quorum queue, stashes the others until it hears that those have arrived, and forgets them when it closes. The
    /// answer to a first `basic.get` comes after the arrival; that to a second one after the news of it; and the stash
    /// is sent before the next question is handled. What the queue hands over is to be given back by `give_back`. One with a
    /// single active consumer refuses to be asked, when it has what came before, and the channel sends its stash before it
    /// closes.
    pub(super) async fn barrier(
        &self,
        queue: Option<&str>,
        give_back: impl Fn(lapin::message::Delivery),
    ) -> lapin::Result<()> {
        self.renewals.wait().await;
        self.send_due();
        for queue in [queue, queue].into_iter().flatten() {
            let got = self.channel.basic_get(short(queue), BasicGetOptions { no_ack: false }).await?;
            if let Some(message) = got {
                give_back(message.delivery);
            }
        }
        self.renewals.wait().await;
        self.send_due();
        self.channel.basic_qos(1, BasicQosOptions { global: false }).await
    }

    /// Gives back all deliveries at once, and returns when the queue has them.
    ///
    /// `is_busy` says that [too many](STASHED) settlements may be on their way to the queue: then it is asked as in
    /// [`barrier`](Self::barrier), so that the nack is not stashed behind them. What it hands over for that goes back behind
    /// the others, where it came from. `is_long` says that the channel has had so many consumers that the nack itself is too many: the server
    /// splits it, into one settlement for each consumer.
    pub(crate) async fn give_all_back(&self, queue: &str, is_busy: bool, is_long: bool) -> lapin::Result<()> {
        self.send_due();
        if is_busy {
            for _ in 0..2 {
                self.channel.basic_get(short(queue), BasicGetOptions { no_ack: false }).await?;
            }
            // By itself: in one nack with the others, what was handed over just now would go back before them.
            let last = self.acks().tags.last_out();
            if let Some(last) = last {
                self.channel.basic_nack(last, BasicNackOptions { multiple: true, requeue: true }).await?;
            }
        }
        // Tag 0 is all that there are.
        self.channel.basic_nack(0, BasicNackOptions { multiple: true, requeue: true }).await?;
        self.acks().tags = Tags::default();
        let release = |message: lapin::message::Delivery| {
            self.release(message.delivery_tag);
        };
        self.barrier(is_long.then_some(queue), release).await
    }

    /// True if the deliveries are still ours.
    pub(crate) fn is_open(&self) -> bool {
        self.channel.status().connected()
    }

    /// Waits until the deliveries are no longer ours. lapin tells only readers of deliveries, so the channel is
    /// looked at.
    pub(crate) async fn gone(&self) {
        while self.is_open() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// True if jobs that have not begun must not begin any more.
    pub(super) fn is_lost(&self) -> bool {
        self.is_recalled.load(Ordering::Acquire) || !self.is_open()
    }

    /// From now on what has not begun is lost, and to be given back; what runs may end and be acked.
    pub(super) fn recall(&self) {
        self.is_recalled.store(true, Ordering::Release);
    }

    /// Waits until all that was out when it was recalled is settled. Cancel safe.
    pub(super) async fn all_in(&self) {
        loop {
            let all_in = self.all_in.notified();
            if self.acks().tags.is_none_out() || !self.is_open() {
                return;
            }
            all_in.await;
        }
    }

    /// Notes which deliveries have begun: the first `begun` of the channel.
    pub(super) fn look(&self, begun: u64) {
        self.acks().tags.look(begun, Instant::now());
    }

    /// The delivery that has been out for longest.
    pub(super) fn oldest(&self) -> Option<Held> {
        self.acks().tags.oldest(Instant::now())
    }

    /// Notes that the server has taken back what has been out for `limit`.
    pub(super) fn time_out(&self, limit: Duration) {
        self.acks().tags.time_out(limit, Instant::now());
    }

    /// True if the server has taken a delivery back although its channel is open.
    pub(super) fn is_timed_out(&self, tag: u64) -> bool {
        self.is_recalled.load(Ordering::Acquire) && self.acks().tags.is_timed_out(tag)
    }

    /// A delivery is out: taken from lapin, and not settled.
    pub(crate) fn deliver(&self, tag: u64) {
        self.acks().tags.deliver(tag);
    }

    /// Acks a delivery; `false` if the channel is gone.
    ///
    /// While others are out, acks are sent when the caller's runtime has run what else is ready, together with what is
    /// acked until then: a frame each would be most of the work of a short job, here and in RabbitMQ. The last one out
    /// is acked at once.
    pub(crate) fn ack(self: &Arc<Self>, tag: u64) -> bool {
        if !self.is_open() {
            return false;
        }
        let mut acks = self.acks();
        let is_last = acks.tags.done(tag);
        self.tell_all_in(&acks);
        let is_late = acks.due.as_ref().is_some_and(|due| due.since.elapsed() > LATE);
        if is_last || is_late || acks.at_once {
            self.send(&mut acks);
        } else if acks.due.is_none() {
            match self.tasks.token() {
                Some(running) => {
                    acks.due = Some(Due { since: Instant::now(), _running: running });
                    drop(acks);
                    self.send_soon();
                }
                // The broker is being closed, and waits for nothing more.
                None => self.send(&mut acks),
            }
        }
        true
    }

    /// Spawns a task that sends the due acks. On the caller's runtime, since to wake a thread of ours would cost more than the
    /// frame. A job may block that thread: then the next ack sends them, or [`send_due`](Self::send_due).
    fn send_soon(self: &Arc<Self>) {
        let send = SendOnDrop(self.clone());
        let present = Handle::try_current();
        present.as_ref().unwrap_or(self.tasks.handle()).spawn(async move {
            tokio::task::yield_now().await;
            drop(send);
        });
    }

    /// Sends the acks that wait. To be called from time to time, in case a job blocks the thread that would.
    pub(super) fn send_due(&self) {
        let mut acks = self.acks();
        if acks.due.is_some() {
            self.send(&mut acks);
        }
    }

    /// Sends each ack at once from now on: [`send_due`](Self::send_due) is no longer called.
    pub(crate) fn send_at_once(&self) {
        self.acks().at_once = true;
        self.send_due();
    }

    /// Gives a delivery back; `false` if the channel is gone. By nack: a quorum queue of RabbitMQ 4.3 does not count it
    /// as a failed delivery.
    pub(super) fn release(&self, tag: u64) -> bool {
        let options = BasicNackOptions { multiple: false, requeue: true };
        let mut acks = self.acks();
        let sent = self.channel.basic_nack(tag, options).now_or_never();
        acks.tags.gone(tag);
        self.tell_all_in(&acks);
        !matches!(sent, Some(Err(_)))
    }

    /// Runs what publishes a message anew instead of giving it back. If the broker is being closed, it is dropped.
    pub(super) fn publish_anew(&self, renewal: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(self.renewals.track_future(renewal));
    }

    fn tell_all_in(&self, acks: &Acks) {
        if self.is_recalled.load(Ordering::Acquire) && acks.tags.is_none_out() {
            self.all_in.notify_one();
        }
    }

    fn send(&self, acks: &mut Acks) {
        acks.due = None;
        acks.tags.acks(|tag, multiple| {
            // An error means that the channel is gone, and RabbitMQ delivers them again.
            let _ = self.channel.basic_ack(tag, BasicAckOptions { multiple }).now_or_never();
        });
    }

    fn acks(&self) -> MutexGuard<'_, Acks> {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
