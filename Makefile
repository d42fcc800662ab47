# Thin names over the real commands. `make demo` and `make test` set up everything they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WHEEL := build/wheel
# The tests start hundreds of processes. Without files of bytecode, which images of containers often turn off, each of them
# compiles again what it imports, which takes half of its time.
export PYTHONDONTWRITEBYTECODE :=
SOURCES := pyproject.toml setup.py CMakeLists.txt $(shell find csrc -type f) \
	$(shell find retinasdk -type f -not -name '*.pyc' -not -name '*.so')

.PHONY: demo test lint docs bench soak gpu fuzz coverage constraints release wheels clean

demo: $(VENV)/installed
	$(BIN)/retinasdk detect examples/photos/people --out demo_output --overwrite
	$(BIN)/retinasdk detect examples/photos/tree-crowns --model tree-crowns --out demo_output --overwrite
	@echo "The marked pictures are in demo_output/."

# Against the installed wheel: the pytest command, unlike python -m pytest, leaves the source tree out of sys.path.
PYTEST ?= $(BIN)/pytest
test: $(VENV)/test-tools
	$(PYTEST) -n auto --dist loadfile -m "not heavy"

# Which branches of the Python code the fast suite takes: the total, each file, and the branches that are missing.
coverage: $(VENV)/test-tools
	$(BIN)/coverage erase
	$(MAKE) test PYTEST="$(BIN)/coverage run $(BIN)/pytest"
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: $(VENV)/lint-tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive retinasdk examples setup.py .ci
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')
	$(BIN)/lint-imports
	$(BIN)/codespell $$(git ls-files)

# A broken link, a missing anchor or an undocumented field of the spec is an error.
docs: $(VENV)/docs-tools
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "The documentation is in build/site/index.html."

# Beside the peers, which take several gigabytes: in an environment of their own. The first table is that of
# docs/performance.md, for this machine.
bench: build/bench/installed
	build/bench/bin/python benchmarks/cpu_table.py
	build/bench/bin/python benchmarks/page.py

# Detects, by tiles and live, for an hour, and says whether memory, threads and descriptors stay level; needs GStreamer's
# RTSP server (tests/support/rtsp_server.py). With an engine on a GPU: make soak SOAK="--device cuda --model model.engine"
SOAK_MINUTES ?= 60
soak: $(VENV)/installed
	$(BIN)/python -m pip install --quiet "$$(ls $(WHEEL)/*.whl)[video,prometheus]"
	$(BIN)/python benchmarks/soak.py --minutes $(SOAK_MINUTES) $(SOAK)

# On a machine with an NVIDIA GPU: builds, tests, checks, measures, and writes a record to benchmarks/records/.
# For example in ten minutes: make gpu BUDGET=570; or parts: make gpu PARTS="tests memcheck benchmark".
BUDGET ?= 3600
gpu:
	$(PYTHON) benchmarks/gpu_record.py --budget $(BUDGET) $(if $(PARTS),--parts "$(PARTS)")

# Needs Clang. Inputs that crash go to tests/fuzz/crashes. Some targets only: make fuzz TARGETS="decode onnx".
FUZZ_SECONDS ?= 3600
fuzz: $(VENV)/fuzz-tools
	$(BIN)/python tests/fuzz/run.py --seconds $(FUZZ_SECONDS) $(TARGETS)

build/bench/installed: $(VENV)/installed benchmarks/requirements.txt
	test -x build/bench/bin/python || $(PYTHON) -m venv build/bench
	build/bench/bin/python -m pip install --quiet --upgrade pip
	build/bench/bin/python -m pip install --quiet --force-reinstall --no-deps $(WHEEL)/*.whl
	build/bench/bin/python -m pip install --quiet $(WHEEL)/*.whl -r benchmarks/requirements.txt
	touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(f"retinasdk needs Python 3.10 or newer, $(PYTHON) is {sys.version.split()[0]}; \
	run: make PYTHON=python3.11 ..." if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# This wheel is for this machine. Where no GPU can run the CUDA kernels, they are compiled for one architecture only. With all
# nine, nvcc takes four minutes of a processor more. tests/native/checks/kernel_resources.py compiles them for each.
ifeq ($(wildcard /dev/nvidia0 /dev/nvhost-gpu /dev/nvgpu),)
$(VENV)/installed: export RETINASDK_CMAKE_ARGS := $(RETINASDK_CMAKE_ARGS) -DCMAKE_CUDA_ARCHITECTURES=87
endif
$(VENV)/installed: $(BIN)/python $(SOURCES)
	rm -rf $(WHEEL)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir $(WHEEL) .
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps $(WHEEL)/*.whl
	$(BIN)/python -m pip install --quiet "$$(ls $(WHEEL)/*.whl)[eval]"
	touch $@

$(VENV)/%-tools: $(VENV)/installed
	$(BIN)/python -m pip install --quiet "$$(ls $(WHEEL)/*.whl)[$*]"
	touch $@

# The newest versions of all dependencies, with hashes, for each Python and system. CI tests with them on Python 3.10.
constraints: $(VENV)/release-tools
	$(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.10 --generate-hashes --no-annotate --upgrade \
		--custom-compile-command "make constraints" --extra all pyproject.toml --output-file constraints.txt

# Manylinux wheels for x86-64 and ARM64 and each supported Python, in dist/wheels/. Some only:
# make wheels WHEELS="--machine aarch64 --python 3.11"
wheels: $(VENV)/release-tools
	$(BIN)/python .ci/wheels.py $(WHEELS)

# The source archive, the wheel of this machine, the manylinux wheels, their hashes and an SBOM, in dist/.
release: $(VENV)/release-tools
	$(BIN)/python .ci/release.py

clean:
	rm -rf $(VENV) build dist demo_output *.egg-info
