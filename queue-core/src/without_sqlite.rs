//! Stands where the feature `sqlite` is off, so that the compiler says which feature is missing, and not that there is no
//! such method.

#[diagnostic::on_unimplemented(
    message = "`into_sql` takes the feature `sqlite` of `leveret`, which is off",
    label = "the feature is off",
    note = "`cargo add leveret --features sqlite`, or `sqlite-system` to link the system's library"
)]
pub trait IntoSql {}

/// A type without values.
#[derive(Debug)]
pub enum NoInsert {}

impl NoInsert {
    pub fn sql(&self) -> &'static str {
        match *self {}
    }

    pub fn params(&self) -> [String; 0] {
        match *self {}
    }
}
