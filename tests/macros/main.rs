//! `#[task]` as a user meets it: what is generated, what a function may take and return, and what is refused.

mod alias;
mod drained;
mod format;
mod handlers;
mod options;
mod payload;
mod sending;
mod support;
mod version;
