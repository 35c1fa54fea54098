//! Declares what callers ask for, and again what was deleted.

pub(super) mod declaring;
pub(super) mod exact;
#[cfg(feature = "management")]
pub(super) mod management;
pub(super) mod restore;
