//! Tasks and events that a macro writes: what it passes on arrives in invisible groups.

/// Writes a task.
macro_rules! wrapped {
    ($name:ident, $queue:expr, $retries:literal, $parameter:ident: $ty:ty, $state:ident: $reference:ty) => {
        /// Written by a macro.
        #[jobs::task(crate = jobs, queue = $queue, retries = $retries)]
        pub(crate) async fn $name($parameter: $ty, $state: $reference) {
            core::future::ready(()).await;
            assert!($parameter > 0 || *$state > 0);
        }
    };
}

wrapped!(wrapped, "wrapped", 3, number: u32, limit: &u32);

/// Writes an event with a key.
macro_rules! keyed {
    ($name:ident, $key:literal, $field:ident) => {
        /// Written by a macro.
        #[derive(
            Debug, jobs::__private::serde::Serialize, jobs::__private::serde::Deserialize, jobs::Event,
        )]
        #[serde(crate = "jobs::__private::serde")]
        #[event(crate = jobs, exchange = "wrapped.keyed", kind = "topic", key = $key)]
        pub(crate) struct $name {
            /// Stands in the key.
            $field: String,
        }
    };
}

keyed!(Keyed, "keyed.{region}", region);

/// Writes an event with a header.
macro_rules! labelled {
    ($name:ident, $field:ident: $ty:ty) => {
        /// Written by a macro.
        #[derive(
            Debug, jobs::__private::serde::Serialize, jobs::__private::serde::Deserialize, jobs::Event,
        )]
        #[serde(crate = "jobs::__private::serde")]
        #[event(crate = jobs, exchange = "wrapped.labelled", kind = "headers", headers($field))]
        pub(crate) struct $name {
            /// Is the header.
            $field: $ty,
        }
    };
}

labelled!(Labelled, region: String);

/// Writes the template, of which the caller gives the field.
macro_rules! written {
    ($name:ident, $field:ident) => {
        /// Written by a macro.
        #[derive(
            Debug, jobs::__private::serde::Serialize, jobs::__private::serde::Deserialize, jobs::Event,
        )]
        #[serde(crate = "jobs::__private::serde")]
        #[event(crate = jobs, exchange = "wrapped.written", kind = "topic", key = "written.{region}.{own}")]
        pub(crate) struct $name {
            /// The caller's.
            $field: String,
            /// The macro's.
            own: u32,
        }
    };
}

written!(Written, region);

/// Writes a subscriber.
macro_rules! subscribed {
    ($name:ident, $parameter:ident: $event:ty, $queue:literal, $binding:literal) => {
        /// Written by a macro.
        #[jobs::subscriber(crate = jobs, queue = $queue, binding = $binding)]
        pub(crate) async fn $name($parameter: $event) {
            core::future::ready(()).await;
            assert!(!$parameter.region.is_empty());
        }
    };
}

subscribed!(on_keyed, event: Keyed, "wrapped.keyed", "keyed.*");
subscribed!(on_written, event: Written, "wrapped.written", "written.#");

/// Takes what has the label.
#[jobs::subscriber(crate = jobs, queue = "wrapped.labelled", binding(region = "europe"))]
async fn on_labelled(event: Labelled) {
    core::future::ready(()).await;
    assert!(!event.region.is_empty());
}

/// Writes an event and its subscriber for a framework that passes Leveret on.
macro_rules! framework {
    ($event:ident, $subscriber:ident) => {
        /// Written by a macro.
        #[derive(Debug, jobs::__private::serde::Serialize, jobs::__private::serde::Deserialize, jobs::Event)]
        #[serde(crate = "jobs::__private::serde")]
        #[event(crate = $crate::reexported::framework::queue, exchange = "wrapped.framework", kind = "fanout")]
        pub(crate) struct $event {
            /// A number.
            #[serde(default)]
            number: u32,
        }

        /// Written by a macro.
        #[jobs::subscriber(crate = $crate::reexported::framework::queue, queue = "wrapped.framework")]
        pub(crate) fn $subscriber(event: $event) {
            assert!(event.number > 0);
        }
    };
}

framework!(Framed, on_framed);

#[test]
fn events_that_a_macro_writes_are_routed_by_their_fields() {
    use jobs::Event as _;

    let region = || "europe".to_owned();

    assert_eq!(Keyed { region: region() }.routing_key().ok().as_deref(), Some("keyed.europe"));
    assert_eq!(Written { region: region(), own: 7 }.routing_key().ok().as_deref(), Some("written.europe.7"));
    assert_eq!(Labelled { region: region() }.headers().len(), 1);
}
