//! The span of each job, under OpenTelemetry's names for messaging.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use leveret::topology::{BindingDecl, ExchangeDecl, ExchangeKind, Topology};
use leveret::{Task, Worker};
use queue_core::broker::Publish;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::{Layer, Registry};

use crate::support::{client, message, options, publish, queue, retries, task, work};

task!(Fine {} = "fine", queue: queue("trace"), options: options(), needs: [],
    async |_call, _job| { tracing::info_span!("within").in_scope(|| {}) });
task!(Poor {} = "poor", queue: queue("trace"), options: retries(0), needs: [],
    async |_call, _job| { Err::<(), _>("no") });

/// Spans as they were opened: name, parent, and fields as text.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<Opened>>>);

#[derive(Clone)]
struct Opened {
    id: Id,
    name: &'static str,
    parent: Option<&'static str>,
    fields: Fields,
}

#[derive(Clone, Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl Layer<Registry> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, Registry>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let parent = context.current_span().metadata().map(|metadata| metadata.name());
        let name = attributes.metadata().name();
        self.0.lock().unwrap().push(Opened { id: id.clone(), name, parent, fields });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, Registry>) {
        // The latest: an id is used again once its span has closed.
        let mut spans = self.0.lock().unwrap();
        let span = spans.iter_mut().rev().find(|span| span.id == *id).unwrap();
        values.record(&mut span.fields);
    }
}

impl Spans {
    /// The only span of this name.
    fn only(&self, name: &str) -> Opened {
        let spans = self.0.lock().unwrap();
        let mut found = spans.iter().filter(|span| span.name == name);
        let span = found.next().expect("a span").clone();
        assert!(found.next().is_none(), "several spans `{name}`");
        span
    }
}

impl Opened {
    fn get(&self, field: &str) -> Option<&str> {
        self.fields.0.get(field).map(String::as_str)
    }
}

/// Collects this thread's spans, on which a test's runtime runs everything, while the guard lives.
fn spans() -> (Spans, tracing::subscriber::DefaultGuard) {
    let spans = Spans::default();
    let guard = tracing::subscriber::set_default(Registry::default().with(spans.clone()));
    (spans, guard)
}

#[tokio::test]
async fn job_runs_in_a_span_with_opentelemetrys_names() {
    let (spans, _guard) = spans();
    let (client, _clock) = client();
    let mut envelope = message(Some("fine"), "{}");
    envelope.correlation_id = Some("order-7".to_owned());
    let id = envelope.id.clone();
    publish(&client, Fine::queue(), envelope).await;

    work(Worker::new(&client).task::<Fine>()).await;

    let span = spans.only("process");
    let expected = [
        ("otel.name", "process trace"),
        ("otel.kind", "consumer"),
        ("messaging.system", "memory"),
        ("messaging.operation.name", "process"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", "trace"),
        ("messaging.message.id", id.as_str()),
        ("messaging.message.conversation_id", "order-7"),
        ("messaging.message.body.size", "2"),
        ("leveret.queue", "trace"),
        ("leveret.task", "fine"),
        ("leveret.attempt", "1"),
    ];
    assert_eq!(span.fields.0, BTreeMap::from(expected.map(|(field, value)| (field, value.to_owned()))));
    // What the handler opens is found under it.
    assert_eq!(spans.only("within").parent, Some("process"));
}

#[tokio::test]
async fn failure_is_marked_in_the_span() {
    let (spans, _guard) = spans();
    let (client, _clock) = client();
    client.enqueue(Poor {}).await.unwrap();

    work(Worker::new(&client).task::<Poor>()).await;

    let span = spans.only("process");
    assert_eq!(span.get("otel.status_code"), Some("ERROR"));
    assert_eq!(span.get("otel.status_description"), Some("no"));
    assert_eq!(span.get("error.type"), Some("failed"));
}

#[tokio::test]
async fn destination_is_the_way_that_the_message_came() {
    let (spans, _guard) = spans();
    let (client, _clock) = client();
    client.declare_queue(Fine::queue()).await.unwrap();
    let exchange = ExchangeDecl::new("orders", ExchangeKind::Topic);
    let binding = BindingDecl::new("orders", "trace", "order.#");
    client.declare(&Topology::new().exchange(exchange).binding(binding)).await.unwrap();
    let routed = Publish::to_exchange("orders", "order.placed", message(Some("fine"), "{}"));
    client.broker().publish(routed).await.unwrap();

    work(Worker::new(&client).task::<Fine>()).await;

    let span = spans.only("process");
    assert_eq!(span.get("messaging.destination.name"), Some("orders:order.placed:trace"));
    assert_eq!(span.get("otel.name"), Some("process trace"));
}
