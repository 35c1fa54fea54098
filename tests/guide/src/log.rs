//! The log lines that the guide explains are those that Leveret writes, at the level that the guide says.

use std::path::Path;

use crate::page::root;

/// A line of the guide: its level, and its words as far as the guide has them.
type Line<'a> = (&'static str, &'a str);

const LEVELS: [&str; 3] = ["INFO", "WARN", "ERROR"];

/// The lines that a page has, as ``WARN `words` `` or in two cells of a table.
fn lines_of(page: &str) -> Vec<Line<'_>> {
    let of_level = |level: &'static str| {
        let behind = page.split(level).skip(1);
        behind.filter_map(move |rest| {
            let words = rest.strip_prefix(" `").or_else(|| rest.strip_prefix(" | `"))?;
            Some((level, words.split('`').next()?))
        })
    };
    LEVELS.into_iter().flat_map(of_level).collect()
}

/// Collects the arguments of each `tracing::LEVEL!(..)` below a folder, as one text.
fn logged(folder: &Path, level: &str, found: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            logged(&path, level, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let start = format!("tracing::{}!(", level.to_lowercase());
            for call in text.split(&start).skip(1) {
                // A call ends before the next statement; words that are cut off would only make this test stricter.
                let call = call.split(");\n").next().unwrap_or(call);
                // A literal that goes on in the next line.
                for line in call.split('\n') {
                    found.push_str(line.trim_start().trim_end_matches('\\'));
                }
                found.push('\n');
            }
        }
    }
}

#[test]
fn every_log_line_in_the_guide_is_written_by_leveret() {
    let mut missing = Vec::new();
    for level in LEVELS {
        let mut found = String::new();
        for folder in ["queue-core/src", "queue-worker/src"] {
            logged(&root().join(folder), level, &mut found);
        }
        for name in ["crashes.md", "operate.md"] {
            let page = std::fs::read_to_string(root().join("docs").join(name)).unwrap();
            let lines = lines_of(&page);
            assert!(!lines.is_empty(), "docs/{name} has no log lines");
            let unknown = lines.into_iter().filter(|(of, words)| *of == level && !found.contains(words));
            missing.extend(unknown.map(|(level, words)| format!("docs/{name}: {level} `{words}`")));
        }
    }

    assert!(missing.is_empty(), "Leveret does not log these lines:\n{}", missing.join("\n"));
}
