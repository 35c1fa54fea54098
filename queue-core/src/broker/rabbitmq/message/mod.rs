//! A message as lapin has it: its properties, its reply address, how often it has come back, and the stream of what a
//! channel delivers.

pub(super) mod address;
pub(super) mod convert;
pub(super) mod delivery_stream;
pub(super) mod wear;
