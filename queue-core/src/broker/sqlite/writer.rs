//! The one thread that writes: what many tasks want at the same time shares a transaction.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::command::{Answer, Command, Ticket};
use super::fault::{self, Fault, Trouble};
use super::log::Log;
use super::place::Place;
use super::settler::SqliteSettler;
use super::state::State;
use super::subscription::Claim;
use super::sync::Syncer;
use crate::broker::amqp::Plan;
use crate::broker::{Delivery, Health, Returns};
use crate::error::SettleError;

/// How often an idle writer looks whether other programs have changed the file: the time that a job of theirs waits at
/// most. Looking costs some microseconds.
const POLL: Duration = Duration::from_millis(20);
/// For how long a file that was in its place is taken to be there, where nothing is confirmed.
const IN_PLACE: Duration = Duration::from_millis(5);
/// How many rows one transaction is good for, so that other programs get their turn.
const BATCH: usize = 2048;
/// How often an idle writer gives some of what the file no longer needs back to the disk.
const TIDYING: Duration = Duration::from_millis(100);
/// How many pages the log has about when it is moved into the database: as many as SQLite takes by itself.
const LOG_PAGES: usize = 1000;
/// How many pages are no burden: they will be needed again.
const SPARE_PAGES: i64 = 1024;
/// The longest that SQLite is told to wait for others.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// How long it rests after a failure without a waiting caller.
const REST: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Writer {
    pub(super) state: State,
    pub(super) commands: Receiver<Command>,
    /// For the settlers of deliveries.
    pub(super) sender: Weak<Sender<Command>>,
    pub(super) syncer: Syncer,
    place: Arc<Place>,
    /// When the file was last found in its place; `None` if it was not.
    in_place: Option<Instant>,
    pub(super) health: Arc<Mutex<Health>>,
    /// The trouble, in the words of the last report.
    told: Option<String>,
    /// Deliveries whose settlement failed: they go back as soon as the file can be written.
    owed: Vec<Ticket>,
    /// Publishes and settlements for which there was no room on the disk, while they have time.
    blocked: Vec<Command>,
    /// SQLite's number of the content that we last looked through for work.
    peeked: Option<i64>,
    rest_until: Option<Instant>,
    tidied: Instant,
    log: Log,
    /// How many commands have been written since the last checkpoint.
    written: usize,
    /// How many may be before the next one, once one has shown how long they make the log.
    checkpoint_at: Option<usize>,
    /// The callers that wait for the end.
    closing: Option<Command>,
}

impl Writer {
    pub(super) fn new(
        state: State,
        commands: Receiver<Command>,
        sender: Weak<Sender<Command>>,
        syncer: Syncer,
        place: Arc<Place>,
        health: Arc<Mutex<Health>>,
    ) -> Self {
        let log = Log::of(&state.database());
        Self {
            state,
            commands,
            sender,
            syncer,
            place,
            in_place: None,
            health,
            told: None,
            owed: Vec::new(),
            blocked: Vec::new(),
            peeked: None,
            rest_until: None,
            tidied: Instant::now(),
            log,
            written: 0,
            checkpoint_at: None,
            closing: None,
        }
    }

