#!/usr/bin/env bash
# Installs what is missing, and does nothing (in well under a second) when nothing is.
#
#   scripts/install-deps.sh GROUP...
#
# Groups: build (compiler, libclang), features (libpam, for all of cargo's features), postgres (server and clients), regress (what PostgreSQL's own tests are built with), demo (curl), test (cargo-nextest, Python driver, slapd, openssl, iproute2, PgBouncer, Patroni, etcd),
# fuzz (cargo-fuzz), bench (PgBouncer, haproxy, strace, valgrind, openssl, Python).
# As root it uses apt-get; as another user it never asks for a password, but says what is missing and how to get it.
set -euo pipefail

packages=()
crates=()

have() { command -v "$1" >/dev/null 2>&1; }

# True when the pattern (already expanded by the shell) matches a file.
any() { [[ -e ${1-} ]]; }

want() {
    local package
    for package in "$@"; do
        [[ " ${packages[*]-} " == *" $package "* ]] || packages+=("$package")
    done
}

check_build() {
    have cc || want gcc libc6-dev
    # The SQL parser is C behind bindgen: it needs the library and the compiler's own headers.
    if ! { any /usr/lib/llvm-*/lib/libclang*.so* || any "${LIBCLANG_PATH:-/nonexistent}"/libclang*.so*; } ||
        ! { any /usr/lib/llvm-*/lib/clang/*/include/stddef.h || any /usr/lib/clang/*/include/stddef.h; }; then
        want libclang-dev
    fi
}

check_features() {
    any /usr/include/security/pam_appl.h || want libpam0g-dev
}

check_postgres() {
    if ! have psql || ! have setpriv || ! { have initdb || any /usr/lib/postgresql/*/bin/initdb; }; then
        want postgresql util-linux
    fi
}

check_regress() {
    # The suite's own C: its headers come out of a Perl script, and libpq's test is linked with the installed libpq.
    have cc || want gcc libc6-dev
    have make || want make
    have perl || want perl
    { any /usr/include/postgresql/libpq-fe.h || any /usr/include/libpq-fe.h; } || want libpq-dev
    # For the sources that are fetched.
    have bzip2 || want bzip2
}

check_demo() {
    have curl || want curl
}

check_test() {
    have openssl || want openssl
    # For a server behind a cable that is pulled.
    have ip || want iproute2
    any /usr/sbin/slapd || want slapd
    # For a cluster that is switched over by somebody else.
    { have patroni && have patronictl; } || want patroni python3-etcd
    have etcd || want etcd-server
    # For what an unchanged pgbouncer.ini means to both.
    any /usr/sbin/pgbouncer || have pgbouncer || want pgbouncer
    cargo nextest --version >/dev/null 2>&1 || crates+=(cargo-nextest)
    local python
    for python in python3 /usr/bin/python3; do
        "$python" -c 'import psycopg' >/dev/null 2>&1 && return
    done
    want python3 python3-psycopg
}

check_fuzz() {
    have c++ || want g++
    cargo fuzz --version >/dev/null 2>&1 || crates+=(cargo-fuzz)
}

check_bench() {
    have pgbouncer || any /usr/sbin/pgbouncer || want pgbouncer
    have haproxy || any /usr/sbin/haproxy || want haproxy
    have openssl || want openssl
    have strace || want strace
    have valgrind || want valgrind
    have python3 || want python3
}

install_packages() {
    ((${#packages[@]})) || return 0
    if ((EUID != 0)) || ! have apt-get; then
        echo "missing: ${packages[*]} (names of Debian's packages)" >&2
        echo "as root: apt-get update && apt-get install ${packages[*]}" >&2
        return 1
    fi
    echo "installing ${packages[*]}" >&2
    export DEBIAN_FRONTEND=noninteractive
    local log
    log=$(mktemp)
    if ! { apt-get update && apt-get install -y --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

install_crates() {
    local crate
    for crate in ${crates[@]+"${crates[@]}"}; do
        echo "installing $crate (a debug build: it is a build tool, its own speed does not matter)" >&2
        env -u CARGO_TARGET_DIR cargo install --quiet --locked --debug "$crate"
    done
}

if ! have cargo; then
    echo "missing: a Rust toolchain (cargo, rustc, rustfmt, clippy), 1.95 or newer; see https://rustup.rs" >&2
    exit 1
fi
for group in "$@"; do
    case $group in
    build | features | postgres | regress | demo | test | fuzz | bench) "check_$group" ;;
    *)
        echo "unknown group $group" >&2
        exit 2
        ;;
    esac
done
install_packages
install_crates
