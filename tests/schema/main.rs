//! The AsyncAPI document of a program, and the JSON Schemas in it.

mod document;
mod options;
mod payload;
mod program;
