//! The way of a delivery from the server: `consumer` feeds it, `settle` ends it. `router` and `due` consume the
//! queue to which delayed jobs come.

mod arguments;
pub(super) mod consumer;
pub(super) mod due;
pub(super) mod ledger;
pub(super) mod router;
pub(super) mod settle;
pub(super) mod tags;
