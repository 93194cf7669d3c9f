"""The small models beside the package, in the repository's folder ``models``."""

from __future__ import annotations

import pytest

from genreward_wrappers.data.goals import embedded_goals
from tests import ROOT

MODELS = ROOT / "models"
#: The tasks of Meta-World that they are tried on.
TASKS = [env_id for env_id in embedded_goals() if env_id.startswith("metaworld/")]

#: A clone without them is broken; who has the tests alone may lack them.
needs_models = pytest.mark.skipif(
    not (MODELS.exists() or (ROOT / ".git").exists()),
    reason="the folder models/ is not here",
)
