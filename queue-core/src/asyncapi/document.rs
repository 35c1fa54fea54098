//! Builds the document. Pure: descriptions in, JSON out.

use std::any::TypeId;
use std::collections::HashMap;

use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::name::Names;
use super::{Describe, Description, EventDescription, SubscriberDescription, TaskDescription};
use crate::envelope::{HeaderValue, Headers, header};
use crate::format::Format;
use crate::topology::{ExchangeKind, Namespace, QueueSpec, Topology};

/// Where schemas stand that more than one message refers to.
const SCHEMAS: &str = "/components/schemas";
/// The version of AsyncAPI's description of AMQP.
const BINDING: &str = "0.3.0";

/// The document of `descriptions`, in whichever order they come.
pub(super) fn build<'a>(
    title: &str,
    version: &str,
    namespace: &Namespace,
    descriptions: impl Iterator<Item = &'a Description>,
) -> Value {
    let mut builder = Builder::new(namespace);
    let (mut tasks, mut events, mut subscribers) = (Vec::new(), Vec::new(), Vec::new());
    for description in descriptions {
        match description {
            Description::Task(task) => tasks.push(task),
            Description::Event(event) => events.push(event),
            Description::Subscriber(subscriber) => subscribers.push(subscriber),
        }
    }
    tasks.sort_by_key(|task| (task.name, (task.queue)().name()));
    events.sort_by_key(|event| (event.name, event.exchange));
    subscribers.sort_by_key(|subscriber| (subscriber.name, (subscriber.queue)().name()));
    tasks.into_iter().for_each(|task| builder.task(task));
    events.into_iter().for_each(|event| builder.event(event));
    // After the events, of which they speak.
    subscribers.into_iter().for_each(|subscriber| builder.subscriber(subscriber));
    builder.finish(title, version)
}

struct Builder<'a> {
    namespace: &'a Namespace,
    generator: SchemaGenerator,
    /// Of channels, operations and messages, each by themselves.
    channel_names: Names,
    operation_names: Names,
    message_names: Names,
    channels: Map<String, Value>,
    operations: Map<String, Value>,
    messages: Map<String, Value>,
    /// The messages of events, by their types.
    events: HashMap<TypeId, String>,
}

impl<'a> Builder<'a> {
    fn new(namespace: &'a Namespace) -> Self {
        // What AsyncAPI's own schemas extend.
        let settings = SchemaSettings::draft07().with(|settings| settings.definitions_path = SCHEMAS.into());
        Self {
            namespace,
            generator: settings.into_generator(),
            channel_names: Names::default(),
            operation_names: Names::default(),
            message_names: Names::default(),
            channels: Map::new(),
            operations: Map::new(),
            messages: Map::new(),
            events: HashMap::new(),
        }
    }

    fn task(&mut self, task: &TaskDescription) {
        let options = (task.options)();
        let spec = (task.queue)();
        let mut headers = Map::new();
        if options.version > 1 {
            headers.insert(header::VERSION.to_owned(), json!({ "const": options.version }));
        }
        let message = self.message(&format!("task {} {}", task.name, spec.name()), task.name, |builder| {
            let payload = builder.schema(task.payload);
            let mut message = typed(message(task.name, task.doc, options.format, payload, &headers));
            if !options.aliases.is_empty() {
                // AMQP's `type` of messages that are taken as well.
                message["x-aliases"] = options.aliases.into();
            }
            message
        });
        let channel = self.queue(spec);
        self.add_message(&channel, &message);
        self.dead_letters(spec, &message);
        let reply = self.reply(task);

        let mut send = operation("send", &channel, &message, task.doc);
        send["bindings"] = json!({ "amqp": {
            "deliveryMode": 2, "mandatory": true, "timestamp": true, "bindingVersion": BINDING
        } });
        if let Some(priority) = options.priority {
            send["bindings"]["amqp"]["priority"] = priority.into();
        }
        let mut operations = vec![("enqueue", send)];
        if task.is_run {
            operations.push(("run", received(operation("receive", &channel, &message, task.doc))));
        }
        for (verb, mut operation) in operations {
            if let Some(reply) = &reply {
                operation["reply"] = reply.clone();
            }
            self.operation(
                &format!("{verb} {} {}", task.name, spec.name()),
                &format!("{verb}.{}", task.name),
                operation,
            );
        }
    }

