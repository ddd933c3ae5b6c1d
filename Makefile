# Every target sets up its own environment in .venv, and is quick when nothing changed.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help setup demo test check slow coverage arm sshd results format clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## install everything into .venv, versions as in constraints.txt

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt --editable '.[all,dev]'
	touch $@

demo: $(STAMP)  ## search, train, export and run a small separable network on handwritten digits
	$(BIN)/sepnas demo --out runs/demo

test: $(STAMP)  ## the tests, without the slow ones; three processes, because tests also wait
	$(BIN)/python -m pytest -m 'not slow' -n 3 --dist loadfile

slow: $(STAMP) sshd  ## the slow tests
	$(BIN)/python -m pytest -m slow

coverage: $(STAMP)  ## the tests, without the slow ones, under coverage: one figure for each room
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -m 'not slow' -n 3 --dist loadfile
	$(BIN)/coverage combine --quiet
	@for room in sepnas/*/; do printf '%-20s %s%%\n' $$room "$$($(BIN)/coverage report --format=total --include="$$room*")"; done
	@printf '%-20s %s%%\n' all "$$($(BIN)/coverage report --format=total)"

arm: $(STAMP)  ## an emulated aarch64 board in a cluster with x86 machines (Debian; some minutes)
	$(BIN)/python -m pytest -m slow tests/test_arm.py

sshd:  ## install an SSH server, for the tests of searches over SSH (they start their own, on loopback)
	@test -x /usr/sbin/sshd || { apt-get update && RUNLEVEL=1 apt-get install -y --no-install-recommends openssh-server; } \
		|| echo 'no SSH server: run `sudo apt install openssh-server`; tests over SSH are skipped'

check: $(STAMP)  ## style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

results: $(STAMP)  ## every measure of every experiment as one table
	$(BIN)/sepnas results

format: $(STAMP)  ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and what runs wrote
	rm -rf .venv runs build dist htmlcov .coverage .coverage.* sepnas.egg-info
