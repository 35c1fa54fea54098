# Short names for what stands in scripts/ and in cargo. `just` lists them.

_list:
    @just --list

# Everything that must pass, on every broker
test *args:
    ./scripts/test {{args}}

# The tests of one RabbitMQ alone, 3, 4 or 43: `just broker 43`
broker which *args:
    ./scripts/rabbitmq run {{which}} -- cargo test --features rabbitmq --test brokers rabbitmq{{which}}:: {{args}}

# Private RabbitMQ nodes: `just rabbitmq start 3`
rabbitmq *args:
    ./scripts/rabbitmq {{args}}

fmt:
    cargo fmt --all

lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --all-features -- -D warnings

docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --all-features

# The guide as a book, in target/book; `just book --open` shows it
book *args:
    ./scripts/book {{args}}

# Licences, advisories and bans; needs cargo-deny
deny:
    cargo deny check

# `memory`, `sqlite`, `patterns`, or `rabbitmq` side by side with a raw lapin loop
bench which *args:
    cargo bench --features sqlite,rabbitmq --bench {{which}} {{args}}

# SQLite beside effectum and apalis-sqlite: `just bench-sqlite 5 5000` for rounds and jobs
bench-sqlite *args:
    ./scripts/bench-sqlite {{args}}

hello:
    cargo run --example hello
