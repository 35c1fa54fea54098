//! The programs in README.md and on the pages of docs/, compiled and run: `cargo test --doc -p leveret-guide`.
//!
//! Each page is the documentation of a module below, so that rustdoc tests its blocks of Rust. A new page is listed here and in
//! `docs/SUMMARY.md`; [`page`] sees to that, and to the links.
//!
//! rustdoc puts the blocks into one program, where the tasks of all of them are registered. So a block that runs a worker names its
//! tasks (`Worker::task`), in a hidden line if it must; or it says `standalone_crate`, and is a program of its own.

#[cfg(test)]
mod log;
#[cfg(test)]
mod markdown;
#[cfg(test)]
mod options;
#[cfg(test)]
mod page;
#[cfg(test)]
mod readme;

/// The blocks of README.md. What it marks `ignore` is run by [`readme`].
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
mod readme_blocks {}

/// The pages of docs/.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../../../docs/README.md")]
    mod introduction {}

    #[doc = include_str!("../../../docs/architecture.md")]
    mod architecture {}

    #[doc = include_str!("../../../docs/crashes.md")]
    mod crashes {}

    #[doc = include_str!("../../../docs/delays.md")]
    mod delays {}

    #[doc = include_str!("../../../docs/deploy.md")]
    mod deploy {}

    #[doc = include_str!("../../../docs/events.md")]
    mod events {}

    #[doc = include_str!("../../../docs/from-others.md")]
    mod from_others {}

    #[doc = include_str!("../../../docs/getting-started.md")]
    mod getting_started {}

    #[doc = include_str!("../../../docs/operate.md")]
    mod operate {}

    #[doc = include_str!("../../../docs/options.md")]
    mod options {}

    #[doc = include_str!("../../../docs/performance.md")]
    mod performance {}

    #[doc = include_str!("../../../docs/rabbitmq.md")]
    mod rabbitmq {}

    #[doc = include_str!("../../../docs/retries.md")]
    mod retries {}

    #[doc = include_str!("../../../docs/rpc.md")]
    mod rpc {}

    #[doc = include_str!("../../../docs/security.md")]
    mod security {}

    #[doc = include_str!("../../../docs/sqlite.md")]
    mod sqlite {}

    #[doc = include_str!("../../../docs/tasks.md")]
    mod tasks {}

    #[doc = include_str!("../../../docs/testing.md")]
    mod testing {}

    #[doc = include_str!("../../../docs/wire.md")]
    mod wire {}
}
