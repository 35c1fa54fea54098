//! Writes the tasks, twice: `#[task]` functions, and the payloads and the table that one would write instead.
//! `MANY_TASKS` says how many; three if it is not set.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=MANY_TASKS");
    let count: u32 =
        env::var("MANY_TASKS").map_or(3, |count| count.parse().expect("MANY_TASKS is a number of tasks"));
    let folder = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    for (file, code) in [("tasks_by_macro.rs", by_macro(count)), ("tasks_by_hand.rs", by_hand(count))] {
        fs::write(Path::new(&folder).join(file), code).expect("OUT_DIR can be written");
    }
}

fn by_macro(count: u32) -> String {
    let mut code = String::new();
    let mut names = String::new();
    for number in 0..count {
        let _ = write!(names, "\"task_{number}\", ");
        let _ = write!(
            code,
            r#"
#[leveret::task(queue = "many")]
async fn task_{number}(user: u64, address: String, note: Option<String>) -> TaskResult {{
    deliver(user, address, note).await
}}
"#
        );
    }
    let _ = write!(code, "\nstatic NAMES: &[&str] = &[{names}];\n");
    code
}

fn by_hand(count: u32) -> String {
    let mut code = String::new();
    let mut rows = String::new();
    for number in 0..count {
        let _ = write!(
            code,
            r#"
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Task{number} {{
    user: u64,
    address: String,
    note: Option<String>,
}}

async fn task_{number}(user: u64, address: String, note: Option<String>) -> Result<(), BoxError> {{
    deliver(user, address, note).await
}}
"#
        );
        let _ = write!(
            rows,
            r#"
    ("task_{number}", |body| Box::pin(async move {{
        let payload: Task{number} = serde_json::from_slice(&body)?;
        task_{number}(payload.user, payload.address, payload.note).await
    }})),"#
        );
    }
    let _ = write!(code, "\nstatic TABLE: &[(&str, Handler)] = &[{rows}\n];\n");
    code
}
