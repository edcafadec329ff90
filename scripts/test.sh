#!/usr/bin/env bash
# The whole test suite: sets up .venv (and .venv-pymunk7 for the environments on pymunk 7), then lints, tests, and
# builds the documentation. Arguments go to pytest, for example: bash scripts/test.sh tests/generative -k ddim
# `bash scripts/test.sh suites` tests Meta-World, gymnasium-robotics and gym-pusht instead, installed into .venv-suites
# (some 100 MB more); without them their tests are skipped.
# Tests that need recorded data find it by DIFFPOLICY_DATA, or where the downloads are kept.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh

if [[ "${1:-}" == suites ]]; then
  make_venv .venv-suites '.[test,suites]'
  OMP_NUM_THREADS=1 exec .venv-suites/bin/python -m pytest --numprocesses auto --dist loadfile -m 'slow or not slow' \
    tests/envs/test_suites*.py tests/evaluation/test_suite*.py "${@:2}"
fi
make_venv .venv '.[test,docs]'
if [[ -z "${DIFFPOLICY_DATA:-}" ]]; then
  cached=$(.venv/bin/python -c 'from diffpolicy.datasets import data_root; print(data_root())')
  if [[ -d "$cached/pusht" ]]; then
    export DIFFPOLICY_DATA=$cached
  else
    echo "NOTE: no recorded data found (DIFFPOLICY_DATA is unset): the tests that need them are skipped"
  fi
fi
.venv/bin/ruff check .
.venv/bin/ruff format --check .
# One process per core, with one thread each: threads of several processes on the same cores wait for each other.
OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses auto --dist loadfile "$@"

if [[ $# -eq 0 ]]; then
  # not --quiet, which also keeps --strict from seeing a warning
  NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --site-dir build/site
  echo "the environments once more, on pymunk 7:"
  make_venv .venv-pymunk7 'envs'
  .venv-pymunk7/bin/python -m pytest tests/envs
fi
