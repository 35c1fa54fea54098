//! The little of Markdown that the checks need: blocks of code, headings and links.

/// A block of code.
#[derive(Debug, PartialEq)]
pub(crate) struct Block {
    /// The words behind the fence: `rust,no_run`.
    pub(crate) info: String,
    pub(crate) code: String,
}

impl Block {
    /// The language that the block is written in.
    pub(crate) fn language(&self) -> &str {
        self.info.split(',').next().unwrap_or_default()
    }
}

/// A page, taken apart.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Page {
    pub(crate) blocks: Vec<Block>,
    /// The names that `#…` in a link can have.
    pub(crate) anchors: Vec<String>,
    /// Where its links lead, as written.
    pub(crate) links: Vec<String>,
}

impl Page {
    pub(crate) fn new(text: &str) -> Self {
        let mut page = Self::default();
        let mut prose = String::new();
        let mut open: Option<Block> = None;
        for line in text.lines() {
            let fence = line.trim_start().strip_prefix("```");
            match (&mut open, fence) {
                (None, Some(info)) => {
                    open = Some(Block { info: info.trim().to_owned(), code: String::new() })
                }
                (Some(_), Some(_)) => page.blocks.extend(open.take()),
                (Some(block), None) => block.code.extend([line, "\n"]),
                (None, None) => {
                    page.anchors.extend(anchor(line));
                    prose.extend([line, "\n"]);
                }
            }
        }
        assert_eq!(open, None, "a block of code that does not end");
        page.links = links(&prose);
        page
    }
}

/// How a forge and mdBook name a heading: in small letters, without punctuation, and with hyphens for blanks.
fn anchor(line: &str) -> Option<String> {
    let heading = line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#'))?;
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    Some(kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect())
}

/// The targets of `[words](target)`. Code between backticks is none of it.
fn links(prose: &str) -> Vec<String> {
    let outside_code: String = prose.split('`').step_by(2).collect::<Vec<_>>().join("`");
    let targets = outside_code.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.to_owned()).collect()
}

#[test]
fn page_is_taken_apart() {
    let text = "# What `keep` says, twice\n[a](b.md#c) `[d](e)` [`f`](g)\n```rust,no_run\n# [h](i)\n```\n";

    let page = Page::new(text);

    assert_eq!(page.anchors, ["what-keep-says-twice"]);
    assert_eq!(page.links, ["b.md#c", "g"]);
    let block = Block { info: "rust,no_run".to_owned(), code: "# [h](i)\n".to_owned() };
    assert_eq!(block.language(), "rust");
    assert_eq!(page.blocks, [block]);
}
