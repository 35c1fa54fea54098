//! What the promises stand on: a broker to test ([`place`]), a client on it with names of its own ([`fixture`]), and
//! waiting with a deadline ([`wait`]).

pub(crate) mod fixture;
pub(crate) mod place;
pub(crate) mod wait;

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use futures_util::FutureExt as _;

pub(crate) use fixture::Fixture;
pub(crate) use wait::{next, ready, take, text, until, until_ready};

/// How long one promise may take. Far more than any needs: it only turns a hang into a failure with a name.
const LIMIT: Duration = Duration::from_secs(90);

/// Runs one promise on one broker, and cleans up behind it whatever becomes of it.
pub(crate) fn run(place: &place::Place, promise: &'static str, body: impl AsyncFnOnce(&Fixture)) {
    let Some(url) = place.url() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let outcome = runtime.block_on(async {
        let fixture = Fixture::open(url, promise).await;
        let body = tokio::time::timeout(LIMIT, body(&fixture));
        let outcome = AssertUnwindSafe(body).catch_unwind().await;
        fixture.clean_up().await;
        outcome
    });
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(_)) => panic!("`{promise}` did not finish within {LIMIT:?}"),
        Err(panic) => resume_unwind(panic),
    }
}
