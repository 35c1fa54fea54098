//! The ladder of queues on which delayed jobs wait. It is declared before its first use.

use std::sync::{Arc, OnceLock};

use super::server_clock::ServerClock;
use super::waiting::{Now, Waiting};
use crate::broker::rabbitmq::declare::declaring::Declarer;
use crate::broker::{Publish, Settings};
use crate::declaring::Declaring;
use crate::envelope::Envelope;
use crate::error::Result;
use crate::topology::delay_ladder;

/// The delay ladder.
pub(crate) struct Ladder {
    settings: Arc<Settings>,
    declarer: Arc<Declarer>,
    /// By which delays go.
    clock: Arc<ServerClock>,
    /// Set when the ladder has been declared.
    is_there: OnceLock<()>,
    declaring: Declaring,
}

impl Ladder {
    pub(crate) fn new(settings: Arc<Settings>, declarer: Arc<Declarer>, clock: Arc<ServerClock>) -> Self {
        Self { settings, declarer, clock, is_there: OnceLock::new(), declaring: Declaring::default() }
    }

    /// Declares the delay ladder, once.
    pub(crate) async fn ensure(&self) -> Result<()> {
        let Self { settings, .. } = self;
        let declare = async {
            self.declarer.declare(delay_ladder(&settings.namespace)).await?;
            // No other task declares it.
            let _ = self.is_there.set(());
            Ok(())
        };
        let is_declared = || self.is_there.get().is_some();
        self.declaring.once(settings.publish_timeout, is_declared, declare).await
    }

    /// The time, by which delays go.
    pub(crate) fn now(&self) -> Now {
        Now { wall: self.settings.clock.now(), server: self.clock.read() }
    }

    /// Waits for a moment until the server's clock is known.
    pub(crate) async fn wait_for_clock(&self) {
        self.clock.wait_until_known().await;
    }

    /// The message by which a job waits: to the rung that is nearest below what is left of its delay.
    pub(crate) fn entry(&self, envelope: Envelope, waiting: Waiting, now: Now) -> Publish {
        let (envelope, rung) = waiting.write(envelope, &self.settings.namespace, now);
        Publish::to_queue(rung, envelope)
    }
}