    /// The document's description of the reply to a call of this task. A task that is never called has none, nor has one
    /// that returns nothing, since such a task is seldom called.
    fn reply(&mut self, task: &TaskDescription) -> Option<Value> {
        let payload = self.schema(task.reply);
        if !(task.options)().replies {
            return None;
        }
        if payload.get("type").and_then(Value::as_str) == Some("null") {
            return None;
        }
        let name = task.name;
        // A request is answered in its own format.
        let format = (task.options)().format;
        let thing = format!("reply {name} {}", (task.queue)().name());
        let result = self.message(&thing, &format!("{name}.reply"), |_| {
            let doc = format!("What `{name}` returned.");
            message(&format!("{name}.reply"), &doc, format, payload, &Map::new())
        });
        let failure = self.message(&format!("failure {format:?}"), "failure", |_| failure(format));
        let channel = self.channel(&thing, &format!("{name}.reply"), || {
            json!({
                "address": null,
                "description": format!("Where the replies to a call of `{name}` arrive: the address in AMQP's `reply_to`."),
            })
        });
        self.add_message(&channel, &result);
        self.add_message(&channel, &failure);
        Some(json!({
            "address": { "location": "$message.header#/replyTo", "description": "AMQP's property `reply_to`." },
            "channel": reference("channels", &channel),
            "messages": [message_of(&channel, &result), message_of(&channel, &failure)],
        }))
    }

    fn event(&mut self, event: &EventDescription) {
        let name = event.name;
        let message = self.message(&format!("event {name} {}", event.exchange), name, |builder| {
            let payload = builder.schema(event.payload);
            let headers = event.headers.iter().map(|header| {
                ((*header).to_owned(), json!({ "type": ["string", "integer", "number", "boolean"] }))
            });
            typed(message(name, event.doc, event.format, payload, &headers.collect()))
        });
        self.events.insert((event.id)(), message.clone());
        let (exchange, kind, key) = (event.exchange, event.kind, event.key);
        let thing = format!("exchange {exchange} {key}");
        let wish = if key.is_empty() { exchange.to_owned() } else { format!("{exchange}.{key}") };
        let wish = wish.replace(['{', '}'], "");
        let payload = self.messages[&message]["payload"].clone();
        let channel = self.channel(&thing, &wish, || exchange_channel(exchange, kind, key, &payload));
        self.add_message(&channel, &message);
        let mut send = operation("send", &channel, &message, event.doc);
        send["bindings"] = json!({ "amqp": {
            "deliveryMode": 2, "mandatory": false, "timestamp": true, "bindingVersion": BINDING
        } });
        self.operation(&format!("publish {thing} {name}"), &format!("publish.{name}"), send);
    }

    fn subscriber(&mut self, subscriber: &SubscriberDescription) {
        let SubscriberDescription { name, doc, .. } = *subscriber;
        let spec = (subscriber.queue)();
        let message = match self.events.get(&(subscriber.event)()) {
            Some(message) => message.clone(),
            None => self.message(
                &format!("raw {name}"),
                name,
                |_| json!({ "name": name, "description": "A message as it is, of whatever content type." }),
            ),
        };
        let channel = self.queue(spec);
        self.add_message(&channel, &message);
        self.dead_letters(spec, &message);
        let receive = received(operation("receive", &channel, &message, doc));
        self.operation(&format!("receive {name} {}", spec.name()), &format!("receive.{name}"), receive);
    }

    /// The channel of a queue.
    fn queue(&mut self, spec: &QueueSpec) -> String {
        let name = spec.name();
        // A description that contradicts itself is refused at start, and described as far as it goes.
        let topology = spec.topology(self.namespace).unwrap_or_default();
        self.channel(&format!("queue {name}"), name, || {
            let mut channel = queue_channel(name, &topology);
            let bindings: Vec<_> = topology
                .bindings
                .iter()
                .filter(|binding| binding.queue == *name)
                .map(|binding| {
                    let mut binding_of =
                        json!({ "exchange": binding.exchange, "routingKey": binding.routing_key });
                    if !binding.arguments.is_empty() {
                        binding_of["arguments"] = headers(&binding.arguments);
                    }
                    binding_of
                })
                .collect();
            if !bindings.is_empty() {
                channel["x-bindings"] = bindings.into();
            }
            channel
        })
    }

