//! docs/options.md names every option that there is.

const PAGE: &str = include_str!("../../../docs/options.md");

/// Returns the lines between `before` and `after` in a source file.
#[track_caller]
fn between<'a>(source: &'a str, before: &str, after: &str) -> std::str::Lines<'a> {
    let (_, rest) = source.split_once(before).expect("the file has what is looked for");
    rest.split_once(after).expect("it ends").0.lines()
}

#[track_caller]
fn assert_named(options: &[&str], written: impl Fn(&str) -> String) {
    for option in options {
        assert!(PAGE.contains(&written(option)), "docs/options.md does not name `{option}`");
    }
}

#[test]
fn options_of_tasks_and_subscribers_are_named() {
    let attributes = include_str!("../../../queue-macros/src/attr.rs");
    let lines = between(attributes, "\nconst OPTIONS: &[(&str, &str, &[Kind])] = &[\n", "\n];");
    let options: Vec<_> =
        lines.filter_map(|line| line.trim().strip_prefix("(\"")?.split('"').next()).collect();

    assert!(options.contains(&"crash_limit"), "{options:?}");
    assert_named(&options, |option| format!("`{option}"));
}

#[test]
fn options_of_events_are_named() {
    let events = include_str!("../../../queue-macros/src/event.rs");
    let line = between(events, "\nconst OPTIONS: [&str; ", ";\n").next().unwrap();
    let options: Vec<_> = line.split('"').skip(1).step_by(2).collect();

    assert!(options.contains(&"headers"), "{options:?}");
    assert_named(&options, |option| format!("`{option}"));
}

#[test]
fn options_of_workers_and_clients_are_named() {
    let sources = [
        include_str!("../../../queue-worker/src/worker.rs"),
        include_str!("../../../queue-core/src/client/builder.rs"),
        include_str!("../../../queue-core/src/client/enqueue.rs"),
        include_str!("../../../queue-core/src/call/mod.rs"),
    ];
    // An option takes the builder, and returns it.
    let setter = |line: &'static str| {
        let (name, rest) = line.trim_start().strip_prefix("pub fn ")?.split_once(['<', '('])?;
        (line.contains("(self") || line.contains("mut self") || rest.contains("-> Self")).then_some(name)
    };
    let mut options: Vec<_> = sources.into_iter().flat_map(str::lines).filter_map(setter).collect();
    // Which makes something else of a job.
    options.retain(|option| *option != "into_sql" && *option != "builder" && *option != "new");

    assert!(options.contains(&"shutdown_timeout") && options.contains(&"namespace"), "{options:?}");
    assert_named(&options, |option| format!("`.{option}"));
}

#[test]
fn features_are_named() {
    let manifest = include_str!("../../../Cargo.toml");
    let lines = between(manifest, "\n[features]\n", "\n\n");
    let lines = lines.filter(|line| !line.starts_with('#'));
    let features: Vec<_> = lines.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name).collect();

    assert!(features.contains(&"sqlite-system"), "{features:?}");
    let features: Vec<_> = features.into_iter().filter(|feature| *feature != "default").collect();
    assert_named(&features, |feature| format!("| `{feature}` |"));
}
