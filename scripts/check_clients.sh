#!/usr/bin/env bash
# Installs the heavy clients in an environment of their own, and runs what needs them:
# Ray Serve, Ray Data and RLlib, TorchRL, sb3-contrib, SBX's CrossQ, CleanRL, skrl, Minari
# and MiniGrid.
#
#     scripts/check_clients.sh
#
# They are a download of gigabytes and pin other packages (RLlib pins Gymnasium), so the
# ordinary tests skip what needs them.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
# shellcheck disable=SC1091
source "$work/venv/bin/activate"
# pip spends minutes on finding versions that fit together.
pip install -q uv
uv pip install -q ".[video,sb3,learn,metaworld,finetune,parquet,ray]" \
  pytest pytest-timeout psutil hypothesis \
  torchrl sb3-contrib "minari[create,hdf5]" minigrid skrl
# It asks for Python below 3.11 and for gym, and its script needs neither.
pip install -q --no-deps --ignore-requires-python cleanrl==1.2.0
CHECK_CLIENTS=1 OMP_NUM_THREADS=1 python -m pytest -q -p no:cacheprovider \
  tests/hosts/test_clients.py tests/hosts/test_cleanrl.py tests/hosts/test_torchrl.py \
  tests/rewards/test_served.py \
  tests/rewards/test_served_on_ray.py tests/relabel/test_on_ray.py \
  tests/test_small_benchmarks.py \
  tests/test_examples.py::test_examples_of_other_trainers