    /// The channel of a queue's dead letters, where `message` may end.
    fn dead_letters(&mut self, spec: &QueueSpec, message: &str) {
        let Some(dead) = spec.dead_queue() else { return };
        let topology = spec.topology(self.namespace).unwrap_or_default();
        let channel = self.channel(&format!("queue {dead}"), &dead, || {
            let mut channel = queue_channel(&dead, &topology);
            channel["description"] =
                "Dead letters: why each is one stands in its headers `q-error` and `q-error-kind`.".into();
            channel
        });
        self.add_message(&channel, message);
    }

    /// The name of the channel of `thing`, which is made where it is not there yet.
    fn channel(&mut self, thing: &str, wish: &str, make: impl FnOnce() -> Value) -> String {
        let name = self.channel_names.of(thing, wish);
        self.channels.entry(name.clone()).or_insert_with(make);
        name
    }

    /// The name of the message of `thing`, which is made where it is not there yet.
    fn message(&mut self, thing: &str, wish: &str, make: impl FnOnce(&mut Self) -> Value) -> String {
        let name = self.message_names.of(thing, wish);
        if !self.messages.contains_key(&name) {
            let message = make(self);
            self.messages.insert(name.clone(), message);
        }
        name
    }

    fn operation(&mut self, thing: &str, wish: &str, operation: Value) {
        let name = self.operation_names.of(thing, wish);
        self.operations.insert(name, operation);
    }

    /// Adds a message to a channel.
    fn add_message(&mut self, channel: &str, message: &str) {
        self.channels[channel]["messages"][message] = reference("components/messages", message);
    }

    fn schema(&mut self, describe: Describe) -> Value {
        let mut schema: Schema = describe(&mut self.generator);
        for transform in self.generator.transforms_mut() {
            transform.transform(&mut schema);
        }
        schema.to_value()
    }

    fn finish(mut self, title: &str, version: &str) -> Value {
        let mut names = Names::default();
        let mut schemas = Map::new();
        let mut renamed = HashMap::new();
        for (name, schema) in self.generator.take_definitions(true) {
            let plain = names.of(name.clone(), &name);
            if plain != name {
                renamed.insert(name, plain.clone());
            }
            schemas.insert(plain, schema);
        }
        let mut document = json!({
            "asyncapi": "3.0.0",
            "info": { "title": title, "version": version },
            "defaultContentType": Format::Json.content_type(),
            "channels": self.channels,
            "operations": self.operations,
            "components": { "messages": self.messages, "schemas": schemas },
        });
        if !renamed.is_empty() {
            rename(&mut document, &renamed);
        }
        document
    }
}

/// A message with a payload. `headers` are the schemas of those that it has for certain.
fn message(name: &str, doc: &str, format: Format, payload: Value, headers: &Map<String, Value>) -> Value {
    let mut message = json!({
        "name": name,
        "contentType": format.content_type(),
        "payload": payload,
    });
    describe(&mut message, doc);
    if !headers.is_empty() {
        let required: Vec<_> = headers.keys().collect();
        message["headers"] = json!({ "type": "object", "properties": headers, "required": required });
    }
    message
}

/// A message that carries its name as AMQP's `type`.
fn typed(mut message: Value) -> Value {
    message["bindings"] = json!({ "amqp": { "messageType": message["name"], "bindingVersion": BINDING } });
    message
}

/// The reply to a call that failed.
fn failure(format: Format) -> Value {
    let text = || json!({ "type": "string" });
    json!({
        "name": "failure",
        "summary": "Why a call has no result.",
        "contentType": format.content_type(),
        "payload": {
            "type": "object",
            "properties": { "error": text(), "kind": text() },
            "required": ["error", "kind"],
        },
        "headers": {
            "type": "object",
            "properties": { (header::ERROR_KIND): text() },
            "required": [header::ERROR_KIND],
        },
    })
}

