//! The way of a message to the server: `publishing` and `batch` choose it, `publisher` sends and hears the confirms by `wire`.

pub(super) mod backlog;
pub(super) mod batch;
pub(super) mod caller;
pub(super) mod command;
pub(super) mod delayed;
pub(super) mod flight;
pub(super) mod outgoing;
pub(super) mod publisher;
pub(super) mod publishing;
pub(super) mod refused;
pub(super) mod replier;
pub(super) mod reply;
pub(super) mod returns;
pub(super) mod unconfirmed;
pub(super) mod wire;
