"""From a name to a reward model.

One table says where each model lives; its module is imported when it is asked for. A
package of its own adds to the table by an entry point::

    [project.entry-points."genreward_wrappers.rewards"]
    my-reward = "my_package.rewards:MyReward"

A name may carry a variant, ``lerobot:robometer`` or ``ray:cup``: it goes to the model's
parameter ``variant``, and models without one take none.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from genreward_wrappers.checks import check_names, did_you_mean, whole
from genreward_wrappers.core import RewardModel, check_model
from genreward_wrappers.encoders.names import (
    check_device,
    check_dtype,
    check_encoder,
)
from genreward_wrappers.rewards import signatures
from genreward_wrappers.rewards.align import Aligned
from genreward_wrappers.rewards.decorators import EveryK
from genreward_wrappers.rewards.peers.values import CHECKS
from genreward_wrappers.rewards.signatures import Takes, inspected, read

GROUP = "genreward_wrappers.rewards"

#: The option that all models have, and the one of all that compare with a goal.
EVERY, ALIGN = "every", "align"

_REWARDS = "genreward_wrappers.rewards"

#: Where the models of this package live.
HOME = {
    "video": f"{_REWARDS}.video_level:VideoLevel",
    "frame": f"{_REWARDS}.frame_level:FrameLevel",
    "vlm-rm": f"{_REWARDS}.peers.vlm_rm:VLMRM",
    "liv": f"{_REWARDS}.peers.liv:LIV",
    "roboclip": f"{_REWARDS}.peers.roboclip:RoboCLIP",
    "viper": f"{_REWARDS}.peers.viper:Viper",
    "diffusion-reward": f"{_REWARDS}.peers.diffusion_reward:DiffusionReward",
    "tadpole": f"{_REWARDS}.peers.tadpole:Tadpole",
    "lerobot": f"{_REWARDS}.peers.lerobot:LeRobotReward",
    "ray": f"{_REWARDS}.served.client:served",
}

#: What is checked alike in all models that take it.
CHECKED: Mapping[str, Callable[[str], None]] = {
    "encoder": check_encoder,
    "device": check_device,
    "dtype": check_dtype,
}

#: What is known where a model is used, and need not be said.
ADDED = ("goal", "horizon", "action_space", "device", "dtype", "sparse")

#: Those whose name carries a variant, and what stands for it in messages.
VARIANTS = {"lerobot": "<type>", "ray": "<name>"}


def load_reward(name: str, **options: Any) -> RewardModel[Any]:
    """Makes a reward model by its name.

    Args:
        name: One of `reward_names()`; ``lerobot:<type>`` for the models of LeRobot, and
            ``ray:<name>`` for what `genreward serve` serves.
        **options: The model's own; see its class. Every model takes ``every=k``, to be
            asked at every k-th step only; where it is not the model's own option it is
            `decorators.EveryK`. Every model with a ``goal`` takes ``align=n``, to undo
            a camera that is off by up to n pixels: `align.Aligned`.

    Raises:
        ValueError: There is no such model.
        TypeError: The options are not those of the model.

    Example:
        >>> load_reward("video", goal="metaworld/pick-place", encoder="pixels",
        ...             horizon=256).name
        'video'
    """
    make, variant = find_reward(name)
    check_names(options, reward_options(name), f"load_reward({name!r})")
    align = options.pop(ALIGN, None)
    if variant is not None:
        options = {"variant": variant, **options}
    every, horizon = 1, options.get("horizon")
    if EVERY not in own_options(name):
        every = whole(EVERY, options.pop(EVERY, 1))
        if horizon is not None:
            # What the model sees is an episode of so many steps.
            options["horizon"] = horizon // every
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        raise TypeError(
            f"load_reward({name!r}): {error}; its options are "
            f"{', '.join(reward_options(name)) or 'none'}"
        ) from error
    model = make(**options)
    check_model(model)
    if model.stretch is not None and horizon is not None and horizon % every:
        raise ValueError(
            f"every={every} does not divide an episode of {horizon} steps: the goal "
            "would run ahead of it. Give a divisor"
        )
    if align is not None:
        model = Aligned(model, align)
    return model if every == 1 else EveryK(model, every)


def reward_names() -> list[str]:
    """The names that `load_reward` knows, those of other packages included."""
    return sorted({*HOME, *(point.name for point in entry_points(group=GROUP))})


def reward_options(name: str) -> tuple[str, ...]:
    """What a model can be told: its constructor's own, ``every``, and ``align``.

    Models of this package are not imported for it.
    """
    own = own_options(name)
    around = (EVERY, ALIGN) if "goal" in own else (EVERY,)
    return (*own, *(option for option in around if option not in own))


def own_options(name: str) -> tuple[str, ...]:
    """What a model's constructor takes."""
    return _takes(name).names


def check_values(name: str, options: Mapping[str, Any]) -> None:
    """Raises `ValueError` for options that a model of this package cannot be made with.

    It is not imported for that. What its place of use may still add, such as the time
    limit of an environment, may be missing.
    """
    head, _, variant = name.partition(":")
    takes, given = _takes(name), {"variant": variant, **options}
    signatures.check_kinds(takes, given)
    for option, check in CHECKED.items():
        if option in takes.parameters and options.get(option) is not None:
            check(options[option])
    missing = [x for x in takes.required if x not in given and x not in ADDED]
    if missing:
        raise ValueError(
            f"needs {missing[0]}=, and has no default for it; its options are "
            f"{', '.join(reward_options(name))}"
        )
    if head in HOME and head in CHECKS:
        names = inspect.signature(CHECKS[head]).parameters
        CHECKS[head](**takes.bound(given, names))


def find_reward(name: str) -> tuple[Callable[..., Any], str | None]:
    """What makes the models of a name, and the variant that the name carries."""
    _takes(name)
    head, colon, variant = name.partition(":")
    return _make(head), variant if colon else None


def _takes(name: str) -> Takes:
    """What the models of a name take.

    Raises:
        ValueError: There is no such model, or not with or without a variant.
    """
    head, colon, _ = name.partition(":")
    takes = read(HOME[head]) if head in HOME else inspected(_make(head))
    if bool(colon) != ("variant" in takes.parameters):
        raise ValueError(
            f"reward {name!r}: {head!r} comes "
            + (
                "without a variant"
                if colon
                else f"in variants, as '{head}:{VARIANTS.get(head, '<variant>')}'"
            )
        )
    return takes


def _make(head: str) -> Callable[..., Any]:
    # A name of this package stays this package's.
    if head not in HOME:
        return _from_entry_point(head)
    module, _, cls = HOME[head].partition(":")
    make: Callable[..., Any] = getattr(import_module(module), cls)
    return make


def _from_entry_point(name: str) -> Callable[..., Any]:
    found = [point for point in entry_points(group=GROUP) if point.name == name]
    if not found:
        names = reward_names()
        raise ValueError(
            f"there is no reward {name!r}{did_you_mean(name, names)}; there are "
            f"{', '.join(map(repr, names))}, and what packages register in the "
            f"entry-point group {GROUP!r}"
        )
    if len({point.value for point in found}) > 1:
        raise ValueError(
            f"the reward {name!r} is registered more than once: "
            f"{', '.join(sorted(point.value for point in found))}; uninstall one"
        )
    make: Callable[..., Any] = found[0].load()
    return make
