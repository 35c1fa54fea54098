struct Pool;

// What `#[task]` writes for `pool: Pool`, before serde's derives: those list what else is compiled.
const _: () = leveret::__private::check_field::<Pool>();

fn main() {
    drop(Pool);
}
