"""A trained prior of each kind."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests.training.priors.small import KINDS, trainer


@pytest.fixture(scope="session")
def priors(goal):
    """A trained prior of each kind, over the small goal's videos."""
    # One thread, as in the tests: others round otherwise.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {}
    for kind in KINDS:
        made = trainer(kind, list(goal.videos))
        losses = [made.update() for _ in range(made.steps)]
        found[kind] = SimpleNamespace(prior=made.finish(), losses=losses, trainer=made)
    torch.set_num_threads(before)
    return found
