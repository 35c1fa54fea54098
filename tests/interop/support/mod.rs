//! What the tests stand on: a broker ([`place`]), a program that is not ours ([`foreign`]), a worker at work
//! ([`work`]), and those together for one test ([`Setting`]); the examples as processes ([`program`]), which
//! a browser may ask ([`http`]), and from whom their broker may be kept ([`proxy`]).

#[cfg(feature = "rabbitmq")]
mod by_lapin;
pub(crate) mod foreign;
pub(crate) mod http;
pub(crate) mod place;
pub(crate) mod program;
pub(crate) mod proxy;
pub(crate) mod work;

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use futures_util::FutureExt as _;
use leveret::Client;

use foreign::Foreign;
use place::Place;

/// How long anything may take. Far more than it needs: it only turns a hang into a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes each `async fn name(t: &Setting)` a test per broker: `memory::name`, `sqlite::name`, `rabbitmq3::name`,
/// `rabbitmq4::name` and `rabbitmq43::name`.
/// Each begins without what the file's `LEFTOVERS` name.
macro_rules! on_each_broker {
    ($($name:ident),* $(,)?) => {
        on_each_broker!(@ memory, Memory; $($name)*);
        #[cfg(feature = "sqlite")]
        on_each_broker!(@ sqlite, Sqlite; $($name)*);
        on_each_node!($($name),*);
    };
    (@ $broker:ident, $place:expr; $($name:ident)*) => {
        mod $broker {
            use crate::support::place::Place::*;

            $(#[test]
            fn $name() {
                crate::support::run($place, &super::LEFTOVERS, super::$name);
            })*
        }
    };
}

/// The same without the brokers that only Leveret's programs reach.
macro_rules! on_each_node {
    ($($name:ident),* $(,)?) => {
        on_each_broker!(@ rabbitmq3, RabbitMq(3); $($name)*);
        on_each_broker!(@ rabbitmq4, RabbitMq(4); $($name)*);
        on_each_broker!(@ rabbitmq43, RabbitMq(43); $($name)*);
    };
}

/// The same without `memory:`, which ends with its process.
macro_rules! on_each_shared_broker {
    ($($name:ident),* $(,)?) => {
        #[cfg(feature = "sqlite")]
        on_each_broker!(@ sqlite, Sqlite; $($name)*);
        on_each_node!($($name),*);
    };
}

/// Names that a test must not find on the broker.
#[cfg_attr(not(feature = "rabbitmq"), expect(dead_code, reason = "each test has a broker of its own"))]
pub(crate) struct Leftovers {
    pub(crate) queues: &'static [&'static str],
    pub(crate) exchanges: &'static [&'static str],
}

/// One test's broker, a client of ours on it, and a program that is not ours.
pub(crate) struct Setting {
    pub(crate) place: Place,
    pub(crate) url: String,
    pub(crate) client: Client,
    pub(crate) foreign: Foreign,
}

/// Runs one test, alone on its broker: tasks have fixed names, and so have their queues.
pub(crate) fn run(place: Place, leftovers: &Leftovers, test: impl AsyncFnOnce(&Setting)) {
    let Some(url) = place.url() else { return };
    let _turn = place.turn();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let outcome = runtime.block_on(async {
        let foreign = Foreign::connect(&url).await;
        foreign.delete(leftovers).await;
        // Leveret's own names: the delay ladder's 23 queues take seconds to declare, so all tests share them.
        let client = Client::builder().namespace("interop").expect("a possible namespace").connect(&url);
        let client = client.await.unwrap_or_else(|error| panic!("{}", leveret::error_chain(&error)));
        let setting = Setting { place, url, client, foreign };
        let test = tokio::time::timeout(PATIENCE, test(&setting));
        let outcome = AssertUnwindSafe(test).catch_unwind().await;
        setting.foreign.delete(leftovers).await;
        setting.client.close().await;
        setting.foreign.close().await;
        place.clean_up(&setting.url);
        outcome
    });
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(_)) => panic!("the test did not finish within {PATIENCE:?}"),
        Err(panic) => resume_unwind(panic),
    }
}
