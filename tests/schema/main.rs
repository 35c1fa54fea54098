//! The AsyncAPI document of a program, and the JSON Schemas in it.

mod document;
mod payload;
mod program;
