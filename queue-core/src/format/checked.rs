//! Refuses what no reader would give back as it was: numbers that are none, and nesting that is deeper than readers take.
//! Stands between a value and the serializer of its format; called by [`Format::encode`](super::Format::encode).
//!
//! serde_json writes NaN as `null`, which an `Option<f64>` reads as `None`: a job would run on something else than was
//! enqueued. So the value is checked while it is written, in one walk, and whatever fails is named by its field.

use std::cell::RefCell;
use std::error::Error;
use std::fmt::{self, Display, Write as _};

use serde::ser::{
    Error as _, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant, Serializer,
};
use serde_json::Value;

use crate::envelope::truncate;
use crate::error::BoxError;

/// At how many levels of nesting readers give up: serde_json's limit, and so that of all formats. A worker's stack has
/// room for no more than a few times that, and a message must not end it.
pub(in crate::format) const MAX_DEPTH: usize = 128;

/// How much of a field's path is told, in bytes.
const MAX_PATH: usize = 120;

/// Writes `value` by `serializer`.
///
/// # Errors
/// If it is refused, or cannot be written in this format; the words name the field.
pub(super) fn write<T, S>(value: &T, serializer: S) -> Result<S::Ok, BoxError>
where
    T: Serialize + ?Sized,
    S: Serializer<Error: Error + Send + Sync + 'static>,
{
    let walk = Walk::default();
    let written = Item { value, walk: &walk, depth: 0 }.serialize(serializer);
    written.map_err(|error| walk.into_inner().explain(error.into()))
}

/// The details of a failure. Only a failure touches them, so that they cost nothing otherwise.
type Walk = RefCell<Trace>;

#[derive(Debug, Default)]
struct Trace {
    /// The reason why we refused it; empty if the format did.
    why: String,
    /// From the innermost to the outermost.
    path: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Field(&'static str),
    Key(String),
    At(usize),
}

impl Trace {
    fn explain(self, error: BoxError) -> BoxError {
        let Self { why, path } = &self;
        match (why.is_empty(), path.is_empty()) {
            (true, true) => error,
            (true, false) => format!("field `{}`: {error}", self.path()).into(),
            (false, true) => format!("it {why}").into(),
            (false, false) => format!("field `{}` {why}", self.path()).into(),
        }
    }

    fn path(&self) -> String {
        let mut path = String::new();
        for (number, step) in self.path.iter().rev().enumerate() {
            let dot = if number == 0 { "" } else { "." };
            // Writing to a string cannot fail.
            let _ = match step {
                Step::Field(name) => write!(path, "{dot}{name}"),
                Step::Key(key) => write!(path, "{dot}{key}"),
                Step::At(index) => write!(path, "[{index}]"),
            };
            if path.len() > MAX_PATH {
                return format!("{}…", truncate(&path, MAX_PATH));
            }
        }
        path
    }
}

/// A value below another one.
struct Item<'a, T: ?Sized> {
    value: &'a T,
    walk: &'a Walk,
    depth: usize,
}

impl<T: Serialize + ?Sized> Serialize for Item<'_, T> {
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(Checked { inner: serializer, walk: self.walk, depth: self.depth })
    }
}

/// The serializer of a format, at this depth of a value.
struct Checked<'a, S> {
    inner: S,
    walk: &'a Walk,
    depth: usize,
}

impl<'a, S: Serializer> Checked<'a, S> {
    /// How deep it is `levels` further in.
    #[inline]
    fn deeper(&self, levels: usize) -> Result<usize, S::Error> {
        let depth = self.depth + levels;
        // At `MAX_DEPTH` the readers give up.
        if depth < MAX_DEPTH { Ok(depth) } else { Err(self.too_deep()) }
    }

    #[cold]
    fn too_deep(&self) -> S::Error {
        let most = MAX_DEPTH - 1;
        self.refuse(format_args!(
            "is nested more than {most} deep, deeper than any reader goes: flatten it, or store it elsewhere and send its \
             address"
        ))
    }

    #[cold]
    fn no_number(&self, number: f64) -> S::Error {
        self.refuse(format_args!(
            "is {number}, and a payload has finite numbers only: send an `Option`, or a text"
        ))
    }

    fn refuse(&self, why: fmt::Arguments<'_>) -> S::Error {
        self.walk.borrow_mut().why = why.to_string();
        S::Error::custom(why)
    }

