mod framework {
    pub(crate) use leveret as queue;
}

macro_rules! framework_task {
    ($name:ident) => {
        #[$crate::framework::queue::task(queue = "q", crate = $crate::framework::queue)]
        async fn $name(number: u32) {
            let _ = number;
        }
    };
}

framework_task!(job);

fn main() {
    drop(Job { number: 1 });
}
