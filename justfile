# Names for commands; logic is in Rust under tests/.

# Format, lints, licences, tests: what CI runs first.
check: fmt clippy deny test

fmt:
    cargo fmt --all --check

clippy:
    cargo clippy --workspace --all-targets -- -D warnings

deny:
    cargo deny check

test:
    cargo test

demo:
    cargo run --release --bin outrigger -- demo

# Regenerates pages that tests compare with the code.
docs:
    UPDATE_DOCS=1 cargo test docs_
    UPDATE_DOCS=1 cargo test -p outrigger-proxy documentation
