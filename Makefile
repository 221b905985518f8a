# make demo          replays real flights and scores them
# make test          every test: Rust's, and the [[tests]] of the examples, plain and with restarts
# make soak          a process under load for MINUTES: how memory, files, disk and lag grow
# make kafka         a local Kafka broker for trying things, in the background
# make chaos         more of the faults that the tests inject: SEEDS of the simulation, then MINUTES on real brokers
# make lint          format, clippy, the schema of topologies, and the dependencies' licences if cargo-deny is installed
# make bench-engine  records a second in one process
# make bench-operators  a row in each operator at 1, 64 and 1,024 rows, and access to stores
# make bench-nexmark the rates of Nexmark's queries, from memory and from a real broker
# make bench         Millstream beside Kafka Streams on a real broker, more than an hour
#
# The first build compiles RocksDB and DataFusion; later ones take seconds. Everything that is built goes to
# CARGO_TARGET_DIR, by default ~/.cache/millstream/target, so that a fresh clone finds the dependencies built. Checkouts that
# are worked on side by side need one each: cargo would take the crates of one for those of the other.

SHELL := /bin/bash
export CARGO_TARGET_DIR ?= $(HOME)/.cache/millstream/target
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)

millstream := $(CARGO_TARGET_DIR)/debug/millstream
examples := $(wildcard topology-examples/*/topology.toml topology-examples/nexmark/*.toml)

.PHONY: help demo test chaos soak kafka lint bench bench-engine bench-operators bench-nexmark build prerequisites
help:
	@sed -n 's/^# make/make/p' Makefile

prerequisites:
	@scripts/prerequisites

build: prerequisites
	cargo build --locked --workspace --bins

demo: build
	@scripts/demo $(millstream) $(DEMO_FLAGS)

test: prerequisites
	@scripts/kafka fetch
	@scripts/tombi fetch
	@scripts/duckdb fetch
	cargo test --locked --workspace
	cargo build --locked --workspace --bins
	$(millstream) test $(examples)
	$(millstream) test --restart $(examples)

# Other seeds each time, unless FROM says where to begin.
SEEDS ?= 20000
MINUTES ?= 30
FROM ?= $(shell date +%s)000
chaos: prerequisites
	@scripts/kafka fetch
	MILLSTREAM_SEEDS=$(FROM)..$$(($(FROM) + $(SEEDS))) cargo test --locked --workspace --lib simulation::committed -- --nocapture
	MILLSTREAM_SEEDS=$(FROM) MILLSTREAM_CHAOS_MINUTES=$$(($(MINUTES) / 2)) \
		cargo test --locked --workspace --test it kafka::crashes::chaos -- --ignored --nocapture
	MILLSTREAM_CHAOS_SEED=$(FROM) MILLSTREAM_CHAOS_SECONDS=$$(($(MINUTES) * 30)) \
		cargo test --locked --workspace --test it kafka::brokers::whatever -- --nocapture

soak: prerequisites
	@scripts/kafka fetch
	MILLSTREAM_SOAK_MINUTES=$(MINUTES) cargo test --locked --workspace --test it kafka::endurance::soak -- --ignored --nocapture

kafka:
	@scripts/kafka fetch
	@scripts/kafka start
	@echo "Fill its topics:  millstream feed topology.toml --feed SOURCE=FILE --partitions 4"
	@echo "Run a topology:   millstream run topology.toml --create-topics"
	@echo "Stop the broker:  scripts/kafka stop"

lint:
	@scripts/prerequisites lint
	cargo fmt --all --check
	@scripts/tombi lint --offline --error-on-warnings $(examples) src/cli/new/topology.toml
	cargo clippy --locked --workspace --all-targets -- -D warnings
	@if cargo deny --version > /dev/null 2>&1; then cargo deny check licenses bans sources; else echo "cargo-deny is not installed: licences are not checked"; fi

# The dependencies of the tests, and our own code as a release builds it: no second build of everything.
bench bench-engine bench-operators bench-nexmark: export CARGO_PROFILE_DEV_OPT_LEVEL = 3
bench bench-engine bench-operators bench-nexmark: export CARGO_PROFILE_DEV_CODEGEN_UNITS = 1
bench bench-engine bench-operators bench-nexmark: export CARGO_PROFILE_DEV_DEBUG_ASSERTIONS = false
bench bench-engine bench-operators bench-nexmark: export CARGO_PROFILE_DEV_OVERFLOW_CHECKS = false
bench bench-engine bench-operators bench-nexmark: export CARGO_PROFILE_DEV_INCREMENTAL = false
bench-engine: prerequisites
	cargo bench --locked --workspace --profile dev --bench engine

# BENCH_FLAGS names some of them, such as "operator/join".
bench-operators: prerequisites
	cargo bench --locked --workspace --profile dev --bench operators --bench state -- $(BENCH_FLAGS)

# BENCH_FLAGS names some of them, such as "q5 q7 --memory --events 100000".
bench-nexmark: prerequisites
	@scripts/kafka fetch
	cargo bench --locked --workspace --profile dev --bench nexmark -- $(BENCH_FLAGS)

# Millstream beside Kafka Streams on a real broker: BENCH_FLAGS names some of it, such as "json-filter --rounds 1".
bench: prerequisites
	@scripts/kafka fetch
	cargo bench --locked --workspace --profile dev --bench kafka -- $(BENCH_FLAGS)
