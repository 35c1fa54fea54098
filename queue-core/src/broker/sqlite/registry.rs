//! The SQLite broker's store: who is registered, in a table of the file. Read beside the writer; what changes it goes with the
//! writer's transactions, and waits for no disk: a heartbeat that is lost is followed by another.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use rusqlite::{Connection, Row, params};
use serde_json::{Value, json};

use super::command::{Change, Command, Reply};
use super::reader::Reader;
use super::row::{micros, moment, text};
use super::schema;
use super::state::State;
use crate::broker::closed;
use crate::error::Result;
use crate::store::{FORGOTTEN_AFTER, Heartbeat, Member, MemberKind, Registry, RunningJob, Store};

/// One client's view of what a file remembers beside the jobs. Does not keep the broker open.
#[derive(Debug)]
pub(super) struct SqliteStore {
    pub(super) id: String,
    pub(super) commands: Weak<Sender<Command>>,
    pub(super) reader: Arc<Reader>,
}

impl SqliteStore {
    /// Makes the writer change the registry. Returns true if the member exists afterwards, or existed before it left.
    async fn change(&self, change: Change) -> Result<bool> {
        let (reply, answer) = Reply::channel();
        let commands = self.commands.upgrade().ok_or_else(closed)?;
        commands.send(Command::Change { change, reply }).map_err(|_| closed())?;
        drop(commands);
        answer.await.unwrap_or_else(|_| Err(closed()))
    }
}

impl Store for SqliteStore {
    fn id(&self) -> &str {
        &self.id
    }

    fn registry(&self) -> &dyn Registry {
        self
    }
}

#[async_trait]
impl Registry for SqliteStore {
    async fn register(&self, member: &Member) -> Result<()> {
        self.change(Change::Register(member.clone())).await.map(drop)
    }

    async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<bool> {
        self.change(Change::Heartbeat(heartbeat.clone())).await
    }

    async fn members(&self) -> Result<Vec<Member>> {
        self.reader.read(members).await
    }

    async fn leave(&self, id: &str) -> Result<()> {
        self.change(Change::Leave(id.to_owned())).await.map(drop)
    }
}

impl State {
    /// Changes the registry, and says whether the member is there afterwards, or was there to leave.
    pub(super) fn change(&mut self, change: &Change) -> rusqlite::Result<bool> {
        match change {
            Change::Register(member) => {
                self.own_members.insert(member.id.clone());
                self.forget_members(micros(member.last_seen))?;
                self.enter(member)?;
                Ok(true)
            }
            Change::Heartbeat(heartbeat) => {
                let Heartbeat { id, at, busy, running } = heartbeat;
                let seen = self
                    .connection
                    .prepare_cached(
                        "UPDATE leveret_member SET last_seen = ?2, busy = ?3, running = ?4 WHERE id = ?1",
                    )?
                    .execute(params![id, micros(*at), busy, write_running(running)])?;
                // Only now: one that slept for as long is not forgotten by its own heartbeat.
                self.forget_members(micros(*at))?;
                Ok(seen > 0)
            }
            // It stays one of ours, should this be undone with its transaction.
            Change::Leave(id) => self.strike_out(id),
        }
    }

    /// Takes out the members that this client registered, since it leaves the file.
    pub(super) fn leave_registry(&mut self) -> rusqlite::Result<()> {
        for id in &self.own_members {
            self.strike_out(id)?;
        }
        Ok(())
    }

    fn enter(&self, member: &Member) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO leveret_member (id, kind, name, host, process, version, protocol, started_at, \
                 last_seen, busy, queues, tasks, running) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            )?
            .execute(params![
                member.id,
                write_kind(member.kind),
                member.name,
                member.host,
                member.process,
                member.version,
                member.protocol,
                micros(member.started_at),
                micros(member.last_seen),
                member.busy,
                json!(member.queues).to_string(),
                json!(member.tasks).to_string(),
                write_running(&member.running),
            ])
            .map(drop)
    }

    fn strike_out(&self, id: &str) -> rusqlite::Result<bool> {
        let mut delete = self.connection.prepare_cached("DELETE FROM leveret_member WHERE id = ?1")?;
        Ok(delete.execute([id])? > 0)
    }

    fn forget_members(&self, now: i64) -> rusqlite::Result<()> {
        let last = now.saturating_sub(i64::try_from(FORGOTTEN_AFTER.as_micros()).unwrap_or(i64::MAX));
        let mut delete =
            self.connection.prepare_cached("DELETE FROM leveret_member WHERE last_seen <= ?1")?;
        delete.execute([last]).map(drop)
    }
}

fn members(reader: &Connection) -> rusqlite::Result<Vec<Member>> {
    // Its tables may be others by now.
    schema::check_now(reader)?;
    let mut select = reader.prepare_cached(
        "SELECT id, kind, name, host, process, version, protocol, started_at, last_seen, busy, queues, tasks, running \
         FROM leveret_member ORDER BY member",
    )?;
    let members = select.query_map([], read)?;
    members.collect()
}

/// The row may have been written by hand, so values that make no sense count as missing.
fn read(row: &Row<'_>) -> rusqlite::Result<Member> {
    let string = |at| text(row, at).map(Option::unwrap_or_default);
    let number = |at| row.get::<_, u32>(at).unwrap_or(0);
    let time = |at| row.get(at).map_or(std::time::UNIX_EPOCH, moment);
    let mut member = match &*string(1)? {
        "worker" => Member::worker(string(2)?, read_list(&string(10)?), read_list(&string(11)?), time(7)),
        _ => Member::client(string(2)?, time(7)),
    };
    (member.id, member.host, member.version) = (string(0)?, string(3)?, string(5)?);
    (member.process, member.protocol, member.busy) = (number(4), number(6), number(9));
    (member.last_seen, member.running) = (time(8), read_running(&string(12)?));
    Ok(member)
}

fn write_kind(kind: MemberKind) -> &'static str {
    match kind {
        MemberKind::Worker => "worker",
        MemberKind::Client => "client",
    }
}

fn read_list(json: &str) -> Vec<String> {
    serde_json::from_str(json).unwrap_or_default()
}

fn write_running(jobs: &[RunningJob]) -> String {
    let job = |RunningJob { id, task, queue, since }: &RunningJob| json!({ "id": id.as_str(), "task": task, "queue": queue, "since": micros(*since) });
    Value::Array(jobs.iter().map(job).collect()).to_string()
}

fn read_running(json: &str) -> Vec<RunningJob> {
    let jobs: Vec<Value> = serde_json::from_str(json).unwrap_or_default();
    let job = |job: &Value| {
        let string = |key: &str| job.get(key).and_then(Value::as_str).map(str::to_owned);
        let since = job.get("since").and_then(Value::as_i64)?;
        Some(RunningJob::new(string("id")?.into(), string("task")?, string("queue")?, moment(since)))
    };
    jobs.iter().filter_map(job).collect()
}
