//! README.md: short, and every program and command in it is run.

use std::process::Command;

use leveret::{Client, Result, Task, TaskResult, Worker, task};

use crate::markdown::{Block, Page};
use crate::page::root;

const README: &str = include_str!("../../../README.md");
/// A reader gives it five minutes.
const MOST_WORDS: usize = 1200;

fn blocks(language: &str) -> Vec<Block> {
    let blocks = Page::new(README).blocks.into_iter().filter(|block| block.language() == language);
    blocks.collect()
}

/// Checks that a block stands, word for word, in a file that is run.
#[track_caller]
fn assert_stands_in(block: &Block, file: &str) {
    assert!(file.contains(&block.code), "not in the file that is run:\n{}", block.code);
}

#[test]
fn it_is_short() {
    let words = README.split_whitespace().filter(|word| word.contains(char::is_alphanumeric)).count();

    assert!(words <= MOST_WORDS, "{words} words; move something to docs/");
}

/// rustdoc compiles what is not marked `ignore`; here stands who runs it.
#[test]
fn every_program_is_run() {
    let [program, test, operate] = blocks("rust").try_into().expect("the program, a test, and dead letters");

    assert_stands_in(&program, include_str!("../../../examples/email.rs"));
    assert_stands_in(&test, include_str!("../../../examples/tasks/tests/sign_up.rs"));
    // The imports stand above, too.
    let (_, function) = operate.code.split_once("\n\n").expect("imports, then a function");
    assert_stands_in(&Block { info: operate.info, code: function.to_owned() }, include_str!("readme.rs"));
}

async fn replay_failed<T: Task>(client: &Client) -> Result<usize> {
    for letter in client.admin().dead_letters_of::<T>(100).await? {
        println!("{}: {}", letter.id, letter.error.unwrap_or_default());
    }
    Ok(client.admin().replay_of::<T>(100, |letter| letter.replays == 0).await?)
}

#[tokio::test]
async fn dead_letter_is_replayed_as_the_readme_says() {
    #[task(queue = "readme", retries = 0)]
    async fn fail(words: String) -> TaskResult {
        Err(words.into())
    }
    let client = Client::connect("memory:").await.unwrap();
    client.enqueue(Fail { words: "no".to_owned() }).await.unwrap();
    let work = || Worker::new(&client).task::<Fail>().signals(false).run_until_idle();
    assert_eq!(work().await.unwrap().dead, 1);

    assert_eq!(replay_failed::<Fail>(&client).await.unwrap(), 1);

    assert_eq!(client.depth::<Fail>().await.unwrap().ready, 1);
    assert_eq!(work().await.unwrap().dead, 1);
    assert_eq!(replay_failed::<Fail>(&client).await.unwrap(), 0);
}

/// Checks that the README quotes log lines as they are written.
#[test]
fn lines_of_the_log_are_those_that_the_worker_writes() {
    let report = include_str!("../../../queue-worker/src/report.rs");
    for words in ["job failed, and runs again", "job is a dead letter"] {
        assert!(README.replace('\n', " ").contains(words), "the README does not quote `{words}`");
        assert!(report.contains(words), "the worker does not say `{words}`");
    }
}

#[test]
fn every_command_is_run() {
    let script = include_str!("../../../scripts/test");
    for block in blocks("sh") {
        for command in block.code.lines() {
            let command = command.split("  #").next().unwrap_or(command).trim();
            match command {
                "./scripts/test" => {}
                command if command.starts_with("cargo add ") => add(command),
                command => assert!(script.contains(command), "scripts/test does not run `{command}`"),
            }
        }
    }
}

/// Has cargo add a dependency to a package of a reader's own, as far as that goes without the network and without building it.
fn add(command: &str) {
    let package = std::env::temp_dir().join(format!("leveret-reader-{}", std::process::id()));
    std::fs::create_dir_all(package.join("src")).unwrap();
    let manifest = "[package]\nname = \"reader\"\nedition = \"2024\"\n[workspace]\n";
    std::fs::write(package.join("Cargo.toml"), manifest).unwrap();
    std::fs::write(package.join("src/main.rs"), "fn main() {}\n").unwrap();
    let root = root().canonicalize().unwrap();
    let path = root.to_str().unwrap();
    let arguments = command.split_whitespace().skip(1).map(|word| if word == "…" { path } else { word });

    let cargo = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--offline", "--dry-run"])
        .current_dir(&package)
        .output();

    std::fs::remove_dir_all(&package).unwrap();
    let output = cargo.unwrap();
    assert!(output.status.success(), "`{command}`: {}", String::from_utf8_lossy(&output.stderr));
}
