use leveret::task;

#[task(queue = "q")]
async fn job(number: u32, #[cfg(unix)] mode: u32) {
    let _ = number; #[cfg(unix)] drop(mode);
}

fn main() {
    drop(Job { number: 1, mode: 2 });
}
