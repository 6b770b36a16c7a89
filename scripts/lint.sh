#!/usr/bin/env bash
# Format, lints and docs: everything that looks at the source without running it.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo fmt --check
cargo clippy --locked -- -D warnings
cargo clippy --locked --all-targets --all-features -- -D warnings
RUSTDOCFLAGS='-D warnings' cargo doc --locked --all-features --no-deps
# cargo-deny takes long to build and needs the advisory database: it is used where it is installed.
if cargo deny --version >/dev/null 2>&1; then
    cargo deny check
fi
