//! The other clients of the file, with the moment at which each was last seen alive. `lease` looks.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::ids::ClientId;

/// How many beats a lease has. With the default lease of 30 s: one each 5 s, dead after 25 s of silence.
pub(super) const BEATS: u32 = 6;
/// The longest between two looks at the others.
const LONGEST_LOOK: Duration = Duration::from_millis(2500);

/// The other clients of the file.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    pub(super) seen: HashMap<ClientId, Sighting>,
    pub(super) last_look: Option<Instant>,
    pub(super) last_beat: Option<Instant>,
    pub(super) has_changed: bool,
}

#[derive(Debug)]
pub(super) struct Sighting {
    pub(super) beat: i64,
    pub(super) lease: Duration,
    /// For how long the beat has stood still while we looked.
    pub(super) silence: Duration,
}

impl Neighbours {
    /// Others have changed the file: one of them may have struck us off.
    pub(super) fn have_changed(&mut self) {
        self.has_changed = true;
    }

    /// The transaction that may have held our last beat was rolled back: the next one gives it.
    pub(super) fn beat_was_undone(&mut self) {
        self.last_beat = None;
    }

    /// How often we look at the others. With a long lease as often as with one of 30 s: those whose process has ended are found by
    /// their locks.
    pub(super) fn look_interval(lease: Duration) -> Duration {
        (lease / BEATS / 2).min(LONGEST_LOOK)
    }

    /// How long until there is a beat to give or a look to take.
    pub(super) fn patience(&self, lease: Duration) -> Duration {
        let beat =
            self.last_beat.map_or(Duration::ZERO, |last| (lease / BEATS).saturating_sub(last.elapsed()));
        let look = self
            .last_look
            .map_or(Duration::ZERO, |last| Self::look_interval(lease).saturating_sub(last.elapsed()));
        beat.min(look)
    }
}
