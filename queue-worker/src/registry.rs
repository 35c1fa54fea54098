//! The tasks that a worker can run: those compiled into the binary, or those that it names.

use std::any::TypeId;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use queue_core::error::{Error, ErrorKind, Result};
use queue_core::task::TaskOptions;
use queue_core::topology::{Difference, QueueSpec};

use crate::context::Context;
use crate::handler::Handler;
use crate::state::{Need, State};

/// A task or subscriber whose code is compiled in, for [`Worker::task`](crate::Worker::task). `#[task]` and `#[subscriber]` write
/// the impl.
///
/// ```
/// use leveret::{Client, Runnable, Worker, task};
///
/// #[task(queue = "emails")]
/// async fn send_email(to: String) {
///     println!("to {to}");
/// }
///
/// fn only<T: Runnable>(client: &Client) -> Worker {
///     Worker::new(client).task::<T>()
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> leveret::Result<()> {
/// # let client = Client::connect("memory:").await?;
/// only::<SendEmail>(&client).run_until_idle().await?;
/// # Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no handler in this program",
    note = "`#[task]` above a function makes one; a hand-written `Task` can only be enqueued"
)]
pub trait Runnable: 'static {
    /// Everything the worker needs to run it.
    #[doc(hidden)]
    fn registration() -> Registration;
}

/// Everything the worker needs to run a task.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct Registration {
    /// The task's name on the wire.
    pub name: &'static str,
    /// The function's path, to tell two tasks of one name apart in an error.
    pub path: &'static str,
    /// Its queue.
    pub queue: fn() -> &'static QueueSpec,
    /// The options by which its jobs run.
    pub options: fn() -> &'static TaskOptions,
    /// Its code.
    pub run: Handler,
    /// The state that its by-reference parameters need.
    pub needs: fn() -> Vec<Need>,
    /// True if it takes every message of its queue, and not jobs by their name.
    pub is_subscriber: bool,
}

inventory::collect!(Registration);

/// The tasks that a worker was asked to run.
#[derive(Default)]
pub(crate) struct Selection {
    /// The tasks that were named one by one; `None` means all that are compiled in. A task named twice counts once.
    pub(crate) named: Option<Vec<(TypeId, Registration)>>,
    pub(crate) only: Option<Vec<String>>,
    pub(crate) queues: Option<Vec<String>>,
}

/// The tasks that a worker runs, by their names and aliases on the wire, and the queues that it consumes, by name.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) tasks: HashMap<&'static str, Task>,
    pub(crate) queues: Vec<Queue>,
}

/// A task that the worker runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task {
    pub(crate) registration: Registration,
    pub(crate) options: &'static TaskOptions,
}

/// A queue that the worker consumes, and its tasks.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) spec: &'static QueueSpec,
    pub(crate) tasks: Vec<Task>,
    /// Takes the messages that name no task: the queue's only task, or the one marked `default`.
    pub(crate) fallback: Option<Task>,
    /// Takes all messages, with any name.
    pub(crate) subscriber: Option<Task>,
}

impl Task {
    pub(crate) fn new(registration: Registration) -> Self {
        Self { registration, options: (registration.options)() }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.registration.name
    }

    fn path(&self) -> &'static str {
        self.registration.path
    }

    pub(crate) fn queue(&self) -> &'static QueueSpec {
        (self.registration.queue)()
    }

    /// Checks that the worker has state for each of its by-reference parameters.
    pub(crate) fn check_state(&self, state: &State) -> Result<()> {
        let is_given = |need: &Need| need.type_id == TypeId::of::<Context>() || state.has(need);
        let Some(need) = (self.registration.needs)().into_iter().find(|need| !is_given(need)) else {
            return Ok(());
        };
        let (name, type_name) = (self.name(), need.type_name);
        let remedy = if type_name.starts_with("dyn ") {
            format!("give it with `.shared::<{type_name}>(Arc::new(..))`")
        } else {
            format!("give it with `.state(..)`, a value of type `{type_name}`")
        };
        Err(config(format!("task `{name}` takes `&{type_name}`, which this worker lacks: {remedy}")))
    }
}

