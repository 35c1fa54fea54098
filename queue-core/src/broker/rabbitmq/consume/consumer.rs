//! Feeds one [`Consumer`](crate::broker::Consumer): a channel of its own per queue, opened anew with the same
//! prefetch after whatever ended it. The worker takes its deliveries by `delivery_stream`, and settles them by `settle`.

use std::any::Any;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::arguments::{arguments, consumer_timeout, has_no_timeout};
use super::ledger::{Ledger, STASHED};
use super::settle::Receipt;
use super::tags::Held;
use crate::broker::rabbitmq::connection::closing::Closing;
use crate::broker::rabbitmq::connection::fault::{self, code};
use crate::broker::rabbitmq::connection::runtime::Tasks;
use crate::broker::rabbitmq::declare::restore::Restorer;
use crate::broker::rabbitmq::message::convert::{self, short};
use crate::broker::rabbitmq::message::delivery_stream::{self, Keeper};
use crate::broker::rabbitmq::message::wear;
use crate::broker::rabbitmq::publish::publishing::Publishing;
use crate::broker::rabbitmq::supervise::connections::Connections;
use crate::broker::rabbitmq::supervise::pause::Waiters;
use crate::broker::rabbitmq::supervise::session::{Session, State};
use crate::broker::rabbitmq::topology::declare;
use crate::broker::rabbitmq::topology::declared::Declared;
use crate::broker::{ConsumeOptions, Consumer, ConsumerHandle, Delivery, Publish, Settings};
use crate::error::{Error, ErrorKind, Result, chain};
use crate::settlement::given_back_copy;
use crate::topology::Name;

/// How long a reply to `basic.consume` and the like may take.
const ANSWER: Duration = Duration::from_secs(10);
/// After so many connections of its own that ended by a message which lapin cannot parse, a queue is given up.
const UNPARSABLE: u32 = 5;
/// For how long those count together, and how long a channel must have lived for the pauses to begin anew.
const SETTLED: Duration = Duration::from_secs(60);
/// By how much less than the server we may have seen a delivery be held: it is looked at each [`LOOK`], and was on its way.
const UNSEEN: Duration = Duration::from_secs(1);
/// The pauses before consuming is tried again: 0.1 s, 0.2 s … 10 s.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How soon it is seen that a consumer has ended whose worker is busy; and how soon acks are sent at the latest.
const LOOK: Duration = Duration::from_millis(500);

/// Something that runs while it is held: retries of a queue's jobs need the due router, and the router's own consumer does not.
pub(super) type Needs = Box<dyn Any + Send + Sync>;

/// The parts of the broker that a consumer needs.
pub(crate) struct Consuming {
    pub(crate) settings: Arc<Settings>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) declared: Arc<Declared>,
    pub(crate) restorer: Arc<Restorer>,
    pub(crate) publishing: Arc<Publishing>,
    /// Counts the tasks that wait for a connection.
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) closing: Closing,
    /// These feed consumers, or are to end before the connections do for another reason.
    pub(crate) tasks: Arc<Tasks>,
    /// Queues that were given up because of a message that ends connections: consumed again, they get one of their
    /// own from the beginning.
    pub(crate) unparsable: Mutex<HashSet<Name>>,
}

