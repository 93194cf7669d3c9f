"""A reward on Ray Serve: what `genreward serve` runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from genreward_wrappers.core import Bool, Int64
from genreward_wrappers.extras import require
from genreward_wrappers.rewards.facts import Facts
from genreward_wrappers.rewards.served.scorer import Card, Reply, Reset, Scorer, Step
from genreward_wrappers.rewards.spec import RewardSpec

serve: Any = require("ray.serve", "ray", "serving a reward needs Ray Serve")

#: Seconds that a request waits for others to be scored beside it, if any may be. An
#: agent waits for its reward at every step.
WAIT = 0.002
#: Requests that may wait at a replica; others wait at their clients.
ONGOING = 256


class Replica:
    """One copy of the models, in a process of its own."""

    def __init__(self, spec: RewardSpec, facts: Facts, batch: int) -> None:
        """Builds the models; what is wrong with them is told by `card`."""
        steps: Any = self.step
        steps.set_max_batch_size(batch)
        steps.set_batch_wait_timeout_s(WAIT if batch > 1 else 0)
        self._wrong: Exception | None = None
        try:
            self._scorer = Scorer(spec, facts)
        except Exception as error:
            # Ray Serve would try again for minutes.
            self._wrong = error

    async def card(self) -> Card:
        """What clients have to know."""
        if self._wrong is not None:
            raise self._wrong
        return self._scorer.card()

    async def wants(self, identity: str, steps: Int64) -> Bool:
        """See `Scorer.wants`."""
        return self._scorer.wants(identity, steps)

    async def reset(self, request: Reset) -> Reply:
        """See `Scorer.reset`."""
        return self._scorer.reset(request)

    @serve.batch  # type: ignore[untyped-decorator]
    async def step(self, requests: Sequence[Step]) -> list[Reply]:
        """See `Scorer.steps`; callers give one request and get one reply."""
        return self._scorer.steps(requests)


def deploy(
    spec: RewardSpec,
    facts: Facts,
    name: str,
    *,
    replicas: int = 1,
    batch: int = 1,
    cpus: float = 1,
    gpus: float = 0,
) -> Card:
    """Serves a reward under a name, in the cluster that this process is in.

    Args:
        spec: The reward.
        facts: What is known of the environments that it is for.
        name: What clients call it, as ``ray:<name>``.
        replicas: How many copies answer.
        batch: How many requests are scored side by side. A request has all rows of one
            client, and how many rows a network sees at once shows in the last bits of
            what it computes: with 1, rewards are exactly those of a local model.
        cpus: Cores of each.
        gpus: GPUs of each.

    Raises:
        ValueError: The reward does not fit, or another one has this name.
    """
    serve.start(proxy_location="Disabled")
    if name in serve.status().applications:
        raise ValueError(
            f"a reward {name!r} is served already: choose another name, or stop it"
        )
    deployment = serve.deployment(Replica).options(
        name="reward",
        num_replicas=replicas,
        max_ongoing_requests=ONGOING,
        # Otherwise a line is written for every step.
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
    )
    handle = serve.run(
        deployment.bind(spec, facts, batch), name=name, route_prefix=None
    )
    try:
        card: Card = handle.card.remote().result()
    except Exception as error:
        withdraw(name)
        raise getattr(error, "cause", None) or error from None
    return card


def withdraw(name: str) -> None:
    """Stops serving a reward."""
    serve.delete(name)