impl Queue {
    /// The names of its tasks, for people: "`resize`, `send_email`".
    pub(crate) fn task_list(&self) -> String {
        list(self.tasks.iter().map(Task::name))
    }
}

impl Selection {
    /// Selects a task by name, and no longer all that are compiled in.
    pub(crate) fn name<T: Runnable>(&mut self) {
        let named = self.named.get_or_insert_default();
        let id = TypeId::of::<T>();
        if !named.iter().any(|(other, _)| *other == id) {
            named.push((id, T::registration()));
        }
    }

    /// Selects and checks the tasks.
    ///
    /// # Errors
    /// If there are none, if a name selects nothing, or if the tasks contradict each other.
    pub(crate) fn plan(&self, state: &State) -> Result<Plan> {
        let all = self.all()?;
        let tasks = self.narrow(&all)?;
        let plan = group(&tasks)?;
        self.check_left_out(&all, &plan)?;
        tasks.iter().try_for_each(|task| task.check_state(state))?;
        Ok(plan)
    }

    /// All tasks, before narrowing.
    pub(crate) fn all(&self) -> Result<Vec<Task>> {
        let mut all: Vec<_> = match &self.named {
            Some(named) => named.iter().map(|(_, registration)| Task::new(*registration)).collect(),
            None => inventory::iter::<Registration>.into_iter().copied().map(Task::new).collect(),
        };
        if all.is_empty() {
            return Err(config(
                "this program contains no tasks. A library of tasks that is not mentioned is not linked: write \
                 `use my_tasks as _;` with its name in `main.rs`",
            ));
        }
        // The linker's order is no order.
        all.sort_by_key(|task| (task.queue().name(), task.name(), task.path()));
        Ok(all)
    }

    /// Applies `.only(..)` and `.queues(..)`.
    fn narrow(&self, all: &[Task]) -> Result<Vec<Task>> {
        if let Some(unknown) = first_unknown(self.only.as_ref(), all.iter().map(Task::name)) {
            if let Some(task) = all.iter().find(|task| task.options.aliases.contains(&unknown.as_str())) {
                let name = task.name();
                return Err(config(format!(
                    "`.only(..)` names `{unknown}`, which is an alias: write `{name}`, the task's name"
                )));
            }
            let known = list(all.iter().map(Task::name));
            return Err(config(format!(
                "`.only(..)` names task `{unknown}`, which does not exist; there are {known}"
            )));
        }
        if let Some(unknown) =
            first_unknown(self.queues.as_ref(), all.iter().map(|task| task.queue().name().as_ref()))
        {
            let known = list(all.iter().map(|task| task.queue().name().as_ref()));
            return Err(config(format!(
                "`.queues(..)` names queue `{unknown}`, which no task has; there are {known}"
            )));
        }
        let is_in = |names: &Option<Vec<String>>, name: &str| {
            names.as_ref().is_none_or(|names| names.iter().any(|other| other == name))
        };
        let tasks: Vec<_> = all
            .iter()
            .filter(|task| is_in(&self.only, task.name()) && is_in(&self.queues, task.queue().name()))
            .copied()
            .collect();
        if tasks.is_empty() {
            return Err(config(
                "`.only(..)` and `.queues(..)` together leave no task to run; drop one of them",
            ));
        }
        Ok(tasks)
    }

    /// A consumed queue's task that was left out: its jobs would be retried for an hour and then die.
    fn check_left_out(&self, all: &[Task], plan: &Plan) -> Result<()> {
        for task in all {
            let queue = task.queue().name();
            let is_consumed = plan.queues.iter().any(|consumed| consumed.spec.name() == queue);
            // By its name: an alias of another task may be the same word.
            let is_run = plan.tasks.get(task.name()).is_some_and(|run| run.name() == task.name());
            if is_consumed && !is_run {
                let left_out = task.name();
                return Err(config(format!(
                    "task `{left_out}` of queue `{queue}` is left out, but the queue is consumed: its jobs would \
                     come to this worker; add `{left_out}` to `.only(..)`, or give it a queue of its own"
                )));
            }
        }
        Ok(())
    }
}

