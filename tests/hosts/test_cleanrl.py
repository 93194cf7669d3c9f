"""A script of CleanRL with the lines that docs/trainers.md changes for Gymnasium 1.x.

PyPI's 1.2.0 wants an older Python than this package, and runs on newer ones:
``pip install --no-deps --ignore-requires-python cleanrl==1.2.0``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CHANGES = (
    (
        r"(SyncVectorEnv\(.*?\])",
        r"\1, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP",
    ),
    (r'in (infos\["final_info"\]):', r"in [\1]:"),
    (r"(TransformObservation\([^\n]*)\)\n", r"\1, env.observation_space)\n"),
)


@pytest.mark.timeout(600)
def test_a_script_that_takes_an_id(tmp_path):
    pytest.importorskip("cleanrl")
    text = Path(find_spec("cleanrl.ppo_continuous_action").origin).read_text()
    for line, changed in CHANGES:
        text, times = re.subn(line, changed, text, flags=re.DOTALL)
        assert times == 1, line
    script = tmp_path / "ppo.py"
    script.write_text(text)
    env_id = "genreward_wrappers:genreward-state/drawer-close-v0"
    told = ["--env-id", env_id, "--total-timesteps", "300", "--num-steps", "300"]
    done = subprocess.run(
        [sys.executable, script, *told],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (paid,) = re.findall(r"global_step=256, episodic_return=\[(.*)\]", done.stdout)
    assert float(paid) > 0
    assert list(tmp_path.glob("runs/**/events*"))
