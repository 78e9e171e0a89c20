# Every task of this project; CI calls these targets and nothing else. `make` alone lists them.

CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
CHAOS := $(TARGET_DIR)/debug/ridethrough-chaos

# PG_BIN=DIR names the folder with PostgreSQL's `postgres` and `initdb`; without it they are looked for.
ifdef PG_BIN
export RIDETHROUGH_PG_BIN := $(PG_BIN)
endif

.DEFAULT_GOAL := help
# The bench is a workspace of its own, so its programs are in a folder of its own.
BENCH := $(CARGO) run --quiet --release --manifest-path bench/Cargo.toml --

.PHONY: help setup build demo up test cache-tests explore foreign-clients h2spec httplint schemathesis self-test soak soak-pairs soak-kill soak-outage fuzz bench bench-core example-sqlx fmt lint doc deny

help: ## list the targets
	@echo 'make TARGET [PG_BIN=/folder/with/postgres]'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## find or install what is missing: PostgreSQL server binaries
	@scripts/setup.sh

build: setup ## build the three binaries
	@scripts/build.sh

demo: build ## kill the database under load and show what users got; report in target/demo
	@$(CHAOS) demo

up: build ## run the stack on http://127.0.0.1:8080 until Ctrl-C
	@$(CHAOS) up

test: setup ## everything CI checks
	@scripts/test.sh

foreign-clients: ## drive the fault proxy through toxiproxy's clients for Python and Node, fetched from their registries
	@scripts/foreign-clients.sh

h2spec: build ## hold the proxy against h2spec, all 146 cases (H2SPEC=/path/to/h2spec)
	@scripts/h2spec.sh $(TARGET_DIR)/debug/ridethrough-proxy $(H2SPEC)

httplint: build ## hold every answer that the proxy makes by itself against the rules of HTTP, with httplint from PyPI
	@scripts/httplint.sh
schemathesis: build ## hold the server against its OpenAPI document, with the database there and away; fetches schemathesis
	@scripts/schemathesis.sh

cache-tests: ## run the public tests for HTTP caches (cache-tests.fyi) against the proxy; needs node, fetches the suite into target/
	@scripts/cache-tests.sh

explore: build ## lose one write's connection at every message, in every way; table in target/explore (RAW=1: a plain driver)
	@$(CHAOS) explore $(if $(RAW),--raw)

self-test: build ## plant one bug after another into the server and see each found by its invariant; runs in target/self-test
	@$(CARGO) build --quiet -p ridethrough-server --features sabotage,nats --bin ridethrough-server-sabotage
	@$(CHAOS) self-test

soak: self-test ## the self-test, then faults by chance on the whole stack, SOAK_SEEDS of them (50); what did not hold in target/swarm
	@$(CHAOS) swarm --seeds $(or $(SOAK_SEEDS),50)

soak-pairs: build ## every pair of faults that can go together, some nine hours; PAIRS=20 takes so many by chance; kept in target/pairs
	@$(CHAOS) swarm --pairs --seeds $(or $(PAIRS),0) --out $(TARGET_DIR)/pairs

soak-kill: build ## kill the server at every step of journal and replay, KILL_ROUNDS times (200)
	@$(CARGO) build --quiet -p ridethrough-server --features sabotage,nats --bin ridethrough-server-sabotage
	@RIDETHROUGH_KILL_ROUNDS=$(or $(KILL_ROUNDS),200) $(CARGO) test --quiet -p ridethrough-tests --test e2e killed:: -- --nocapture

soak-outage: setup ## a 10-minute outage at 500 writes per second: memory, journal, and the way back (SOAK_MINUTES of 12)
	@$(CARGO) build --quiet --release -p ridethrough-server -p ridethrough-proxy -p ridethrough-chaos --bins
	@$(TARGET_DIR)/release/ridethrough-chaos run long-outage --duration $(or $(SOAK_MINUTES),12)m --out $(TARGET_DIR)/soak

fuzz: ## look for bytes that break the reading of a journal, FUZZ_SECONDS a target (300); needs nightly and cargo-fuzz
	@scripts/fuzz.sh

bench: ## what the library costs, as times and ratios
	@$(CARGO) bench --quiet -p ridethrough --bench cost

bench-core: build ## the library beside its peers in one run, as times and ratios
	@$(BENCH) "$(abspath $(CHAOS))"

example-sqlx: ## sqlx behind a guard, built apart; restart the PostgreSQL of DATABASE_URL meanwhile
	@cd examples/sqlx && $(CARGO) run --quiet --locked -- 20

fmt: ## format the code
	@$(CARGO) fmt --all
	@$(CARGO) fmt --manifest-path examples/sqlx/Cargo.toml
	@$(CARGO) fmt --manifest-path fuzz/Cargo.toml

lint: ## clippy and the tidy test
	@$(CARGO) clippy --quiet --workspace --all-targets --all-features -- -D warnings
	@$(CARGO) test --quiet -p ridethrough-tests --test tidy

doc: ## build the documentation; a broken link is an error
	@RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --all-features

deny: ## licences, sources, duplicates and advisories of the dependencies (needs cargo-deny)
	@$(CARGO) deny check
	@$(CARGO) deny --manifest-path examples/sqlx/Cargo.toml --config deny.toml check licenses sources
	@$(CARGO) deny --manifest-path bench/Cargo.toml --config deny.toml check licenses sources