/// Tasks by name and by queue.
///
/// # Errors
/// If they contradict each other.
pub(crate) fn group(tasks: &[Task]) -> Result<Plan> {
    let mut by_name: HashMap<&'static str, Task> = HashMap::new();
    let mut by_queue: BTreeMap<&'static str, Vec<Task>> = BTreeMap::new();
    for task in tasks {
        if let Some(other) = by_name.insert(task.name(), *task) {
            let (name, one, two) = (task.name(), other.path(), task.path());
            return Err(config(format!(
                "two tasks are named `{name}`: `{one}` and `{two}`; rename one with `name = \"..\"`, or narrow the \
                 worker to one of them with `.queues([..])` or `.task::<T>()`"
            )));
        }
        by_queue.entry(task.queue().name()).or_default().push(*task);
    }
    // After all names, so that a clash is told as what it is.
    for task in tasks {
        for alias in task.options.aliases {
            if let Some(other) = by_name.insert(alias, *task) {
                let (one, two) = (other.path(), task.path());
                let of = if other.name() == *alias { "the name" } else { "an alias" };
                return Err(config(format!(
                    "`{alias}` is {of} of task `{one}` and an alias of `{two}`: a job of that name can be run by one of \
                     them only; take it out of one's `aliases`, or narrow the worker to one of them with \
                     `.queues([..])` or `.task::<T>()`"
                )));
            }
        }
    }
    let queues = by_queue.into_values().map(queue).collect::<Result<_>>()?;
    Ok(Plan { tasks: by_name, queues })
}

/// The queue of `tasks`, of which there is at least one.
fn queue(tasks: Vec<Task>) -> Result<Queue> {
    let first = tasks[0];
    let spec = first.queue();
    let name = spec.name();
    for task in &tasks {
        if let Some(Difference { option, left, right, .. }) = spec.difference(task.queue()) {
            let (one, two) = (first.path(), task.path());
            return Err(config(format!(
                "tasks `{one}` and `{two}` disagree about queue `{name}`: its `{option}` is {left} in the first and \
                 {right} in the second; give both the same queue options"
            )));
        }
    }
    let mut defaults = tasks.iter().filter(|task| task.options.is_default);
    let default = defaults.next().copied();
    if let (Some(one), Some(two)) = (default, defaults.next()) {
        let (one, two) = (one.path(), two.path());
        return Err(config(format!(
            "tasks `{one}` and `{two}` are both `default` in queue `{name}`: only one can take the messages that name \
             no task"
        )));
    }
    let only = (tasks.len() == 1).then_some(first);
    let subscriber = tasks.iter().find(|task| task.registration.is_subscriber).copied();
    if let (Some(subscriber), None) = (subscriber, only) {
        let other = tasks.iter().find(|task| task.path() != subscriber.path()).unwrap_or(&first);
        let (one, two) = (subscriber.path(), other.path());
        return Err(config(format!(
            "subscriber `{one}` takes all that comes to queue `{name}`, and `{two}` would get nothing: give one of \
             them a queue of its own"
        )));
    }
    Ok(Queue { spec, tasks, fallback: default.or(only), subscriber })
}

/// The first of `names` that is not among `known`.
fn first_unknown<'names, 'known>(
    names: Option<&'names Vec<String>>,
    known: impl Iterator<Item = &'known str>,
) -> Option<&'names String> {
    let known: HashSet<_> = known.collect();
    names?.iter().find(|name| !known.contains(name.as_str()))
}

/// "`a`, `b`", each once.
fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: BTreeSet<_> = names.collect();
    let quoted: Vec<_> = names.into_iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

pub(crate) fn config(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, message)
}
