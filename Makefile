# make demo          replays real flights and scores them
# make test          every test: Rust's, and the [[tests]] of the examples, plain and with restarts
# make lint          format, clippy, and the dependencies' licences if cargo-deny is installed
# make bench-engine  records a second in one process
# make bench         Millstream beside Kafka Streams on a real broker, 40 minutes
#
# The first build compiles RocksDB and DataFusion; later ones take seconds. Everything that is built goes to
# CARGO_TARGET_DIR, by default ~/.cache/millstream/target, so that several checkouts share it.

SHELL := /bin/bash
export CARGO_TARGET_DIR ?= $(HOME)/.cache/millstream/target
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)

millstream := $(CARGO_TARGET_DIR)/debug/millstream
examples := $(wildcard topology-examples/*/topology.toml)

.PHONY: help demo test lint bench bench-engine build prerequisites
help:
	@sed -n 's/^# make/make/p' Makefile

prerequisites:
	@scripts/prerequisites

build: prerequisites
	cargo build --locked --workspace --bins

demo: build
	@scripts/demo $(millstream) $(DEMO_FLAGS)

test: prerequisites
	cargo test --locked --workspace
	cargo build --locked --workspace --bins
	$(millstream) test $(examples)
	$(millstream) test --restart $(examples)

lint:
	@scripts/prerequisites lint
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	@if cargo deny --version > /dev/null 2>&1; then cargo deny check; else echo "cargo-deny is not installed: licences are not checked"; fi

# The dependencies of the tests, our own code optimised fully: no second build of everything.
bench-engine: prerequisites
	CARGO_PROFILE_DEV_OPT_LEVEL=3 cargo bench --locked --workspace --profile dev --bench engine

# Millstream beside Kafka Streams on a real broker: BENCH_FLAGS names some of it, such as "json-filter --rounds 1".
bench: export CARGO_PROFILE_DEV_OPT_LEVEL = 3
bench: export CARGO_PROFILE_DEV_CODEGEN_UNITS = 1
bench: export CARGO_PROFILE_DEV_DEBUG_ASSERTIONS = false
bench: export CARGO_PROFILE_DEV_OVERFLOW_CHECKS = false
bench: export CARGO_PROFILE_DEV_INCREMENTAL = false
bench: prerequisites
	@scripts/kafka fetch
	cargo bench --locked --workspace --profile dev --bench kafka -- $(BENCH_FLAGS)
