//! What is the SQLite broker's own: the file, the processes that share it, and what becomes of jobs when they die. What
//! all brokers promise stands in `tests/brokers`.

mod crash_loop;
mod disk;
mod fault;
mod fence;
mod file;
mod gone;
mod kill;
mod lock;
mod many;
mod neighbour;
mod outbox;
mod registry;
mod support;
