# Two commands matter: `make demo` and `make test`. Both set up .venv by themselves.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
ARGS ?=

.PHONY: demo test check lint bench simulate data clean

$(READY): pyproject.toml constraints.txt
	@echo "Setting up .venv (once; PyTorch for the CPU is the largest part)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[training,agents,fast,test]'
	@touch $(READY)

demo: $(READY)  ## run the newsroom that learns from its editor; ARGS=--yes for a scripted editor
	@$(BIN)/palaver demo $(ARGS)

test: $(READY)  ## run all tests; ARGS='-m "not integration"' leaves some out
	@$(BIN)/python -m pytest $(ARGS)

lint: $(READY)  ## formatting, rules, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

check: lint test  ## what must be green before a change lands
	@$(BIN)/palaver check specs/*.protocol.yaml

bench: $(READY)  ## measure the bus beside raw ZeroMQ
	@$(BIN)/python bench/bus.py $(ARGS)

data: $(READY)  ## make specs/data again from its seeded grammar
	@$(BIN)/python -m training_service.sections specs/data

clean:  ## remove what the commands above made
	@rm -rf .venv .palaver build dist .pytest_cache .mypy_cache .ruff_cache
