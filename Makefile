# Two commands do everything: `make demo` and `make test`.
BIN := .venv/bin
SOURCES := stretto tests tools hatch_build.py $(wildcard benchmarks)

NATIVE := $(wildcard stretto/engine/backends/native/src/*)

.PHONY: demo demo-agent test lint bench bench-core bench-engine bench-layerskip bench-agents bench-commons bench-cuda docs \
	setup lock

demo: setup
	@$(BIN)/stretto demo

# Needs no network once the models are in the cache.
demo-agent: setup
	@$(BIN)/stretto demo-agent

# A small model on this machine among scripted neighbours, and a report on what came of it.
demo-commons: setup
	@rm -rf build/commons-demo
	@$(BIN)/stretto commons sweep examples/commons-demo.yaml --output build/commons-demo
	@$(BIN)/stretto commons report build/commons-demo --open

# pytest comes last: its closing line is the result.
test: setup lint
	@$(BIN)/python -m pytest

lint: setup
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/pyright
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python tools/budget.py

# Every figure behind the goals, each area to build/bench/AREA.json; FULL=1 takes the long version.
bench: bench-core bench-engine bench-layerskip

bench-core: setup
	@$(BIN)/python -m benchmarks.core

# Needs an NVIDIA GPU, so it is no part of `bench`.
bench-cuda: setup
	@$(BIN)/python -m benchmarks.cuda
bench-engine: setup
	@$(BIN)/python -m benchmarks.engine

bench-layerskip: setup
	@$(BIN)/python -m benchmarks.layerskip

bench-agents: setup
	@$(BIN)/python -m benchmarks.agents

bench-commons: setup
	@$(BIN)/python -m benchmarks.commons

docs: setup
	@$(BIN)/python tools/help_page.py

setup: .venv/setup-done

.venv/setup-done: pyproject.toml requirements-lock.txt tools/setup.sh hatch_build.py $(NATIVE)
	@tools/setup.sh

# Takes the newest versions that pyproject.toml allows; run `make test` afterwards.
lock: setup
	@tools/lock.sh
