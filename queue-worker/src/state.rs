//! The state of a worker: one value of each type, for the by-reference parameters of its tasks. Filled by `worker`, checked by
//! `registry`, read by `handler`.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

/// The worker's state by type: the values of by-reference parameters.
#[derive(Default, Clone)]
pub(crate) struct State {
    /// Each value is an `Arc<T>` with `T: ?Sized`, boxed once more, since `Any` needs a sized type.
    values: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
}

impl State {
    /// Adds a value, and returns true if it replaced one of its type.
    pub(crate) fn insert<T: ?Sized + Send + Sync + 'static>(&mut self, value: Arc<T>) -> bool {
        self.values.insert(TypeId::of::<T>(), Arc::new(value)).is_some()
    }

    pub(crate) fn get<T: ?Sized + 'static>(&self) -> Option<&T> {
        self.values.get(&TypeId::of::<T>())?.downcast_ref::<Arc<T>>().map(|value| &**value)
    }

    /// True if there is a value for `need`.
    pub(crate) fn has(&self, need: &Need) -> bool {
        self.values.contains_key(&need.type_id)
    }
}

/// A type that a task takes by reference.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct Need {
    pub(crate) type_id: TypeId,
    pub(crate) type_name: &'static str,
}

/// The need of a parameter `&T`.
#[doc(hidden)]
#[must_use]
pub fn need<T: ?Sized + 'static>() -> Need {
    Need { type_id: TypeId::of::<T>(), type_name: std::any::type_name::<T>() }
}
