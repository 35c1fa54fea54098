//! What a worker promises, by its public interface.

mod concurrency;
mod events;
mod failure;
mod layer;
mod log;
mod lost;
mod own_broker;
mod program;
mod registry;
mod rpc;
mod shutdown;
#[cfg(unix)]
mod signal;
mod snooze;
mod start;
mod support;
mod suspect;
mod testing;
mod trace;
mod unknown_task;
