# `make` alone lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# Arguments of demo: ARGS=--tour runs every line that the demo offers and checks it.
ARGS ?=
# How long each fuzz target runs under `make fuzz`, in seconds.
FUZZ_SECONDS ?= 600
# Arguments of the benchmarks: see benches/bench.py --help.
BENCH_ARGS ?=
# How long each load runs under `make soak`, in seconds.
SOAK_SECONDS ?= 600
# How many statements it asks of shards and of one server, each in four ways.
SOAK_QUERIES ?= 100000

.PHONY: help
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Bring up a throwaway cluster with pgweir before it, and print what to try (ARGS=--tour: run it).
	@scripts/demo.sh $(ARGS)

.PHONY: test
test: ## Install what is missing and run everything: format, lints, docs, a short fuzz run, all tests.
	@scripts/test.sh

.PHONY: test-fast
test-fast: ## The same without the fuzz targets.
	@scripts/test.sh --no-fuzz

.PHONY: build
build: ## Build a debug binary.
	@scripts/install-deps.sh build
	cargo build --locked

.PHONY: release
release: ## Build the release binary.
	@scripts/install-deps.sh build
	cargo build --locked --release

.PHONY: lint
lint: ## Format check, clippy, docs, and cargo-deny where it is installed.
	@scripts/install-deps.sh build features
	@scripts/lint.sh

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZ_SECONDS (600).
	@scripts/install-deps.sh build fuzz
	@scripts/fuzz.sh $(FUZZ_SECONDS)

.PHONY: soak
soak: ## Run the loads for SOAK_SECONDS (600) each: 2,000 clients that come and vanish, 64 that leave all kinds of state, pgbench, replicas and primaries that fail, transfers between shards that are killed; then every kind of state left at every step, 100,000 hashes of each type, and SOAK_QUERIES over shards.
	@scripts/install-deps.sh build postgres test
	PGWEIR_SOAK_SECONDS=$(SOAK_SECONDS) cargo nextest run --locked --profile soak --no-capture --test churn --test tools --test failover --test shard_recovery --test shard_writes --test sharding --test replicas \
		-E 'binary(churn) or test(pgbench) or test(in_a_loop_under_load) or test(money_is_neither_made) or test(copied_rows_lie) or test(servers_hash_as_we_do) or test(reads_are_shared_by_weight) or test(write_then_read_pairs)'
	PGWEIR_SOAK_SECONDS=$(SOAK_SECONDS) cargo nextest run --locked --cargo-profile soak --profile soak --no-capture --test state_workload
	PGWEIR_MATRIX=all cargo nextest run --locked --cargo-profile soak --profile soak --no-capture --test state_matrix
	PGWEIR_DIFFERENTIAL=$(SOAK_QUERIES) PGWEIR_SEED=$$(date +%s) cargo nextest run --locked --cargo-profile soak --profile soak --no-capture --test scatter_differential

.PHONY: regress
regress: ## Run PostgreSQL's own regression suite and libpq's pipeline tests directly and through pgweir, and compare (docs/regress.md).
	@scripts/install-deps.sh build postgres regress
	cargo build --locked
	@scripts/regress.sh

.PHONY: bench
bench: ## The table of docs/performance.md: pgweir beside PostgreSQL, PgBouncer and haproxy; BENCH_ARGS for less.
	@scripts/install-deps.sh build postgres bench
	cargo build --locked --release
	benches/bench.py --out benches/results/latest.json $(BENCH_ARGS)

.PHONY: bench-relay
bench-relay: ## The relay alone, in a minute or two.
	@scripts/install-deps.sh build postgres bench
	cargo build --locked --release
	benches/relay.py $(BENCH_ARGS)

.PHONY: bench-count
bench-count: ## Instructions per transaction under callgrind, which a busy machine does not change; PgBouncer's with BENCH_ARGS=--pgbouncer.
	@scripts/install-deps.sh build postgres bench
	cargo build --locked --release
	benches/count.py $(BENCH_ARGS)

.PHONY: bench-profiles
bench-profiles: ## The release profile against others of its kind: builds each, then measures them in turn. It takes long.
	@scripts/install-deps.sh build postgres bench
	benches/profiles.py $(BENCH_ARGS)

.PHONY: bench-parts
bench-parts: ## Micro-benchmarks of the pure parts.
	@scripts/install-deps.sh build
	cargo bench --locked

.PHONY: bench-check
bench-check: ## Count the instructions of the pure parts, 5 % over the baseline at most (BENCH_ARGS=--write makes one).
	@scripts/install-deps.sh build bench
	benches/check.py $(BENCH_ARGS)

.PHONY: clean
clean: ## Remove what was built.
	cargo clean
	rm -rf fuzz/target fuzz/artifacts fuzz/coverage