impl Consuming {
    fn unparsable(&self) -> MutexGuard<'_, HashSet<Name>> {
        self.unparsable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Feeds one consumer.
struct Feed {
    with: Arc<Consuming>,
    options: ConsumeOptions,
    handle: ConsumerHandle,
    _needs: Option<Needs>,
    state: watch::Receiver<State>,
    /// Told once whether the queue can be consumed at all.
    ready: Option<oneshot::Sender<Result<()>>>,
    /// True if it consumes on a connection of its own, so that the others are left in peace. A message that lapin cannot
    /// parse ends the connection, and nobody can tell whose it was, so whoever was on it goes apart; and so does a queue
    /// that does not answer.
    is_apart: bool,
    /// How many connections of its own ended by such a message, and when the last one did.
    unparsable: u32,
    last_unparsable: Option<Instant>,
    /// True if it has been said that the queue cannot be consumed at the moment.
    complained: bool,
    /// For how long the oldest delivery had been out when the last channel's consumer ended; `None` if none was.
    held: Option<Held>,
}

/// The reason why consuming on one channel came to its end.
enum End {
    /// The consumer was stopped; some deliveries may still be unsettled.
    Stopped(Arc<Ledger>),
    /// The connection is gone; the supervisor is at it.
    Lost,
    /// The server sent something that lapin cannot parse.
    Unparsable,
    /// The queue does not answer, and the connection is well.
    Unanswered,
    /// The server ended it: the queue was deleted, its leader is gone, or (from RabbitMQ 4.3) a delivery was held for longer
    /// than `consumer_timeout`. It does not say which.
    Cancelled,
    /// As `Cancelled`, because it had waited for settlements for as long as we had asked it to.
    TimedOut(Held, Duration),
    /// The server closed the channel or refused to consume.
    Refused(lapin::Error),
    /// It cannot be opened on a session that seems well: there are no channels left, for example.
    Failed(lapin::Error),
}

/// The step after an end.
enum Next {
    /// Nothing.
    End,
    /// The next session.
    AtOnce,
    /// The next session, after a pause.
    AfterPause,
}

/// Begins to consume, and waits until that has worked once. If the server is away, it begins when it is back.
///
/// # Errors
/// If the queue does not exist or may not be consumed.
pub(crate) async fn start(
    with: Arc<Consuming>,
    options: ConsumeOptions,
    needs: Option<Needs>,
) -> Result<Consumer> {
    let (handle, consumer) = Consumer::channel();
    let (ready, outcome) = oneshot::channel();
    let is_apart = with.unparsable().contains(&options.queue);
    let feed = Feed {
        state: if is_apart { with.connections.new_apart() } else { with.connections.consuming() },
        with: with.clone(),
        options,
        handle,
        _needs: needs,
        ready: Some(ready),
        is_apart,
        unparsable: 0,
        last_unparsable: None,
        complained: false,
        held: None,
    };
    with.tasks.spawn(feed.run());
    match outcome.await {
        Ok(outcome) => outcome.map(|()| consumer),
        Err(_) => Err(crate::broker::closed()),
    }
}

/// Takes a message into the ledger. Dropped, it is given back.
fn delivery(ledger: &Arc<Ledger>, message: lapin::message::Delivery) -> Delivery {
    ledger.deliver(message.delivery_tag);
    let mut receipt = Receipt::new(ledger.clone(), message.delivery_tag);
    let envelope = convert::envelope(message.properties, message.data);
    let returns = wear::holders(message.redelivered, &envelope);
    let is_worn = wear::is_worn(message.redelivered, &envelope, ledger.crash_limit);
    if is_worn && ledger.may_publish_anew {
        let (exchange, routing_key) = (message.exchange.as_str(), message.routing_key.as_str());
        let copy = given_back_copy(envelope.clone(), exchange, routing_key);
        receipt = receipt.published_anew(Publish::to_queue(ledger.queue.clone(), copy));
    }
    let mut delivery = Delivery::new(envelope, ledger.queue.clone(), Box::new(receipt));
    delivery.exchange = message.exchange.into();
    delivery.routing_key = message.routing_key.into();
    delivery.redelivered = message.redelivered;
    delivery.returns = returns;
    delivery.restore_origin();
    delivery
}

/// True if the channel may stash settlements: with a lower prefetch there are never so many.
fn may_stash(options: &ConsumeOptions) -> bool {
    usize::from(options.prefetch) >= STASHED
}

impl Feed {
    async fn run(mut self) {
        let stop = self.handle.clone();
        let closed = self.with.closing.closed.clone();
        let mut pause = PAUSE;
        loop {
            let session = tokio::select! {
                session = self.session() => session,
                () = stop.stopped() => return,
                () = closed.cancelled() => return,
            };
            // The broker went down for good.
            let Some(session) = session else { return };
            let since = Instant::now();
            let end = self.consume(&session).await;
            if since.elapsed() > SETTLED {
                pause = PAUSE;
            }
            if let End::Stopped(ledger) = end {
                // Its clone would keep the deliveries open.
                drop(stop);
                return self.flush(&ledger).await;
            }
            match self.judge(end).await {
                Next::End => return,
                Next::AtOnce => {}
                Next::AfterPause => {
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = stop.stopped() => return,
                        () = closed.cancelled() => return,
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// The present session, or the next. While there is none, the consumer counts as started.
    async fn session(&mut self) -> Option<Arc<Session>> {
        loop {
            let state = self.state.borrow_and_update().clone();
            if let Some(session) = state.session.filter(|session| session.is_connected()) {
                return Some(session);
            }
            if state.down.is_some() {
                self.count_as_started();
            }
            // Its jobs wait.
            let _waits = self.with.waiters.wait();
            self.state.changed().await.ok()?;
        }
    }

    /// Consumes on a channel of its own until it ends.
    async fn consume(&mut self, session: &Arc<Session>) -> End {
        let channel = match session.channel(ANSWER).await {
            Ok(channel) => channel,
            Err(error) => return self.failed(session, error),
        };
        let opened = tokio::time::timeout(ANSWER, self.open(channel.clone())).await;
        let (ledger, deliveries) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return self.failed(session, error),
            // To end the connection would give back what others are at.
            Err(_) if self.may_go_apart() && session.channel(ANSWER).await.is_ok() => {
                // If the answer arrives after all, deliveries come with it, which no consumer would take.
                self.with.tasks.handle().spawn(async move { channel.close(200, short("no answer")).await });
                return End::Unanswered;
            }
            Err(_) => {
                session.fail("it does not answer `basic.consume`");
                return End::Lost;
            }
        };
        self.complained = false;
        self.count_as_started();
        let tag = deliveries.tag();
        let taken = ledger.clone();
        // Where more are out than one, the ledger sends acks of many.
        let takes_all = self.options.prefetch > 1;
        let read = move |message| delivery(&taken, message);
        let (keeper, deliveries, mut ended) = delivery_stream::open(deliveries, takes_all, read);
        self.handle.attach(deliveries);
        let closed = self.with.closing.closed.clone();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                ended = &mut ended => {
                    ledger.look(keeper.look());
                    self.held = ledger.oldest();
                    ledger.send_at_once();
                    return match ended.ok().flatten() {
                        Some(error) => self.failed(session, error),
                        None if session.is_connected() => {
                            let timed_out = self.time_out(&ledger);
                            self.recall(ledger, &keeper);
                            timed_out.unwrap_or(End::Cancelled)
                        }
                        None => End::Lost,
                    };
                }
                _ = looks.tick() => {
                    ledger.look(keeper.look());
                    ledger.send_due();
                }
                () = self.handle.stopped() => break,
                () = closed.cancelled() => break,
            }
        }
        let late = keeper.close();
        // Deliveries that no consumer will take are dropped with it.
        drop(keeper);
        if let Some(mut late) = late {
            // Given back by nack, which costs a quorum queue's delivery count less than a close.
            let cancel = ledger.channel().basic_cancel(tag, BasicCancelOptions::default());
            let drain = async {
                let _ = cancel.await;
                while let Some(Ok(message)) = late.next().await {
                    drop(delivery(&ledger, message));
                }
            };
            let _ = tokio::time::timeout(Duration::from_secs(2), drain).await;
        }
        End::Stopped(ledger)
    }

    /// Notes what the server has taken back because it was not settled in time. The server does not say why it ended the
    /// consumer, and ignores an ack of what it has taken back.
    fn time_out(&self, ledger: &Ledger) -> Option<End> {
        let limit = consumer_timeout(&self.options)?;
        let seen = limit - UNSEEN.min(limit / 4);
        let oldest = self.held.filter(|held| held.waited + held.ran >= seen)?;
        ledger.time_out(seen);
        Some(End::TimedOut(oldest, limit))
    }

    /// The server has ended the consumer, and the channel is open: gives back what has not begun, lets what runs end and be
    /// acked, and then closes the channel. Until then no consumer would own a delivery that was dropped.
    fn recall(&self, ledger: Arc<Ledger>, keeper: &Keeper) {
        ledger.recall();
        let given_back = keeper.give_back();
        tracing::debug!(queue = %self.options.queue, given_back, "the consumer was ended; what had not begun goes back");
        let closed = self.with.closing.closed.clone();
        let queue = may_stash(&self.options).then(|| self.options.queue.clone());
        self.with.tasks.spawn(async move {
            let mut looks = tokio::time::interval(LOOK);
            loop {
                tokio::select! {
                    // First: acks of which the last falls together with the end of the broker want their barrier.
                    biased;
                    () = ledger.all_in() => break,
                    // A settlement on a lost channel reaches no broker.
                    _ = looks.tick() => if !ledger.is_open() { return },
                    () = closed.cancelled() => return,
                }
            }
            let close = async {
                let _ = ledger.barrier(queue.as_deref(), |message| drop(delivery(&ledger, message))).await;
                let _ = ledger.channel().close(200, short("all is settled")).await;
            };
            let _ = tokio::time::timeout(ANSWER, close).await;
        });
    }

    /// Waits until everything is settled and the queue has all of it.
    async fn flush(self, ledger: &Arc<Ledger>) {
        let unflushed = self.handle.end();
        let settled = unflushed.settled();
        tokio::pin!(settled);
        let mut looks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = &mut settled => break,
                () = self.with.closing.closed.cancelled() => break,
                _ = looks.tick() => ledger.send_due(),
            }
        }
        ledger.send_at_once();
        let queue = may_stash(&self.options).then_some(&*self.options.queue);
        let barrier = ledger.barrier(queue, |message| drop(delivery(ledger, message)));
        let _ = tokio::time::timeout(Duration::from_secs(2), barrier).await;
    }