    #[inline]
    fn item<'i, T: ?Sized>(&self, value: &'i T, depth: usize) -> Item<'i, T>
    where
        'a: 'i,
    {
        Item { value, walk: self.walk, depth }
    }

    #[inline]
    fn compound<C>(
        self,
        levels: usize,
        begin: impl FnOnce(S) -> Result<C, S::Error>,
    ) -> Result<Compound<'a, C>, S::Error> {
        let depth = self.deeper(levels)?;
        Ok(Compound { walk: self.walk, depth, at: 0, inner: begin(self.inner)? })
    }
}

impl<'a, S: Serializer> Serializer for Checked<'a, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Compound<'a, S::SerializeSeq>;
    type SerializeTuple = Compound<'a, S::SerializeTuple>;
    type SerializeTupleStruct = Compound<'a, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Compound<'a, S::SerializeTupleVariant>;
    type SerializeMap = Compound<'a, S::SerializeMap>;
    type SerializeStruct = Compound<'a, S::SerializeStruct>;
    type SerializeStructVariant = Compound<'a, S::SerializeStructVariant>;

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }

    #[inline]
    fn serialize_f32(self, value: f32) -> Result<S::Ok, S::Error> {
        if value.is_finite() { self.inner.serialize_f32(value) } else { Err(self.no_number(value.into())) }
    }

    #[inline]
    fn serialize_f64(self, value: f64) -> Result<S::Ok, S::Error> {
        if value.is_finite() { self.inner.serialize_f64(value) } else { Err(self.no_number(value)) }
    }

    #[inline]
    fn serialize_bool(self, value: bool) -> Result<S::Ok, S::Error> {
        self.inner.serialize_bool(value)
    }

    #[inline]
    fn serialize_i8(self, value: i8) -> Result<S::Ok, S::Error> {
        self.inner.serialize_i8(value)
    }

    #[inline]
    fn serialize_i16(self, value: i16) -> Result<S::Ok, S::Error> {
        self.inner.serialize_i16(value)
    }

    #[inline]
    fn serialize_i32(self, value: i32) -> Result<S::Ok, S::Error> {
        self.inner.serialize_i32(value)
    }

    #[inline]
    fn serialize_i64(self, value: i64) -> Result<S::Ok, S::Error> {
        self.inner.serialize_i64(value)
    }

    #[inline]
    fn serialize_i128(self, value: i128) -> Result<S::Ok, S::Error> {
        self.inner.serialize_i128(value)
    }

    #[inline]
    fn serialize_u8(self, value: u8) -> Result<S::Ok, S::Error> {
        self.inner.serialize_u8(value)
    }

    #[inline]
    fn serialize_u16(self, value: u16) -> Result<S::Ok, S::Error> {
        self.inner.serialize_u16(value)
    }

    #[inline]
    fn serialize_u32(self, value: u32) -> Result<S::Ok, S::Error> {
        self.inner.serialize_u32(value)
    }

    #[inline]
    fn serialize_u64(self, value: u64) -> Result<S::Ok, S::Error> {
        self.inner.serialize_u64(value)
    }

    #[inline]
    fn serialize_u128(self, value: u128) -> Result<S::Ok, S::Error> {
        self.inner.serialize_u128(value)
    }

    #[inline]
    fn serialize_char(self, value: char) -> Result<S::Ok, S::Error> {
        self.inner.serialize_char(value)
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<S::Ok, S::Error> {
        self.inner.serialize_str(value)
    }

    #[inline]
    fn serialize_bytes(self, value: &[u8]) -> Result<S::Ok, S::Error> {
        self.inner.serialize_bytes(value)
    }

    #[inline]
    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.collect_str(value)
    }

    #[inline]
    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_none()
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        let item = self.item(value, self.depth);
        self.inner.serialize_some(&item)
    }

    #[inline]
    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit()
    }

    #[inline]
    fn serialize_unit_struct(self, name: &'static str) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit_struct(name)
    }

    #[inline]
    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit_variant(name, index, variant)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let item = self.item(value, self.depth);
        self.inner.serialize_newtype_struct(name, &item)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        // `{"Variant": value}`
        let item = self.item(value, self.deeper(1)?);
        self.inner.serialize_newtype_variant(name, index, variant, &item)
    }

    #[inline]
    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        self.compound(1, |inner| inner.serialize_seq(len))
    }

    #[inline]
    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, S::Error> {
        self.compound(1, |inner| inner.serialize_tuple(len))
    }

    #[inline]
    fn serialize_tuple_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleStruct, S::Error> {
        self.compound(1, |inner| inner.serialize_tuple_struct(name, len))
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        // `{"Variant": [..]}`
        self.compound(2, |inner| inner.serialize_tuple_variant(name, index, variant, len))
    }

    #[inline]
    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        self.compound(1, |inner| inner.serialize_map(len))
    }

    #[inline]
    fn serialize_struct(self, name: &'static str, len: usize) -> Result<Self::SerializeStruct, S::Error> {
        self.compound(1, |inner| inner.serialize_struct(name, len))
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        // `{"Variant": {..}}`
        self.compound(2, |inner| inner.serialize_struct_variant(name, index, variant, len))
    }
}

