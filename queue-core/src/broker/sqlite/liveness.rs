//! Tells processes that live from those that have ended. The name of one is its client's number in the file; it keeps the name if it
//! is struck off while it sleeps, and gets a further one.
//!
//! The table `leveret_client` lists the clients, and `leveret_lock` their lock files. Together they tell:
//!
//! | in the file | lock file | its process | what `lease` does |
//! |---|---|---|---|
//! | yes | locked | lives | strikes it off when its beat has stood still for its lease: it sleeps, or a child of it has the lock |
//! | yes | not locked | has ended | strikes it off at its next look |
//! | yes | gone, another one, or the system does not say | lives, until its lease is over | goes by the lease |
//! | yes | never had one: locks are refused there, or an older program | lives, until its lease is over | goes by the lease |
//! | no | locked | lives: it was struck off while it slept | keeps the row of the lock, and the file |
//! | no | not locked | has ended | deletes row and file |
//! | no | gone, or another one | has ended, as far as anybody can tell | deletes the row |
//! | no | the system does not say | has ended, as far as anybody can tell | keeps the row |
//! | no | never had one, or closed in order | has ended | nothing |

use std::path::PathBuf;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _};

use super::SqliteBroker;
use super::ids::ClientId;
use super::lock::{self, Holder};
use super::place::Identity;
use crate::broker::{Liveness, closed};
use crate::error::Result;

#[async_trait]
impl Liveness for SqliteBroker {
    async fn name(&self) -> Result<String> {
        self.tenure.client().map(|client| client.to_string()).ok_or_else(closed)
    }

    async fn is_alive(&self, name: &str) -> Result<bool> {
        let Ok(client) = name.parse() else { return Ok(false) };
        self.reader.read(move |reader| is_alive(reader, client)).await
    }
}

fn is_alive(reader: &Connection, client: ClientId) -> rusqlite::Result<bool> {
    let is_known =
        reader.prepare_cached("SELECT 1 FROM leveret_client WHERE client = ?1")?.exists([client])?;
    let recorded = reader
        .prepare_cached("SELECT device, inode FROM leveret_lock WHERE client = ?1")?
        .query_row([client], |row| Ok(Identity::from_numbers(row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some(identity) = recorded else { return Ok(is_known) };
    let database = reader.path().map(PathBuf::from).unwrap_or_default();
    Ok(match lock::probe(&lock::path_of(&database, client), identity) {
        Holder::Lives => true,
        Holder::Ended(_) => false,
        Holder::Absent | Holder::Unknown => is_known,
    })
}
