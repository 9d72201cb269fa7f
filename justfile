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

# The binaries as they go into images: static, thin LTO, stripped. Needs Debian's musl-tools and
# `rustup target add x86_64-unknown-linux-musl`.
dist:
    CC_x86_64_unknown_linux_musl=musl-gcc cargo build --locked --profile dist --target x86_64-unknown-linux-musl -p outrigger-proxy
    CC_x86_64_unknown_linux_musl=musl-gcc cargo build --locked --profile dist --target x86_64-unknown-linux-musl -p outrigger --features outrigger/kubernetes
    cp /etc/ssl/certs/ca-certificates.crt target/

# Both images, with buildah, podman or docker.
images tool="buildah" tag="0.1.0":
    {{tool}} build -f Containerfile --target proxy -t outrigger/proxy:{{tag}} .
    {{tool}} build -f Containerfile --target control-plane -t outrigger/control-plane:{{tag}} .

demo:
    cargo run --release --bin outrigger -- demo

# Regenerates pages that tests compare with the code.
docs:
    UPDATE_DOCS=1 cargo test docs_
    UPDATE_DOCS=1 cargo test -p outrigger-proxy documentation
