#!/usr/bin/env bash
# Installs what is missing and runs everything; the tests come last, so that their summary ends the output.
#
#   scripts/test.sh [--no-fuzz]
set -euo pipefail
cd "$(dirname "$0")/.."

fuzz=yes
case ${1-} in
--no-fuzz) fuzz= ;;
'') ;;
*)
    echo "usage: scripts/test.sh [--no-fuzz]" >&2
    exit 2
    ;;
esac

# A heading, and how long the step before it took.
step() {
    echo
    echo "== $1 (at ${SECONDS} s)"
}

step "dependencies"
scripts/install-deps.sh build features postgres demo test ${fuzz:+fuzz}

# The driver tests run under whichever Python has the driver.
for python in python3 /usr/bin/python3; do
    if "$python" -c 'import psycopg' >/dev/null 2>&1; then
        PGWEIR_PYTHON=$("$python" -c 'import sys; print(sys.executable)')
        export PGWEIR_PYTHON
        break
    fi
done

step "format, lints, docs"
scripts/lint.sh

if [[ $fuzz ]]; then
    step "fuzz targets, a few seconds each"
    scripts/fuzz.sh "${FUZZ_SECONDS:-5}"
fi

step "documentation tests"
cargo test --locked --all-features --doc --quiet

step "tests"
# With all features; that it builds without them, the lints see to. Most tests wait for their servers most of the time: two for each core.
cargo nextest run --locked --all-features --no-fail-fast --test-threads "$(($(nproc) * 2))"