    async fn open(&self, channel: lapin::Channel) -> lapin::Result<(Arc<Ledger>, lapin::Consumer)> {
        // Before consuming: without it the server sends the whole queue.
        channel.basic_qos(self.options.prefetch.max(1), BasicQosOptions { global: false }).await?;
        let name = self.options.name.as_deref().unwrap_or(&self.with.settings.name);
        let tag = format!("{}-{:08x}", crate::envelope::truncate(name, 200), fastrand::u32(..));
        let deliveries = channel
            .basic_consume(
                short(&self.options.queue),
                short(&tag),
                BasicConsumeOptions::default(),
                arguments(&self.options),
            )
            .await?;
        // An answer on the channel comes after what the queue had for us when it answered `basic.consume`.
        channel.basic_qos(self.options.prefetch.max(1), BasicQosOptions { global: false }).await?;
        let ledger =
            Ledger::new(self.with.publishing.clone(), channel, Box::new(self.state.clone()), &self.options);
        Ok((ledger, deliveries))
    }

    fn failed(&self, session: &Session, error: lapin::Error) -> End {
        if fault::is_unparsable(&error) {
            End::Unparsable
        } else if !session.is_connected() {
            End::Lost
        } else if fault::protocol(&error).is_some() {
            End::Refused(error)
        } else {
            End::Failed(error)
        }
    }

