//! A user's crate as strict as they come. That it compiles is the test; the rest is in the modules.
#![forbid(unsafe_code)]
#![deny(
    warnings,
    missing_docs,
    missing_debug_implementations,
    missing_copy_implementations,
    unreachable_pub,
    unused,
    unused_qualifications,
    unused_results,
    unused_lifetimes,
    unused_import_braces,
    unused_macro_rules,
    single_use_lifetimes,
    trivial_casts,
    trivial_numeric_casts,
    explicit_outlives_requirements,
    redundant_lifetimes,
    elided_lifetimes_in_paths,
    let_underscore_drop,
    non_ascii_idents,
    keyword_idents,
    absolute_paths_not_starting_with_crate,
    rust_2018_idioms,
    future_incompatible,
    nonstandard_style,
    clippy::all,
    clippy::pedantic,
    clippy::nursery,
    clippy::allow_attributes_without_reason,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::items_after_statements,
    clippy::let_underscore_untyped,
    clippy::std_instead_of_core,
    clippy::missing_docs_in_private_items,
    clippy::unreachable,
    clippy::wildcard_enum_match_arm
)]
#![allow(clippy::redundant_pub_crate, reason = "it contradicts `unreachable_pub`")]

mod conditional;
mod deprecated;
mod events;
mod private_types;
pub mod public;
mod reexported;
mod shadowed;
mod signatures;
mod wrapped;
