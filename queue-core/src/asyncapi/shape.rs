//! The schema of a type that may have none. A feature only adds: with `schema` on, a program whose types know nothing
//! of schemars must compile as before.

use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// Stands for a type that is not there. With both traits in scope, `(&Shape::<T>::NEW).describe(generator)` means
/// [`Described`] where `T` implements `JsonSchema`, and else, one reference further, [`Undescribed`].
#[derive(Debug)]
pub struct Shape<T: ?Sized>(PhantomData<T>);

impl<T: ?Sized> Shape<T> {
    /// The only one.
    pub const NEW: Self = Self(PhantomData);
}

/// A type that has a schema.
pub trait Described {
    /// The schema.
    fn describe(&self, generator: &mut SchemaGenerator) -> Schema;

    /// True if it has one of its own making.
    fn is_described(&self) -> bool {
        true
    }
}

impl<T: ?Sized + JsonSchema> Described for Shape<T> {
    fn describe(&self, generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
}

/// A type that has none.
pub trait Undescribed {
    /// A schema that anything fits, and why.
    fn describe(&self, _: &mut SchemaGenerator) -> Schema;

    /// True if it has one of its own making.
    fn is_described(&self) -> bool {
        false
    }
}

impl<T: ?Sized> Undescribed for &Shape<T> {
    fn describe(&self, _: &mut SchemaGenerator) -> Schema {
        let name = std::any::type_name::<T>();
        json_schema!({ "$comment": format!("`{name}` does not implement `schemars::JsonSchema`") })
    }
}

/// The default of a field that may be missing, where the document does not state it. schemars calls it in place of
/// serde's, and leaves out what cannot be serialized.
#[derive(Debug)]
pub struct Unstated();

/// A type with the schema of another that may have none: what a field is described by.
#[doc(hidden)]
#[macro_export]
macro_rules! __shape_of {
    ($name:ident, $type:ty) => {
        struct $name;

        impl $crate::private::schemars::JsonSchema for $name {
            fn inline_schema() -> ::core::primitive::bool {
                true
            }

            fn schema_name() -> $crate::topology::Name {
                $crate::topology::Name::Borrowed(::core::stringify!($name))
            }

            fn schema_id() -> $crate::topology::Name {
                $crate::topology::Name::Borrowed(::core::any::type_name::<Self>())
            }

            fn json_schema(
                generator: &mut $crate::private::schemars::SchemaGenerator,
            ) -> $crate::private::schemars::Schema {
                $crate::private::describe!($type, generator)
            }
        }
    };
}

/// The schema of a type that may have none, or then that of another.
#[doc(hidden)]
#[macro_export]
macro_rules! __describe {
    ($type:ident or $other:ident, $generator:expr) => {{
        #[allow(unused_imports, reason = "which of the two is used depends on the type")]
        use $crate::private::{Described as _, Undescribed as _};
        let shape = $crate::private::Shape::<$type>::NEW;
        if (&shape).is_described() {
            (&shape).describe($generator)
        } else {
            <$other as $crate::private::schemars::JsonSchema>::json_schema($generator)
        }
    }};
    ($type:ty, $generator:expr) => {{
        #[allow(unused_imports, reason = "which of the two is used depends on the type")]
        use $crate::private::{Described as _, Undescribed as _};
        (&$crate::private::Shape::<$type>::NEW).describe($generator)
    }};
}
