//! A message as lapin has it: its properties, its reply address, and the stream of what a channel delivers.

pub(super) mod address;
pub(super) mod convert;
pub(super) mod delivery_stream;