    /// The step that follows an end.
    async fn judge(&mut self, end: End) -> Next {
        let queue = self.options.queue.clone();
        match end {
            End::Stopped(_) => Next::End,
            End::Lost => Next::AtOnce,
            End::Unparsable => self.judge_unparsable(),
            End::Unanswered => {
                self.complain("RabbitMQ does not answer for the queue (no majority of its nodes, perhaps)");
                self.count_as_started();
                self.go_apart();
                Next::AfterPause
            }
            End::Cancelled => {
                let held = self.held.map_or_else(String::new, |held| format!(": {}", self.words(held)));
                self.complain(&format!(
                    "RabbitMQ ended the consumer: its queue was deleted, its leader is gone, or a delivery was held for \
                     longer than `consumer_timeout`{held}"
                ));
                self.redeclare().await;
                Next::AfterPause
            }
            End::TimedOut(held, limit) => {
                tracing::error!(
                    %queue,
                    ?limit,
                    "RabbitMQ waited in vain for settlements and delivers their jobs again: {}. The limit \
                     (`x-consumer-timeout`) follows from the timeouts of the worker's tasks",
                    self.words(held)
                );
                Next::AfterPause
            }
            End::Failed(error) => {
                if fault::is_out_of_channels(&error) {
                    let error = fault::out_of_channels(&queue);
                    if let Some(ready) = self.ready.take() {
                        let _ = ready.send(Err(error));
                        return Next::End;
                    }
                    self.complain(&chain(&error));
                }
                Next::AfterPause
            }
            // Asked for anew without it. Before it is asked, a queue does not tell its type.
            End::Refused(error)
                if has_no_timeout(&error) && self.options.consumer_timeout.take().is_some() =>
            {
                Next::AtOnce
            }
            End::Refused(error) => {
                let refusal = declare::refusal("queue", &queue, &error);
                if let Some(ready) = self.ready.take() {
                    let _ = ready.send(Err(refusal));
                    return Next::End;
                }
                match fault::protocol(&error) {
                    Some((code::PRECONDITION_FAILED, text)) if text.contains("timeout") => {
                        let held = self.held.map_or_else(
                            || "a delivery was held for too long".to_owned(),
                            |held| self.words(held),
                        );
                        tracing::error!(
                            %queue,
                            text,
                            "RabbitMQ waited in vain for a settlement, so all deliveries of the queue's channel go back: \
                             {held}, or raise `consumer_timeout` (rabbitmq.conf, or the queue's policy)"
                        );
                    }
                    Some((code::NOT_FOUND, _)) => {
                        self.complain("the queue is gone");
                        self.redeclare().await;
                    }
                    _ => self.complain(&chain(&refusal)),
                }
                Next::AfterPause
            }
        }
    }