fn operation(action: &str, channel: &str, message: &str, doc: &str) -> Value {
    let mut operation = json!({
        "action": action,
        "channel": reference("channels", channel),
        "messages": [message_of(channel, message)],
    });
    describe(&mut operation, doc);
    operation
}

fn received(mut operation: Value) -> Value {
    operation["bindings"] = json!({ "amqp": { "ack": true, "bindingVersion": BINDING } });
    operation
}

/// Adds the first sentence of a documentation as summary, and all of it where there is more.
fn describe(part: &mut Value, doc: &str) {
    let doc = doc.trim();
    let first = doc.split("\n\n").next().unwrap_or_default();
    if !first.is_empty() {
        part["summary"] = first.split_whitespace().collect::<Vec<_>>().join(" ").into();
    }
    if doc.len() > first.len() {
        part["description"] = doc.into();
    }
}

fn queue_channel(name: &str, topology: &Topology) -> Value {
    let mut binding = json!({
        "is": "queue",
        "queue": { "name": name, "durable": true, "exclusive": false, "autoDelete": false },
        "bindingVersion": BINDING,
    });
    let declared = topology.queues.iter().find(|queue| queue.name == name && !queue.passive);
    if let Some(queue) = declared
        && !queue.arguments.is_empty()
    {
        binding["x-arguments"] = headers(&queue.arguments);
    }
    json!({ "address": name, "messages": {}, "bindings": { "amqp": binding } })
}

fn exchange_channel(exchange: &str, kind: ExchangeKind, key: &str, payload: &Value) -> Value {
    // Fan-out and headers exchanges have no routing keys.
    let address = match kind {
        ExchangeKind::Topic | ExchangeKind::Direct => Value::from(key),
        ExchangeKind::Fanout | ExchangeKind::Headers => Value::Null,
    };
    let mut channel = json!({
        "address": address,
        "messages": {},
        "bindings": { "amqp": {
            "is": "routingKey",
            "exchange": { "name": exchange, "type": kind.as_str(), "durable": true, "autoDelete": false },
            "bindingVersion": BINDING,
        } },
    });
    for field in key.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
        // Unless serde calls the field something else in the body.
        let is_key = payload.pointer(&format!("/properties/{field}")).is_some();
        channel["parameters"][field] =
            if is_key { json!({ "location": format!("$message.payload#/{field}") }) } else { json!({}) };
    }
    channel
}

fn reference(place: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/{place}/{name}") })
}

fn message_of(channel: &str, message: &str) -> Value {
    reference(&format!("channels/{channel}/messages"), message)
}

fn headers(headers: &Headers) -> Value {
    headers.iter().map(|(name, value)| (name.to_owned(), header_value(value))).collect::<Map<_, _>>().into()
}

/// The arguments of declarations and bindings: text, numbers and booleans.
fn header_value(value: &HeaderValue) -> Value {
    match value {
        HeaderValue::Bool(value) => (*value).into(),
        HeaderValue::Int(value) => (*value).into(),
        HeaderValue::Float(value) => (*value).into(),
        HeaderValue::String(value) => value.as_str().into(),
        HeaderValue::List(values) => values.iter().map(header_value).collect(),
        HeaderValue::Table(values) => headers(values),
        _ => Value::Null,
    }
}

/// The name of the schema that a reference points at: a JSON pointer, in the letters of a URL's fragment.
fn schema_name(target: &str) -> Option<String> {
    let name = target.strip_prefix('#')?.strip_prefix(SCHEMAS)?.strip_prefix('/')?;
    let name = percent_encoding::percent_decode_str(name).decode_utf8().ok()?;
    Some(name.replace("~1", "/").replace("~0", "~"))
}

/// Points references at the new names of their schemas.
fn rename(value: &mut Value, renamed: &HashMap<String, String>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, renamed)),
        Value::Object(entries) => {
            for (key, value) in entries {
                match value {
                    Value::String(target) if key == "$ref" => {
                        if let Some(new) = schema_name(target).and_then(|name| renamed.get(&name)) {
                            *target = format!("#{SCHEMAS}/{new}");
                        }
                    }
                    value => rename(value, renamed),
                }
            }
        }
        _ => {}
    }
}
