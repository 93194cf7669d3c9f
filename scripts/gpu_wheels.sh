#!/usr/bin/env bash
# Fills a folder with the wheels that `python -m benchmarks.gpu` needs beside torch,
# transformers, safetensors and accelerate, for a machine that reaches no index.
#
#     scripts/gpu_wheels.sh FOLDER [PYTHON]     (by default the version of python3)
#
# There, from the repository's root:
#
#     python3 -m pip install --no-index --no-deps --target site FOLDER/*.whl
#     PYTHONPATH=src:site python3 -m benchmarks.gpu --out results
#
# torchvision, which CLIP needs, has to fit the machine's torch, and scipy, which
# Meta-World needs, is large: both are usually there. Without them those rows say so.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0"; exit 2; }
folder=$1
python=${2:-$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')}
limit=$((60 * 1024 * 1024))

packages=(
  # The package's own, and the models.
  gymnasium farama-notifications cloudpickle diffusers peft
  open_clip_torch timm ftfy wcwidth stable-baselines3
  # Drawing; Meta-World asks for this mujoco.
  metaworld mujoco==3.3.0 PyOpenGL glfw etils absl-py imageio fast-simplification
)
platforms=()
for tag in 2014 1; do platforms+=(--platform "manylinux${tag}_x86_64"); done
for minor in 17 24 27 28; do platforms+=(--platform "manylinux_2_${minor}_x86_64"); done

mkdir -p "$folder"
# Two versions of one package would stop the installation.
rm -f "$folder"/*.whl
python3 -m pip download -q --no-deps --only-binary=:all: --implementation cp \
  --python-version "$python" "${platforms[@]}" -d "$folder" "${packages[@]}"
bytes=$(cat "$folder"/*.whl | wc -c)
echo "$folder: $(ls "$folder" | wc -l) wheels for Python $python, $((bytes >> 20)) MiB"
if [ "$bytes" -ge "$limit" ]; then
  echo "more than $((limit >> 20)) MiB" >&2
  exit 1
fi
