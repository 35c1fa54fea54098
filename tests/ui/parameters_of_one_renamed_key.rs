use leveret::task;

#[task(queue = "q")]
async fn job(number: u32, #[serde(rename = "number")] other: u8) {
    let _ = (number, other);
}

fn main() {
    drop(Job { number: 1 });
}
