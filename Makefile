# `make demo` trains a model on text that needs no download. `make test` runs every test. Each sets up what it needs.
PYTHON ?= python3
# Empty (CONSTRAINTS=) takes the newest version of every library.
CONSTRAINTS ?= constraints.txt
# A plain `pip install torch` on Linux brings several GB of CUDA packages. Name another build (TORCH="torch --index-url ...")
# to avoid them.
TORCH ?= $(shell grep '^torch==' constraints.txt)
# Processes that run tests at the same time.
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# The test files of Transformers itself, which only its source distribution holds.
CONTRACT := $(VENV)/transformers-tests
CLIENTS := .venv-clients/ready
RUN := runs/demo
# The demo's model: tiny or modernbert_tiny.
CONFIG ?= tiny
comma := ,
PYTEST := -m pytest tests --numprocesses $(JOBS) --dist worksteal

.PHONY: help demo test test-clients test-versions test-lowest test-newest fuzz check contract format lint types docs clean
help:
	@echo "make demo           train a tokenizer and a tiny model on 12 MB of speeches, then use them (about 10 minutes)"
	@echo "make check          check format, lint and types, then run the fast tests (about 2 minutes)"
	@echo "make test           run every test (about 16 minutes)"
	@echo "make test-versions  run the fast tests on the lowest supported and on the newest versions of the libraries"
	@echo "make test-clients   run the code in docs/clients.md, in an environment of its own"
	@echo "make contract       run Transformers' own model tests on every class"
	@echo "make fuzz           try 5,000 and more random texts, rows and options"
	@echo "make docs           build the documentation as a site, in build/docs/html"
	@echo "make format         rewrite the files the way the formatter wants them"
	@echo "make clean          remove the environments and what the demo wrote"

# $(call install,ENVIRONMENT,REQUIREMENT,CONSTRAINTS FILE): torch goes first, so that the build you asked for is kept.
define install
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	$(if $(TORCH),$(1)/bin/pip install --quiet $(if $(3),--constraint $(3)) $(TORCH))
	$(1)/bin/pip install --quiet $(if $(3),--constraint $(3)) --editable "$(2)"
	touch $(1)/ready
endef

$(READY): setup.py pyproject.toml constraints.txt
	$(call install,$(VENV),.[demo$(comma)test$(comma)check],$(CONSTRAINTS))

$(CONTRACT): $(READY)
	version=$$($(BIN)/python -c "import importlib.metadata as m; print(m.version('transformers'))") && \
	rm -rf $(VENV)/sdist && mkdir -p $(VENV)/sdist && \
	$(BIN)/pip download --quiet --no-deps --no-binary transformers --dest $(VENV)/sdist transformers==$$version && \
	tar -xzf $(VENV)/sdist/transformers-$$version.tar.gz -C $(VENV)/sdist && \
	rm -rf $@ && mv $(VENV)/sdist/transformers-$$version/tests $@ && touch $@

demo: $(READY)
	$(BIN)/span-electra demo --config $(CONFIG) --output_dir $(RUN)

test: $(READY) $(CONTRACT)
	TRANSFORMERS_TESTS=$(abspath $(CONTRACT)) $(BIN)/python $(PYTEST)

# The lowest versions are the floors in setup.py; the newest are whatever pip finds today. TORCH and the rest as above.
FLOORS := transformers|tokenizers|datasets|accelerate|evaluate|huggingface_hub

test-versions: test-lowest test-newest

test-lowest test-newest: test-%: .venv-%/ready
	.venv-$*/bin/python $(PYTEST) -m "not slow"

.venv-lowest/ready: setup.py pyproject.toml
	mkdir -p .venv-lowest
	sed -nE 's/^ *"(($(FLOORS))>=[^"]+)",$$/\1/p' setup.py | sed 's/>=/==/' > .venv-lowest/constraints.txt
	$(call install,.venv-lowest,.[test],.venv-lowest/constraints.txt)

.venv-newest/ready: setup.py pyproject.toml
	$(call install,.venv-newest,.[test],)

# Other libraries get environments of their own, so that neither side disturbs the other.
test-clients: $(CLIENTS)
	OPTIMUM_PYTHON=$(abspath .venv-optimum/bin/python) .venv-clients/bin/python -m pytest tests/clients

$(CLIENTS): setup.py pyproject.toml
	test -x .venv-optimum/bin/python || $(PYTHON) -m venv .venv-optimum
	$(if $(TORCH),.venv-optimum/bin/pip install --quiet $(TORCH))
	.venv-optimum/bin/pip install --quiet "optimum-onnx[onnxruntime]"
	$(call install,.venv-clients,.[clients],)

fuzz: $(READY)
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest tests/fuzz

contract: $(CONTRACT)
	TRANSFORMERS_TESTS=$(abspath $(CONTRACT)) $(BIN)/python -m pytest tests/contract

check: $(READY) lint types
	$(BIN)/python $(PYTEST) -m "not slow"

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# A clone may have any name, but the type checker has to find it under the name of the package.
types: $(READY)
	mkdir -p $(VENV)/types && ln -sfn $(CURDIR) $(VENV)/types/span_electra
	MYPYPATH=$(VENV)/types $(BIN)/mypy --package span_electra

# The docstrings are read without importing the package, so nothing that it needs is installed.
docs: .venv-docs/ready
	rm -rf build/docs
	.venv-docs/bin/python setup.py --quiet build_py --build-lib build/docs/package
	.venv-docs/bin/python docs/site.py build/docs/pages
	.venv-docs/bin/zensical build --strict

.venv-docs/ready: setup.py constraints.txt
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install --quiet $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) setuptools \
		$$(sed -nE 's/^ *"docs": \[(.*)\],$$/\1/p' setup.py | tr -d '",')
	touch $@

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-* $(RUN) *.egg-info build dist
