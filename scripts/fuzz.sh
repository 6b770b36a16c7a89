#!/usr/bin/env bash
# Runs every fuzz target for the given number of seconds each: scripts/fuzz.sh SECONDS [TARGET...]
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:?seconds for each target}
shift

# Sanitizers are unstable compiler options. The pinned compiler takes them under this switch, so that no second toolchain
# has to be installed, and what is fuzzed is built by the compiler that builds the release.
export RUSTC_BOOTSTRAP=1
# Flags of the environment would reach the C parser's build and the sanitizer's.
unset RUSTFLAGS

targets=("$@")
if ((${#targets[@]} == 0)); then
    mapfile -t targets < <(cargo fuzz list)
fi
# One build of all of them, in one directory: the C parser is compiled once.
cargo fuzz build
for target in "${targets[@]}"; do
    echo "fuzz: $target for ${seconds} s"
    log=$(mktemp)
    if ! cargo fuzz run "$target" -- -max_total_time="$seconds" -rss_limit_mb=4096 -timeout=10 -verbosity=1 >"$log" 2>&1; then
        tail -n 60 "$log"
        rm -f "$log"
        echo "fuzz: $target failed; the input is in fuzz/artifacts/$target" >&2
        exit 1
    fi
    grep -E '^Done ' "$log" || tail -n 3 "$log"
    rm -f "$log"
done
