//! The pages of docs/: each is listed, its links lead somewhere, and its blocks say their language.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::markdown::Page;

/// The languages of the blocks that are no Rust.
const LANGUAGES: &[&str] =
    &["console", "dockerfile", "ini", "json", "python", "rust", "sh", "sql", "text", "toml", "yaml"];

/// The pages outside of the book.
const BESIDE: [&str; 5] =
    ["README.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "SECURITY.md", "examples/starter/README.md"];

/// The folder that a path of the repository begins at.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The pages of docs/ and those beside it, by their paths.
fn pages() -> BTreeMap<PathBuf, Page> {
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(root().join(&path)).unwrap();
        (path, Page::new(&text))
    };
    names()
        .into_iter()
        .map(|name| Path::new("docs").join(name))
        .chain(BESIDE.map(PathBuf::from))
        .map(read)
        .collect()
}

/// The names of the files in docs/ that are pages.
fn names() -> Vec<String> {
    let entries = std::fs::read_dir(root().join("docs")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".md") && name != "SUMMARY.md").collect()
}

#[test]
fn every_page_is_in_the_summary_and_its_blocks_are_tested() {
    let summary = std::fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    let listed = Page::new(&summary).links;
    let names = names();

    for name in &names {
        assert!(listed.contains(name), "docs/SUMMARY.md does not list `{name}`");
        let tested = format!("include_str!(\"../../../docs/{name}\")");
        assert!(include_str!("lib.rs").contains(&tested), "tests/guide/src/lib.rs does not test `{name}`");
    }
    for name in &listed {
        assert!(names.contains(name), "docs/SUMMARY.md lists `{name}`, and there is no such page");
    }
}

/// A page of the book links to pages of the book only: what is beside it is not there once it is built.
#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let mut dead = Vec::new();
    for (path, page) in &pages {
        let is_book = path.starts_with("docs");
        for link in page.links.iter().filter(|link| !link.contains("://")) {
            let (target, anchor) = link.split_once('#').unwrap_or((link, ""));
            let file = match target {
                "" => path.clone(),
                target => path.with_file_name(target),
            };
            let is_there = match pages.get(&file) {
                Some(page) => anchor.is_empty() || page.anchors.iter().any(|known| known == anchor),
                None => !is_book && anchor.is_empty() && root().join(&file).exists(),
            };
            if !is_there || is_book && !file.starts_with("docs") {
                dead.push(format!("{}: {link}", path.display()));
            }
        }
    }

    assert!(dead.is_empty(), "these links lead nowhere:\n{}", dead.join("\n"));
}

/// One without a language would be taken for Rust and tested as such.
#[test]
fn every_block_says_its_language() {
    for (path, page) in pages() {
        for block in page.blocks {
            let path = path.display();
            assert!(
                LANGUAGES.contains(&block.language()),
                "{path}: a block in `{}`:\n{}",
                block.info,
                block.code
            );
            assert!(
                block.info != "rust,ignore" || path.to_string() == "README.md",
                "{path}: not tested:\n{}",
                block.code
            );
        }
    }
}
