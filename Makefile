# The main things to do with a checkout. Each installs what it needs into .venv first.
#   make demo    train two small models, serve them on port 8500
#   make test    every test
#   make check   the fast loop: lint, types, unit tests
#   make bench   the benchmarks
#   make bench-quick   is this commit slower than the last one recorded? under two minutes
#   make docs    the site of docs/, in build/site; broken links and anchors are errors
#   make test-clients   the generated clients in every language; installs compilers and interpreters, which needs root
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt
# Frameworks that cannot share the environment are installed here, not in the user's own folder.
export STFS_HOME = $(abspath $(VENV))/stfs-home
# Their wheels are for this kind of machine only; elsewhere the tests that need them are skipped and say why.
BESIDE = $(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -)),mxnet cntk xgboost-legacy)
# What an editable install is made of; Python files are read in place and need no new install.
BUILT_FROM = pyproject.toml setup.py constraints.txt $(wildcard stfs/*.pyx stfs/*/*.pyx stfs/*/*.pxd stfs/native/*)

.PHONY: demo docs screenshots protos test test-clients check lint types unit bench bench-quick image-test clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-%: $(BUILT_FROM) | $(BIN)/python
	$(PIP) --editable ".[$*]"
	touch $@

$(VENV)/.beside: stfs/platforms/catalog.py Makefile | $(VENV)/.installed-test
	$(if $(BESIDE),$(BIN)/stfs platforms install $(BESIDE))
	# TensorFlow Serving's own client; it asks for a TensorFlow that would take the place of tensorflow-cpu.
	$(PIP) --no-deps tensorflow-serving-api==2.21.0
	# What finds barriers in the pages; without npm, the tests that need it are skipped and say so.
	-if command -v npm >/dev/null; then npm install --silent --no-audit --no-fund --prefix $(VENV)/npm axe-core@4.14.1; fi
	# KServe's client asks for other versions of what the server uses, so it has an environment of its own.
	$(BIN)/python -m venv $(VENV)/kserve
	$(VENV)/kserve/bin/python -m pip --disable-pip-version-check --quiet install kserve==0.21.0
	touch $@

demo: $(VENV)/.installed-demo
	$(BIN)/python examples/make_demo_models.py build/demo
	$(BIN)/stfs serve --model_config_file build/demo/models.json

docs: $(VENV)/.installed-site
	$(BIN)/sphinx-build -W --keep-going -d build/site-cache docs build/site

# The pictures in docs/images, of the real pages; needs Debian's package chromium.
screenshots: $(VENV)/.installed-test
	$(BIN)/python examples/make_demo_models.py build/demo
	$(BIN)/python docs/take_screenshots.py build/demo

# Two parts at a time; `.venv/bin/python -m pytest` runs them all in one process, and takes twice as long.
test: $(VENV)/.installed-test $(VENV)/.beside
	$(BIN)/python tests/in_parts.py

# What generated clients run on. Without it, make test runs those whose tools are there and skips the others.
CLIENT_TOOLS = curl nodejs npm golang-go openjdk-17-jdk-headless mono-mcs mono-runtime libmono-system-net-http4.0-cil \
	cargo librust-ureq-dev g++ libcurl4-openssl-dev ruby php-cli php-curl erlang-base erlang-inets erlang-ssl \
	lua5.4 lua-socket lua-sec lua-dkjson perl libio-socket-ssl-perl r-base-core r-cran-httr r-cran-jsonlite openssl

$(VENV)/.client-tools: Makefile | $(VENV)/.installed-test
	apt-get update --quiet
	# What comes from elsewhere (Node.js, Rust) may be newer than Debian's and stays.
	DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends \
		$(filter-out $(if $(shell command -v node),nodejs npm) $(if $(shell command -v cargo),cargo) \
		$(if $(shell command -v javac),openjdk-17-jdk-headless),$(CLIENT_TOOLS))
	mkdir -p $(VENV)/clients
	npm install --prefix $(VENV)/clients --no-audit --no-fund typescript@7.0.2 @types/node@26 newman@6.2.2
	touch $@

test-clients: $(VENV)/.installed-test $(VENV)/.client-tools
	STFS_TEST_CLIENTS=1 $(BIN)/python -m pytest tests/clients
	# What was run by what, for the end of docs/languages.md.
	$(BIN)/python docs/write_clients_run.py

check: lint types unit

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

unit: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -m "not slow" --hypothesis-profile=quick

bench: $(VENV)/.installed-bench
	$(BIN)/python -m pytest benchmarks --benchmark-sort=name --benchmark-columns=median,ops,rounds

bench-quick: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks.serving.quick

# Builds the container images and starts them; needs root, buildah and debootstrap.
image-test: $(VENV)/.installed-test
	STFS_TEST_CONTAINERS=1 $(BIN)/python -m pytest tests/containers

# The descriptors of messages, from the .proto files that stand beside them.
protos: $(VENV)/.installed-dev
	$(BIN)/python -m grpc_tools.protoc --proto_path=stfs/model_server --include_imports \
		--descriptor_set_out=stfs/model_server/model_server.binpb model_server.proto triton.proto

clean:
	rm -rf $(VENV) build dist *.egg-info stfs/*.so stfs/*/*.so stfs/_fastjson.cpp stfs/*/_*.cpp
