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

# The sidecar as it goes into images: static, thin LTO, stripped. Needs Debian's musl-tools and
# `rustup target add x86_64-unknown-linux-musl`.
dist:
    CC_x86_64_unknown_linux_musl=musl-gcc cargo build --locked --profile dist --target x86_64-unknown-linux-musl -p outrigger-proxy

demo:
    cargo run --release --bin outrigger -- demo

# Regenerates pages that tests compare with the code.
docs:
    UPDATE_DOCS=1 cargo test docs_
    UPDATE_DOCS=1 cargo test -p outrigger-proxy documentation