    /// Goes apart, to see whose message it was; if it was ours, again and again, gives the queue up.
    fn judge_unparsable(&mut self) -> Next {
        // It can be consumed, but for this message.
        self.count_as_started();
        let queue = &self.options.queue;
        if !self.is_apart {
            if self.may_go_apart() {
                self.go_apart();
            }
            return Next::AtOnce;
        }
        let is_recent = self.last_unparsable.is_some_and(|last| last.elapsed() < SETTLED);
        self.unparsable = if is_recent { self.unparsable + 1 } else { 1 };
        self.last_unparsable = Some(Instant::now());
        if self.unparsable < UNPARSABLE {
            return Next::AfterPause;
        }
        let error = Error::new(
            ErrorKind::Worker,
            format!(
                "queue `{queue}` holds a message that cannot be parsed (a name or property that is not UTF-8): consuming \
                 it has stopped; take the message out with another client"
            ),
        );
        tracing::error!(%queue, "{error}");
        self.with.unparsable().insert(queue.clone());
        self.handle.send(Err(error));
        Next::End
    }

    /// Tells the task that waits for the start, if there is one.
    fn count_as_started(&mut self) {
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(Ok(()));
        }
    }

    /// Not where it is apart already. And an exclusive queue cannot go apart from its connection, but is deleted with it,
    /// message and all.
    fn may_go_apart(&self) -> bool {
        !self.is_apart && !self.with.declared.is_exclusive(&self.options.queue)
    }

    fn go_apart(&mut self) {
        self.is_apart = true;
        self.state = self.with.connections.new_apart();
    }

    /// The reason why a delivery was held for so long, and what to do about it.
    fn words(&self, Held { waited, ran }: Held) -> String {
        let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
        let (prefetch, held) = (self.options.prefetch, seconds(waited + ran));
        if waited > ran {
            format!(
                "the oldest was held for {held}, of which it waited {} for the jobs before it. Lower the queue's prefetch \
                 of {prefetch} (prefetch × time of a job, divided by the concurrency, is how long one is held)",
                seconds(waited)
            )
        } else {
            format!("its job ran for {}. Make the job shorter", seconds(ran))
        }
    }

    /// Logs once what is wrong with the queue, until it works again.
    fn complain(&mut self, what: &str) {
        if !self.complained {
            tracing::warn!(queue = %self.options.queue, "{what}; trying again until it works");
            self.complained = true;
        }
    }

    /// Declares the queue again if it was ours.
    async fn redeclare(&self) {
        let queue = &self.options.queue;
        let declared = &self.with.declared;
        let ours =
            declared.remembered().topology().queues.iter().any(|decl| decl.name == *queue && !decl.passive);
        // What goes wrong shows at the next attempt to consume.
        if declared.is_exclusive(queue) {
            let _ = self.with.restorer.redeclare_exclusive(queue).await;
        } else if ours {
            let _ = self.with.restorer.redeclare_all().await;
        }
    }
}
