//! Keeps data beside the jobs. The broker carries jobs; the store lists the workers and clients.
//!
//! A [`Store`] is an accessor to small traits, one for each duty. [`Registry`] is the first: it lists the workers and clients
//! of a broker as [`Member`]s. [`Presence`] keeps the entry of one of them up to date.

mod api;
mod member;
mod presence;
mod registry;

pub use api::Store;
pub use member::{Member, MemberKind, PROTOCOL, RunningJob};
pub use presence::{Doing, Presence};
pub use registry::{FORGOTTEN_AFTER, GONE_AFTER, HEARTBEAT, Heartbeat, Registry};
