#!/usr/bin/env bash
# Installs the package on the lowest versions that pyproject.toml allows, and tries it:
# every module is imported, and the core, the hosts and the goals are tested.
#
#     scripts/check_lowest.sh [extra ...]        (by default: sb3 video)
#
# torch is the newest one that fits, since its lowest is a download of gigabytes;
# LOWEST_TORCH=1 asks for that as well.
#
# The extra metaworld needs a newer numpy than the package itself, by one of its packages,
# so its own lowest versions cannot be asked for together with the package's.
#
# "equals" tests are left out: whether a batch of rows gives the very bits of single rows
# is up to torch's kernels, and the oldest ones differ in the last digit.
set -euo pipefail
cd "$(dirname "$0")/.."
extras=("$@")
[ ${#extras[@]} -gt 0 ] || extras=(sb3 video)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
# shellcheck disable=SC1091
source "$work/venv/bin/activate"
python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || pip install -q tomli
python scripts/lowest_versions.py "${extras[@]}" \
  | { [ -n "${LOWEST_TORCH:-}" ] && cat || grep -v '^torch=='; } | tee "$work/lowest.txt"
joined=$(IFS=,; echo "${extras[*]}")
pip install -q -c "$work/lowest.txt" ".[$joined]" pytest pytest-timeout

cd "$work"
OMP_NUM_THREADS=1 python - <<'PYTHON'
import importlib
import pkgutil

import genreward_wrappers

for module in pkgutil.walk_packages(genreward_wrappers.__path__, "genreward_wrappers."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        # A package of an extra that is not installed here.
        if error.name and error.name.startswith("genreward_wrappers"):
            raise
        print(f"{module.name}: needs {error.name}")
    except ImportError as error:
        if "genreward-wrappers[" not in str(error):
            raise
PYTHON
cd - >/dev/null
OMP_NUM_THREADS=1 python -m pytest -q -k "not equals" \
  tests/core tests/data/test_goals.py tests/hosts/test_hosts.py
