//! The clients that have the file open, and those that have died: their jobs go back to their queues.
//!
//! Each client counts up its `beat`. Whoever sees another's beat stand still for its lease, by a clock that nobody can
//! set back, gives that one's jobs to others and strikes it off. A client that was struck off while it only slept
//! finds out before it does anything else: all its deliveries are lost, and it begins anew under another number.
//!
//! A client whose process has ended is found by its lock (`lock`), without waiting for its lease.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{OptionalExtension as _, params};

use super::ids::ClientId;
use super::lock::{self, Holder};
use super::neighbours::{BEATS, Neighbours, Sighting};
use super::place::Identity;
use super::state::State;
use crate::topology::Topology;

impl State {
    /// At the beginning of a transaction: we are known in the file, and give a beat if it is time.
    pub(super) fn live(&mut self) -> rusqlite::Result<()> {
        if self.me == 0 {
            self.register()?;
        } else if std::mem::take(&mut self.neighbours.has_changed) && !self.is_registered()? {
            self.begin_anew()?;
        }
        let interval = self.setup.lease / BEATS;
        if self.neighbours.last_beat.is_none_or(|last| last.elapsed() >= interval) {
            self.connection
                .prepare_cached("UPDATE leveret_client SET beat = beat + 1 WHERE client = ?1")?
                .execute([self.me])?;
            self.neighbours.last_beat = Some(Instant::now());
        }
        let look = Neighbours::look_interval(self.setup.lease);
        if self.neighbours.last_look.is_none_or(|last| last.elapsed() >= look) {
            self.look_around()?;
        }
        Ok(())
    }

    /// After a commit: tells this client's deliveries how long they are its own.
    pub(super) fn renew_tenure(&mut self) {
        if !self.deleted.is_empty() {
            self.tenure.lose(self.deleted.drain(..));
        }
        if let Some(beat) = self.neighbours.last_beat {
            // As the others reckon it.
            self.tenure.renew(self.me, beat, self.setup.lease / BEATS * (BEATS - 1));
        }
    }

    fn register(&mut self) -> rusqlite::Result<()> {
        let number = self.next();
        self.former = Some(std::mem::replace(&mut self.me, number));
        let lease = i64::try_from(self.setup.lease.as_micros()).unwrap_or(i64::MAX);
        self.connection
            .prepare_cached(
                "INSERT INTO leveret_client (client, name, opened_at, beat, lease) VALUES (?1, ?2, ?3, 0, ?4)",
            )?
            .execute(params![self.me, self.setup.name, self.now_micros(), lease])?;
        if let Some(identity) = self.locks.take(&self.database(), self.me) {
            let (device, inode) = identity.numbers();
            self.connection
                .prepare_cached("INSERT INTO leveret_lock (client, device, inode) VALUES (?1, ?2, ?3)")?
                .execute([self.me, device, inode])?;
        }
        self.neighbours.last_beat = Some(Instant::now());
        Ok(())
    }

    pub(super) fn is_registered(&self) -> rusqlite::Result<bool> {
        self.connection.prepare_cached("SELECT 1 FROM leveret_client WHERE client = ?1")?.exists([self.me])
    }

    /// Others took us for dead, and gave our jobs away.
    fn begin_anew(&mut self) -> rusqlite::Result<()> {
        let jobs: u32 = self.consumers.values().map(|consumer| consumer.in_flight).sum();
        tracing::warn!(
            program = self.setup.name,
            jobs,
            lease = ?self.setup.lease,
            "this program was silent for longer than its lease, so the jobs that it was running went to others; what it \
             says of them is refused"
        );
        self.register()?;
        self.lose_replies();
        for consumer in self.consumers.values_mut() {
            consumer.in_flight = 0;
        }
        self.slots.clear();
        self.restore_slots();
        for (id, consumer) in &self.consumers {
            self.record_consumer(*id, &consumer.queue_name, consumer.name.as_deref())?;
        }
        let own = std::mem::take(&mut self.own);
        let mut topology = Topology::new();
        (topology.queues, topology.bindings) = (own.queues, own.bindings);
        if let Err(error) = self.declare(&topology)? {
            tracing::error!(%error, "an exclusive queue of this client could not be declared again");
        }
        Ok(())
    }

