# Two commands matter: `make demo` and `make test`. Both set up .venv by themselves.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
ARGS ?=
JOBS ?= 1

# The modules of pyproject.toml's mypyc hook and what they are compiled against.
HOT := $(wildcard bus/ids.py bus/spec/*.py bus/wire/*.py bus/broker/*.py bus/sdk/*.py)
COMPILED := .venv/.compiled

.PHONY: demo test check lint compile pure test-pure bench bench-specs bench-training bench-texts prove fuzz-specs data docs clean

$(READY): pyproject.toml constraints.txt
	@echo "Setting up .venv (once; PyTorch for the CPU is the largest part)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[training,agents,fast,serve,plot,test]'
	@touch $(READY)

$(COMPILED): $(READY) $(HOT) scripts/compile.py
	@echo "Compiling the hot path of the bus (about a minute; again when its sources change)"
	@$(BIN)/python scripts/compile.py
	@touch $(COMPILED)

demo: $(READY)  ## run the newsroom that learns from its editor; ARGS=--yes for a scripted editor
	@$(BIN)/palaver demo $(ARGS)

compile: $(COMPILED)  ## make the bus twice as fast; Python then prefers what is compiled to its source

pure: $(READY)  ## go back to the sources alone
	@$(BIN)/python scripts/compile.py --remove
	@rm -f $(COMPILED)

test: $(COMPILED)  ## run all tests; ARGS='-m "not integration"' leaves some out
	@$(BIN)/python -m pytest $(ARGS)

test-pure: pure  ## run the tests of what is compiled on its sources
	@$(BIN)/python -m pytest tests/broker tests/wire tests/sdk $(ARGS)

lint: $(READY)  ## formatting, rules, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

check: lint test  ## what must be green before a change lands
	@$(BIN)/palaver check specs/*.protocol.yaml

bench: $(COMPILED)  ## measure the bus beside raw ZeroMQ
	@$(BIN)/python bench/bus.py $(ARGS)

bench-specs: $(READY)  ## measure reading and checking of protocols, and the monitor's step; ARGS=--hostile adds bad input
	@$(BIN)/python bench/specs.py $(ARGS)

bench-training: $(READY)  ## measure training beside TRL and a plain loop; ARGS='--quick --only step'
	@$(BIN)/python bench/training.py $(ARGS)

bench-texts: $(READY)  ## measure texts of several adapters together and one after another
	@$(BIN)/python bench/texts.py $(ARGS)

fuzz-specs: $(READY)  ## drive palaver check with texts that nobody means, new ones each time; EXAMPLES=n of each kind
	@PALAVER_FUZZ_EXAMPLES=$(or $(EXAMPLES),20000) $(BIN)/python -m pytest tests/spec/test_hostile_text.py -o timeout=0 $(ARGS)

prove: $(READY)  ## play 2,000 random protocols 200 times each and say what came of it; JOBS=2 uses two processes
	@$(BIN)/python scripts/prove.py --jobs $(JOBS) $(ARGS)

data: $(READY)  ## make specs/data again from its seeded grammar
	@$(BIN)/python -m training_service.sections specs/data

docs: $(READY)  ## write docs/protocols and the schema of training files again from specs/; tests keep them fresh
	@$(BIN)/python scripts/training_schema.py
	@for spec in specs/*.protocol.yaml; do \
		$(BIN)/palaver doc $$spec -o docs/protocols/$$(basename $$spec .protocol.yaml).md || exit 1; \
	done

clean:  ## remove what the commands above made
	@rm -rf .venv .palaver build dist .pytest_cache .mypy_cache .ruff_cache
	@rm -f *.so bus/*.so bus/*/*.so
