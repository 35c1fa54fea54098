//! The forms that a function's signature can take.

use core::fmt::Debug;

use jobs::task;

/// A store, of which a test might inject another.
pub(crate) trait Store: Debug + Send + Sync {
    /// Keeps a number.
    fn keep(&self, number: u32);
}

/// Raw identifiers, as function and as parameters.
#[task(crate = jobs, queue = "signatures")]
pub(crate) async fn r#match(r#type: u32, r#in: &dyn Store) {
    core::future::ready(()).await;
    r#in.keep(r#type);
}

/// A parameter that changes, one that is not used, and a name that only an underscore makes one.
#[task(crate = jobs, queue = "signatures")]
pub(crate) async fn underscores(mut count: u32, _unused: u32, _type: u32, store: &(dyn Store + Send)) {
    core::future::ready(()).await;
    count += 1;
    store.keep(count);
}

/// Constants with names that generated code might use.
#[allow(
    non_upper_case_globals,
    clippy::missing_docs_in_private_items,
    reason = "they stand in the way, which is the test"
)]
mod constants {
    use jobs::task;

    const number: u32 = 1;
    const payload: u32 = 2;
    const call: u32 = 3;
    const result: u32 = 4;
    const options: u32 = 5;

    /// Binds nothing by those names.
    #[task(crate = jobs, queue = "signatures", retries = 1, payload = Constants)]
    pub(super) async fn constants(amount: u32) {
        core::future::ready(()).await;
        assert_ne!(amount, number + payload + call + result + options);
    }
}

/// Attributes of parameters: what is serde's goes to the field, what is the compiler's stays too.
#[task(crate = jobs, queue = "signatures")]
pub(crate) async fn attributes(
    /// How many there are.
    #[serde(rename = "n", default)]
    count: u32,
    #[expect(non_snake_case, reason = "the wire has it so")] userId: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")] note: Option<String>,
    limit: &u32,
) {
    core::future::ready(()).await;
    let sum = count + userId + *limit;
    assert!(note.is_none() || sum > 0);
}

/// The result of a task, by an alias.
pub(crate) type Done = Result<(), Box<dyn core::error::Error + Send + Sync>>;

/// Returns an alias.
#[task(crate = jobs, queue = "signatures", payload = AliasPayload)]
pub(crate) async fn alias(text: String) -> Done {
    core::future::ready(()).await;
    let _: u32 = text.parse()?;
    Ok(())
}

/// The job's context is lent by the worker, and so is the type.
#[cfg(feature = "worker")]
#[task(crate = jobs, queue = "signatures")]
pub(crate) async fn with_context(context: &jobs::Context, number: u32) {
    core::future::ready(()).await;
    assert!(number >= context.attempt());
}

/// Modules by which visibility is passed down.
pub(crate) mod outer {
    /// The inner of the two.
    pub(crate) mod inner {
        use jobs::task;

        /// Seen by the parent.
        #[task(crate = jobs, queue = "signatures")]
        pub(super) async fn for_parent(number: u32) {
            core::future::ready(()).await;
            assert!(number > 0);
        }

        /// Seen by the grandparent.
        #[task(crate = jobs, queue = "signatures")]
        pub(in crate::signatures) async fn for_grandparent(number: u32) {
            core::future::ready(()).await;
            assert!(number > 0);
        }
    }

    /// Builds a payload by its fields.
    #[test]
    fn parent_builds_the_payload() {
        assert_eq!(inner::ForParent { number: 1 }.number, 1);
    }
}

/// Builds a payload by its fields.
#[test]
fn grandparent_builds_the_payload() {
    assert_eq!(outer::inner::ForGrandparent { number: 1 }.number, 1);
}

/// Tasks may stand inside a function.
#[test]
fn task_stands_inside_a_function() {
    #[task(crate = jobs, queue = "signatures")]
    async fn job(number: u32) {
        core::future::ready(()).await;
        assert!(number > 0);
    }

    assert_eq!(<Job as jobs::Task>::NAME, "job");
}

/// Several of one name may stand in one file.
#[test]
fn task_of_the_same_name_stands_inside_another() {
    #[task(crate = jobs, queue = "signatures", name = "other_job")]
    async fn job(number: u32) {
        core::future::ready(()).await;
        assert!(number > 0);
    }

    assert_eq!(<Job as jobs::Task>::NAME, "other_job");
}