    /// Strikes off clients whose process has ended, and those that have been silent for their lease.
    fn look_around(&mut self) -> rusqlite::Result<()> {
        // Time in which we slept ourselves does not count: the others may have slept with us.
        let most = self.setup.lease / BEATS;
        let since = self.neighbours.last_look.map_or(Duration::ZERO, |last| last.elapsed().min(most));
        self.neighbours.last_look = Some(Instant::now());
        let mut select = self.connection.prepare_cached(
            "SELECT client, beat, lease, device, inode FROM leveret_client LEFT JOIN leveret_lock USING (client) \
             WHERE client <> ?1",
        )?;
        let mut rows = select.query([self.me])?;
        let (database, mut ended) = (self.database(), Vec::new());
        let mut before = std::mem::take(&mut self.neighbours.seen);
        while let Some(row) = rows.next()? {
            let (client, beat, lease): (ClientId, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let sighting = before.remove(&client);
            let lives = sighting.as_ref().is_some_and(|sighting| sighting.beat != beat);
            if !lives && let (Some(device), Some(inode)) = (row.get(3)?, row.get(4)?) {
                let identity = Identity::from_numbers(device, inode);
                if matches!(lock::probe(&lock::path_of(&database, client), identity), Holder::Ended(_)) {
                    ended.push(client);
                    continue;
                }
            }
            let silence = match sighting {
                Some(sighting) if !lives => sighting.silence + since,
                _ => Duration::ZERO,
            };
            let lease = Duration::from_micros(u64::try_from(lease).unwrap_or(0));
            self.neighbours.seen.insert(client, Sighting { beat, lease, silence });
        }
        drop(rows);
        drop(select);
        let is_dead = |sighting: &Sighting| sighting.silence >= sighting.lease / BEATS * (BEATS - 1);
        let dead: Vec<_> = self
            .neighbours
            .seen
            .iter()
            .filter(|(_, sighting)| is_dead(sighting))
            .map(|(id, _)| *id)
            .collect();
        for client in ended {
            let (program, jobs) = (self.name_of(client)?, self.retire(client)?);
            tracing::warn!(
                program,
                jobs,
                "a program that had the file open ended without closing it: it was killed, or crashed; the jobs that it was \
                 running go back to their queues"
            );
        }
        for client in dead {
            let (program, jobs) = (self.name_of(client)?, self.retire(client)?);
            let silence = self.neighbours.seen.remove(&client).map(|sighting| sighting.silence);
            tracing::warn!(
                program,
                jobs,
                silent_for = ?silence.unwrap_or_default(),
                "a program that had the file open gives no sign of life: it was killed, or stands still; the jobs that \
                 it was running go back to their queues"
            );
        }
        self.forget_ended(&database)
    }

    fn name_of(&self, client: ClientId) -> rusqlite::Result<String> {
        let mut select =
            self.connection.prepare_cached("SELECT name FROM leveret_client WHERE client = ?1")?;
        Ok(select.query_row([client], |row| row.get(0)).optional()?.unwrap_or_default())
    }

    /// Forgets the locks of clients that were struck off, once their processes have ended.
    fn forget_ended(&mut self, database: &Path) -> rusqlite::Result<()> {
        let mut select = self.connection.prepare_cached(
            "SELECT client, device, inode FROM leveret_lock WHERE client NOT IN (SELECT client FROM leveret_client)",
        )?;
        let struck_off: Vec<(ClientId, Identity)> = select
            .query_map([], |row| Ok((row.get(0)?, Identity::from_numbers(row.get(1)?, row.get(2)?))))?
            .collect::<rusqlite::Result<_>>()?;
        drop(select);
        for (client, identity) in struck_off {
            match lock::probe(&lock::path_of(database, client), identity) {
                Holder::Lives | Holder::Unknown => continue,
                Holder::Ended(lock) => self.locks.remove_later(lock),
                Holder::Absent => {}
            }
            self.forget_lock(client)?;
        }
        Ok(())
    }

    pub(super) fn forget_lock(&self, client: ClientId) -> rusqlite::Result<()> {
        self.connection.prepare_cached("DELETE FROM leveret_lock WHERE client = ?1")?.execute([client])?;
        Ok(())
    }

    /// Ends a client: its consumers go, with the replies that no other client reads; its exclusive queues are deleted; and
    /// what it has not settled goes back. Says how many jobs these are.
    pub(super) fn retire(&mut self, client: ClientId) -> rusqlite::Result<usize> {
        let mut select = self
            .connection
            .prepare_cached("SELECT DISTINCT queue FROM leveret_consumer WHERE client = ?1")?;
        let consumed: Vec<String> =
            select.query_map([client], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        drop(select);
        self.connection
            .prepare_cached(
                "DELETE FROM leveret_reply WHERE address IN \
                 (SELECT queue FROM leveret_consumer WHERE client = ?1)",
            )?
            .execute([client])?;
        self.connection
            .prepare_cached("DELETE FROM leveret_consumer WHERE client = ?1")?
            .execute([client])?;
        for queue in consumed {
            self.used(&queue)?;
        }
        let exclusive = self.queues.iter().filter(|(_, queue)| queue.owner == Some(client));
        for queue in exclusive.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.remove_queue(queue)?;
        }
        let mut select = self.connection.prepare_cached(
            "SELECT queue, job, returns - given_back + 1, length(CAST(payload AS BLOB)) FROM leveret_job \
             WHERE client = ?1 ORDER BY job",
        )?;
        let held: Vec<(i64, i64, i64, i64)> = select
            .query_map([client], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
            .collect::<rusqlite::Result<_>>()?;
        drop(select);
        let jobs = held.len();
        for (queue, job, losses, bytes) in held {
            self.put_back_lost(queue, job, losses, bytes)?;
        }
        self.connection.prepare_cached("DELETE FROM leveret_client WHERE client = ?1")?.execute([client])?;
        self.bury()?;
        Ok(jobs)
    }
}
