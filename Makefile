# Engram. `make run` starts a server from a bare checkout, `make test` runs
# everything that CI runs but the lints.

CLIENTS := tests/clients
VENV := .venv
SYNAPSE := tests/synapse
SYNAPSE_VENV := .venv-synapse

.PHONY: help setup setup-test build run test test-rust test-clients test-synapse lint bench

help:
	@echo "make run    build and start the server (data in ./data, http://127.0.0.1:8008)"
	@echo "make test   build and run the whole test suite"
	@echo "make lint   format and lints, as CI runs them"
	@echo "make bench  measure; prints tables with ratios against raw limits"
	@echo "make setup  install what the build needs from the system (done by the others too)"

setup:
	@.ci/setup build

setup-test:
	@.ci/setup test

build: setup
	cargo build --release --locked --bin engram --bin engram-log --workspace

run: build
	./target/release/engram serve

test: test-rust test-clients test-synapse

test-rust: setup-test
	cargo test --workspace --locked

# Clients that nobody here wrote, against the binary that the tests were built with.
test-clients: setup-test $(VENV)/.installed $(CLIENTS)/node_modules/.installed
	cargo test --workspace --locked --no-run
	cargo build --quiet --locked --manifest-path $(CLIENTS)/rust_sdk/Cargo.toml
	CLIENT_PYTHON=$(CURDIR)/$(VENV)/bin/python3 python3 $(CLIENTS)/run.py target/debug/engram

$(VENV)/.installed: $(CLIENTS)/requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(CLIENTS)/node_modules/.installed: $(CLIENTS)/package-lock.json
	cd $(CLIENTS) && npm ci --silent --no-audit --no-fund
	@touch $@

# A federation with a server that nobody here wrote.
test-synapse: setup-test $(SYNAPSE_VENV)/.installed
	cargo test --workspace --locked --no-run
	$(SYNAPSE_VENV)/bin/python3 $(SYNAPSE)/run.py target/debug/engram

$(SYNAPSE_VENV)/.installed: $(SYNAPSE)/requirements.txt
	python3 -m venv $(SYNAPSE_VENV)
	$(SYNAPSE_VENV)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

bench: setup
	cargo bench --workspace --locked