/// A list, map or struct that is being written.
struct Compound<'a, C> {
    inner: C,
    walk: &'a Walk,
    depth: usize,
    /// How many values have been written.
    at: usize,
}

impl<C> Compound<'_, C> {
    /// Writes one more value, and says where it was if that fails.
    #[inline]
    fn next<T: ?Sized, E>(
        &mut self,
        value: &T,
        step: impl FnOnce(usize) -> Step,
        write: impl FnOnce(&mut C, &Item<'_, T>) -> Result<(), E>,
    ) -> Result<(), E> {
        let written = write(&mut self.inner, &Item { value, walk: self.walk, depth: self.depth });
        if written.is_err() {
            self.walk.borrow_mut().path.push(step(self.at));
        }
        self.at += 1;
        written
    }
}

impl<C: SerializeSeq> SerializeSeq for Compound<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        self.next(value, Step::At, |inner, item| inner.serialize_element(item))
    }

    #[inline]
    fn end(self) -> Result<C::Ok, C::Error> {
        self.inner.end()
    }
}

impl<C: SerializeTuple> SerializeTuple for Compound<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        self.next(value, Step::At, |inner, item| inner.serialize_element(item))
    }

    #[inline]
    fn end(self) -> Result<C::Ok, C::Error> {
        self.inner.end()
    }
}

impl<C: SerializeTupleStruct> SerializeTupleStruct for Compound<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        self.next(value, Step::At, |inner, item| inner.serialize_field(item))
    }

    #[inline]
    fn end(self) -> Result<C::Ok, C::Error> {
        self.inner.end()
    }
}

impl<C: SerializeTupleVariant> SerializeTupleVariant for Compound<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        self.next(value, Step::At, |inner, item| inner.serialize_field(item))
    }

    #[inline]
    fn end(self) -> Result<C::Ok, C::Error> {
        self.inner.end()
    }
}

impl<C: SerializeMap> SerializeMap for Compound<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), C::Error> {
        // A key that fails is its map's failure.
        self.inner.serialize_key(&Item { value: key, walk: self.walk, depth: self.depth })
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        self.next(value, Step::At, |inner, item| inner.serialize_value(item))
    }

    #[inline]
    fn serialize_entry<K: Serialize + ?Sized, V: Serialize + ?Sized>(
        &mut self,
        key: &K,
        value: &V,
    ) -> Result<(), C::Error> {
        self.serialize_key(key)?;
        self.next(value, |at| named(key, at), |inner, item| inner.serialize_value(item))
    }

    #[inline]
    fn end(self) -> Result<C::Ok, C::Error> {
        self.inner.end()
    }
}

/// An entry by its key.
#[cold]
fn named<K: Serialize + ?Sized>(key: &K, at: usize) -> Step {
    match serde_json::to_value(key) {
        Ok(Value::String(key)) => Step::Key(key),
        Ok(key) => Step::Key(key.to_string()),
        Err(_) => Step::At(at),
    }
}

impl<C: SerializeStruct> SerializeStruct for Compound<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), C::Error> {
        self.next(value, |_| Step::Field(name), |inner, item| inner.serialize_field(name, item))
    }

    #[inline]
    fn skip_field(&mut self, name: &'static str) -> Result<(), C::Error> {
        self.inner.skip_field(name)
    }

    #[inline]
    fn end(self) -> Result<C::Ok, C::Error> {
        self.inner.end()
    }
}

impl<C: SerializeStructVariant> SerializeStructVariant for Compound<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), C::Error> {
        self.next(value, |_| Step::Field(name), |inner, item| inner.serialize_field(name, item))
    }

    #[inline]
    fn skip_field(&mut self, name: &'static str) -> Result<(), C::Error> {
        self.inner.skip_field(name)
    }

    #[inline]
    fn end(self) -> Result<C::Ok, C::Error> {
        self.inner.end()
    }
}
