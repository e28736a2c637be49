# Short names for what people do here. Each works on a fresh clone with Python 3.11.
PYTHON_BIN = .venv/bin

.PHONY: setup check format test test-all lock demo

setup:                 ## .venv with what tests and checks need (finds it ready in no time)
	$$( [ -x .venv/bin/python ] && echo .venv/bin/python || echo python3.11 ) launch/bootstrap.py --dev

check: setup           ## format, lint, types, import contract, shell scripts; changes nothing
	tests/check.sh

format: setup
	$(PYTHON_BIN)/ruff format .
	$(PYTHON_BIN)/ruff check --fix .

test:                  ## the default suite, as an ordinary user
	tests/run.sh

test-all:              ## everything, with drills and what needs root
	tests/run.sh --all

demo:                  ## the default job: graph, training, report
	launch/run.sh

# The newest versions that fit pyproject.toml, in an environment of its own. Local labels (+cpu) and
# what only a CUDA build of torch brings are left out, so that the lock fits both builds.
lock:
	rm -rf build/lock
	python3.11 -m venv build/lock
	build/lock/bin/pip install --quiet setuptools '.[dev]'
	{ echo "# Versions that were tested together; \`make lock\` writes this file. Used as constraints (pip -c), so a"; \
	  echo "# CPU or a CUDA build of torch both fit."; \
	  build/lock/bin/pip freeze --all --exclude pip --exclude lm-gnn \
	    | grep -Ev '^(nvidia-|cuda-|triton)' | sed -E 's/\+[a-z0-9.]+$$//'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock
	rm -rf build/lock