    /// Ends after `Close`, or when the broker is gone.
    pub(super) fn run(mut self) {
        loop {
            match self.commands.recv_timeout(self.patience()) {
                Ok(first) => {
                    let commands = self.gather(first);
                    let is_last = matches!(commands.last(), Some(Command::Close(_)));
                    self.carry_out(commands);
                    if is_last {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // Callers that wait for the disk are answered before the one that waits for the end.
        let Self { state, commands, syncer, closing, .. } = self;
        drop(commands);
        syncer.finish();
        if let Err((_, error)) = state.connection.close() {
            tracing::debug!(%error, "the database was not closed cleanly");
        }
        if let Some(close) = closing {
            close.answer(Answer::Closed);
        }
    }

    /// The waiting commands, up to a batch. `Close` is the last of a batch.
    fn gather(&mut self, first: Command) -> Vec<Command> {
        let mut weight = 0;
        let mut commands = Vec::new();
        let mut next = Some(first);
        while let Some(command) = next {
            weight += command.weight();
            let is_last = matches!(command, Command::Close(_));
            commands.push(command);
            if is_last || weight >= BATCH {
                break;
            }
            next = self.commands.try_recv().ok();
        }
        commands
    }

    /// Ends when all are carried out or refused: within the publish timeout, if another program has the file locked.
    fn carry_out(&mut self, mut commands: Vec<Command>) {
        loop {
            commands = self.try_out(commands);
            if commands.is_empty() {
                return;
            }
        }
    }

    /// Gives back those that were neither carried out nor refused, because the file is locked and they have time.
    fn try_out(&mut self, mut commands: Vec<Command>) -> Vec<Command> {
        if let Err(error) = self.wait_for_others(&commands) {
            tracing::debug!(%error, "how long others are waited for was not changed");
        }
        let is_resting = self.rest_until.is_some();
        let is_last = matches!(commands.last(), Some(Command::Close(_)));
        // First, so that `Close` stays the last: for what is still owed then, its holder counts as lost.
        if !is_resting || is_last {
            commands.splice(0..0, std::mem::take(&mut self.blocked));
            commands.splice(0..0, std::mem::take(&mut self.owed).into_iter().map(Command::GiveBack));
        }
        if let Err(moved) = self.look_at_place(&commands) {
            self.is_unwell(&moved);
            for command in commands {
                self.refuse(command, &moved);
            }
            return Vec::new();
        }
        if let Err(error) = self.resolve_doubt() {
            let error = self.fault(&error);
            self.is_unwell(&error);
            let (durable, others): (Vec<_>, _) = commands.into_iter().partition(Command::is_durable);
            for command in durable {
                self.refuse(command, &error);
            }
            commands = others;
        }
        match self.state.transact(&commands) {
            Ok(answers) => {
                self.is_well();
                self.written += 1 + commands.iter().map(Command::weight).sum::<usize>();
                self.tell(commands, answers);
                if self.is_log_long() {
                    self.checkpoint();
                }
            }
            // One command's failure is not to be that of the others.
            Err(error) if commands.len() > 1 && fault::trouble(&error) != Trouble::Busy => {
                tracing::debug!(%error, "a transaction failed; its parts are tried one by one");
                for command in commands {
                    match self.state.transact(std::slice::from_ref(&command)) {
                        Ok(answers) => self.tell(vec![command], answers),
                        Err(error) => self.refuse(command, &self.fault(&error)),
                    }
                }
            }
            Err(error) => {
                let error = self.fault(&error);
                if commands.is_empty() {
                    self.is_unwell(&error);
                }
                let is_busy = error.trouble == Trouble::Busy;
                let (in_time, late): (Vec<_>, _) =
                    commands.into_iter().partition(|command| is_busy && self.has_time(command));
                let is_any_late = !late.is_empty();
                for command in late {
                    self.refuse(command, &error);
                }
                if !in_time.is_empty() && !is_any_late {
                    // SQLite does not wait for some locks.
                    std::thread::sleep(POLL);
                }
                return in_time;
            }
        }
        Vec::new()
    }

    /// Looks whether the file is where it was. Each time before something is written that is to be confirmed; the others
    /// are many, and a moment late is no harm to them.
    fn look_at_place(&mut self, commands: &[Command]) -> Result<(), Fault> {
        let is_to_last = commands.is_empty() || commands.iter().any(Command::is_durable);
        if !is_to_last && self.in_place.is_some_and(|last| last.elapsed() < IN_PLACE) {
            return Ok(());
        }
        let looked = self.place.look();
        self.in_place = looked.is_ok().then(Instant::now);
        looked.map_err(|moved| Fault::from(&moved))
    }

    fn fault(&self, error: &rusqlite::Error) -> Fault {
        Fault::new(&self.state.setup.path, error)
    }

    /// Makes SQLite wait for other programs that write until the time of the oldest command is up. What nobody asked for
    /// waits a whole timeout: who asks meanwhile still has as much left.
    fn wait_for_others(&self, commands: &[Command]) -> rusqlite::Result<()> {
        let timeout = self.state.setup.publish_timeout;
        let asked = commands.iter().filter(|command| command.since().is_some());
        let left = asked.map(|command| self.time_left(command)).fold(timeout, Duration::min);
        // Up to a whole millisecond, of which SQLite counts no part, and to what it can count.
        let left = left.saturating_add(Duration::from_millis(1)).min(LONGEST);
        self.state.connection.busy_timeout(left)
    }

    /// How long a command may still wait; a command without a caller does not wait.
    fn time_left(&self, command: &Command) -> Duration {
        let timeout = self.state.setup.publish_timeout;
        command.since().map_or(Duration::ZERO, |since| timeout.saturating_sub(since.elapsed()))
    }

    fn has_time(&self, command: &Command) -> bool {
        !self.time_left(command).is_zero()
    }

    /// After a sync that failed: moves the whole log into the database, and lets it begin anew, before anything more is
    /// confirmed.
    fn resolve_doubt(&self) -> rusqlite::Result<()> {
        if self.syncer.is_in_doubt() {
            self.syncer.checkpoint(true, || self.state.empty_log(), is_of_the_disk)?;
        }
        Ok(())
    }

    fn is_log_long(&self) -> bool {
        match self.checkpoint_at {
            Some(commands) => self.written >= commands,
            // Later on its file tells nothing: it is written over from the beginning.
            None => self.log.bytes() >= LOG_PAGES as u64 * 4096,
        }
    }

    /// Moves the log into the database. Only when all are answered: SQLite by itself would do it before a commit is over.
    fn checkpoint(&mut self) {
        let began = Instant::now();
        match self.syncer.checkpoint(false, || self.state.checkpoint(), is_of_the_disk) {
            Ok((pages, moved)) => {
                // Less than none while another program is at it.
                if pages >= 0 {
                    self.log.watch(moved >= pages);
                }
                tracing::debug!(pages, moved, took = ?began.elapsed(), "moved the log into the database");
                // How many commands fill it depends on what they are, and on what others write.
                let pages = usize::try_from(pages).unwrap_or(0).max(1);
                let commands = self.written * LOG_PAGES / pages;
                self.checkpoint_at = Some(commands.clamp(LOG_PAGES / 10, LOG_PAGES * 10));
            }
            Err(error) => tracing::debug!(%error, "the log could not be moved into the database"),
        }
        self.written = 0;
    }

    /// Gives the log's room back to the disk, if no program writes or reads it. Does not wait for one that does.
    fn empty_log(&mut self) {
        let emptied = self
            .state
            .connection
            .busy_timeout(Duration::ZERO)
            .and_then(|()| self.syncer.checkpoint(true, || self.state.empty_log(), is_of_the_disk));
        match emptied {
            Ok(()) => self.log.watch(true),
            Err(error) => tracing::debug!(%error, "the log could not be emptied"),
        }
    }

    /// After a commit: delivers what was claimed, and answers.
    fn tell(&mut self, commands: Vec<Command>, answers: Vec<Answer>) {
        for claim in std::mem::take(&mut self.state.claims) {
            self.deliver(claim);
        }
        self.state.deliver_replies();
        for answered in commands.iter().zip(&answers) {
            match answered {
                (Command::Declare { topology, .. }, Answer::Done(Ok(()))) => {
                    self.state.remembered.add(topology)
                }
                (Command::Delete { queue, .. }, Answer::Done(Ok(()))) => self.state.remembered.forget(queue),
                _ => {}
            }
        }
        let (mut durable, mut others) = (Vec::new(), Vec::new());
        for answered in commands.into_iter().zip(answers) {
            if answered.0.is_durable() { durable.push(answered) } else { others.push(answered) }
        }
        if !durable.is_empty() {
            self.syncer.answer_later(durable);
        }
        for (command, answer) in others {
            if matches!(command, Command::Close(_)) {
                self.state.locks.leave();
                self.closing = Some(command);
            } else {
                command.answer(answer);
            }
        }
    }

    fn deliver(&self, claim: Claim) {
        let Claim { ticket, losses, envelope, exchange, routing_key } = claim;
        let Some(consumer) = self.state.consumers.get(&ticket.consumer) else { return };
        let redelivered = ticket.returns > 0;
        let (clock, tenure) = (self.state.setup.clock.clone(), self.state.tenure.clone());
        let settler = SqliteSettler { writer: self.sender.clone(), ticket: Some(ticket), clock, tenure };
        let mut delivery = Delivery::new(envelope, consumer.queue_name.clone(), Box::new(settler));
        delivery.exchange = exchange;
        delivery.routing_key = routing_key;
        delivery.redelivered = redelivered;
        if redelivered {
            delivery.returns = Returns::Counted(u64::try_from(losses).unwrap_or(0));
        }
        delivery.restore_origin();
        // A delivery whose consumer has ended is dropped, and asks to be given back.
        let _ = consumer.handle.offer(delivery);
    }

    /// Answers a command whose transaction was rolled back; but a publish or a settlement waits for room on the disk while
    /// it has time.
    fn refuse(&mut self, command: Command, fault: &Fault) {
        self.is_unwell(fault);
        if fault.trouble == Trouble::Full && waits_for_room(&command) && self.has_time(&command) {
            self.blocked.push(command);
            return;
        }
        let waited = command.since().map_or(Duration::ZERO, |since| since.elapsed());
        let publish = || fault.publish_error(waited);
        let words = || fault.error();
        let answer = match &command {
            Command::Publish { .. } => Answer::Published(Err(publish())),
            Command::PublishAll { publishes, .. } => {
                Answer::PublishedAll(publishes.iter().map(|_| Err(publish())).collect())
            }
            Command::Settle { ticket, plan, .. } => {
                self.owed.push(ticket.clone());
                Answer::Settled(Err(plan.failed(publish())))
            }
            Command::GiveBack(ticket) => {
                self.owed.push(ticket.clone());
                Answer::None
            }
            // Its settler gives the job back.
            Command::Mark { .. } => Answer::Settled(Err(SettleError::Lost)),
            Command::Declare { .. } | Command::Delete { .. } => Answer::Done(Err(words())),
            Command::Consume { .. } => Answer::Consumer(Err(words())),
            Command::Take { .. } => Answer::Taken(Err(words())),
            Command::Purge { .. } => Answer::Purged(Err(words())),
            Command::Change { .. } => Answer::Changed(Err(words())),
            Command::Leave(consumer) => {
                self.state.leave(*consumer);
                Answer::None
            }
            Command::Close(_) => {
                // Otherwise the lock file stays and shows the others that we have ended. Those of a file that was moved look elsewhere.
                if fault.trouble == Trouble::Moved {
                    self.state.locks.leave();
                }
                self.closing = Some(command);
                return;
            }
        };
        command.answer(answer);
    }

    fn is_well(&mut self) {
        if self.syncer.is_in_doubt() {
            return;
        }
        (self.rest_until, self.told) = (None, None);
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if *health != Health::Up {
            tracing::info!(path = %self.state.setup.path.display(), "the database can be written again");
            *health = Health::Up;
        }
    }

    fn is_unwell(&mut self, fault: &Fault) {
        let words = fault.in_full();
        // Once, not for each job that waits for it.
        if self.told.as_ref() != Some(&fault.words) {
            tracing::error!("{words}");
            self.told = Some(fault.words.clone());
        }
        let health = match fault.trouble {
            Trouble::Full => Health::Blocked(words),
            _ => Health::Down(words),
        };
        *self.health.lock().unwrap_or_else(PoisonError::into_inner) = health;
        self.rest_until = Some(Instant::now() + REST);
    }

    /// How long to wait for a command before looking what happens by itself.
    fn patience(&self) -> Duration {
        if let Some(until) = self.rest_until {
            let rest = until.saturating_duration_since(Instant::now());
            return self.blocked.iter().map(|command| self.time_left(command)).fold(rest, Duration::min);
        }
        let mut patience = POLL.min(self.state.neighbours.patience(self.state.setup.lease));
        if let Some(next) = self.state.deadlines.next() {
            let left = next.duration_since(self.state.setup.clock.now()).unwrap_or_default();
            patience = patience.min(left);
        }
        patience
    }

    /// Does the work that is due without a command: by the clock, and after changes of other programs.
    fn look(&mut self) {
        let has_rested = self.rest_until.take().is_some();
        match self.has_work() {
            Ok(has_work) if has_work || has_rested || self.syncer.is_in_doubt() || self.has_left_over() => {
                self.carry_out(Vec::new());
            }
            Ok(_) if self.tidied.elapsed() >= TIDYING => {
                self.tidied = Instant::now();
                match self.state.shrink(SPARE_PAGES) {
                    Ok(true) => self.checkpoint(),
                    Ok(false) if self.log.is_to_be_emptied() => self.empty_log(),
                    Ok(false) => {}
                    Err(error) => tracing::debug!(%error, "the file was not made smaller"),
                }
            }
            Ok(_) => {}
            Err(error) => self.is_unwell(&self.fault(&error)),
        }
    }

    /// True if something waits that did not go with the commands which ended the rest.
    fn has_left_over(&self) -> bool {
        !(self.owed.is_empty() && self.blocked.is_empty())
    }

    fn has_work(&mut self) -> rusqlite::Result<bool> {
        // To be told, and to answer who waits for room on the disk.
        if self.place.look().is_err() {
            return Ok(true);
        }
        let now = self.state.setup.clock.now();
        let is_due = |state: &State| state.deadlines.next().is_some_and(|next| next <= now);
        if is_due(&self.state) || self.state.neighbours.patience(self.state.setup.lease).is_zero() {
            return Ok(true);
        }
        // First the number, then the content: what comes in between is looked at next time.
        let version = self.state.data_version()?;
        if self.peeked == Some(version) {
            return Ok(false);
        }
        let has_work = self.state.has_work()? || is_due(&self.state);
        if !has_work {
            self.peeked = Some(version);
        }
        Ok(has_work)
    }
}

/// True for a command that waits for room on the disk: failing it would make its sender send it again, or a job run again. Others
/// fail at once.
fn waits_for_room(command: &Command) -> bool {
    match command {
        Command::Publish { .. } | Command::PublishAll { .. } | Command::Mark { .. } => true,
        Command::Settle { plan, .. } => !matches!(**plan, Plan::Release),
        _ => false,
    }
}

fn is_of_the_disk(error: &rusqlite::Error) -> bool {
    fault::trouble(error) == Trouble::Disk
}
