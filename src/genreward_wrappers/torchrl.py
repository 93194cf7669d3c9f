"""The reward for TorchRL's environments: a `Transform` over a session of N rows.

Where the environments run in processes of their own, as in `ParallelEnv`, the model
stands once beside them, and scores all of their pictures in one batch. Where a wrapper
pays below TorchRL, `info_reader` brings its parts into the TensorDict.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from genreward_wrappers.core import Bool, RewardModel, UInt8, check_model
from genreward_wrappers.data.minari import pictures_of
from genreward_wrappers.extras import require
from genreward_wrappers.hosts.describe import find_host
from genreward_wrappers.hosts.head import RewardHead
from genreward_wrappers.rewards.facts import Built, Part
from genreward_wrappers.rewards.spec import ENV

_NEEDS = "genreward_wrappers.torchrl needs TorchRL"
envs: Any = require("torchrl.envs", '"torchrl"', _NEEDS)
data: Any = require("torchrl.data", '"torchrl"', _NEEDS)


class RewardTransform(envs.Transform):  # type: ignore[misc]
    """Pays the environments of a `TransformedEnv` by a reward model.

    ``reward`` becomes the weighted sum, and ``reward_<name>`` is what each of the
    model's parts scored, beside ``reward_env``, the environment's own. The pictures are
    those that stand in the TensorDict where the transform stands: put it before those
    that resize or scale them.

    Example:
        >>> from torchrl.envs import ParallelEnv, TransformedEnv  # doctest: +SKIP
        >>> model = load_reward("video", goal="cup.safetensors", horizon=200)
        ... # doctest: +SKIP
        >>> env = TransformedEnv(ParallelEnv(8, make_env), RewardTransform(model))
        ... # doctest: +SKIP
    """

    def __init__(
        self,
        model: RewardModel[Any],
        *,
        pixels: Any = "pixels",
        env_weight: float = 0.0,
        seed: int | None = None,
    ) -> None:
        """Binds a model; the number of environments is known at the first reset.

        Args:
            model: From `load_reward`, or any other reward model.
            pixels: The key of the pictures: uint8 RGB, channels first or last.
            env_weight: The weight of the environments' own reward.
            seed: The seed of models that draw random numbers.

        Raises:
            TypeError: The model is something else.
        """
        check_model(model)
        super().__init__(in_keys=[pixels], out_keys=[pixels])
        self._pixels, self._seed = pixels, seed
        parts = tuple(Part(part, weight) for part, weight in model.parts)
        self._built = Built(parts, env_weight)
        self._head: RewardHead | None = None

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each part at the next step."""
        return self._made().weights

    def set_weights(self, **weights: Any) -> None:
        """Changes weights, from the next step on, as `RewardHead.set_weights`."""
        self._made().set_weights(weights)

    def forward(self, tensordict: Any) -> Any:
        """Refuses: a sample of a replay buffer is not an episode.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "RewardTransform pays for an episode as it was seen, and belongs to an "
            "environment. To pay recorded ones use genreward_wrappers.relabel"
        )

    def transform_reward_spec(self, reward_spec: Any) -> Any:
        """The reward is any number, whatever the environment's own was."""
        reward_spec["reward"] = self._number()
        return reward_spec

    def transform_observation_spec(self, observation_spec: Any) -> Any:
        """With what each part is paid."""
        for key in self._keys:
            observation_spec[key] = self._number()
        return observation_spec

    @property
    def _keys(self) -> list[str]:
        """Where in the TensorDict the parts are."""
        return [
            f"reward_{name}"
            for name in (ENV, *(part.model.name for part in self._built.parts))
        ]

    def _number(self) -> Any:
        """The spec of a number for each environment."""
        parent = self.parent
        shape = (*parent.batch_size, 1)
        return data.Unbounded(shape, dtype=torch.float32, device=parent.device)

    def _made(self) -> RewardHead:
        if self._head is None:
            if self.parent is None:
                raise RuntimeError("RewardTransform belongs to a TransformedEnv")
            self._head = RewardHead(self._built, max(1, self.parent.batch_size.numel()))
        return self._head

    def _reset(self, tensordict: Any, tensordict_reset: Any) -> Any:
        """Begins episodes, in those rows that are reset."""
        head, mask = self._made(), tensordict.get("_reset", None)
        rows = None if mask is None else _rows(mask)
        head.begin(self._look(tensordict_reset), rows, self._seed)
        self._seed = None
        nothing = np.zeros(head.session.num_envs)
        return self._told(tensordict_reset, dict.fromkeys(self._keys, nothing))

    def _step(self, tensordict: Any, next_tensordict: Any) -> Any:
        """Pays."""
        taken = tensordict.get("_step", None)
        head, axes = self._made(), len(tensordict.batch_size)
        actions = np.asarray(self.parent.action_spec.to_numpy(tensordict["action"]))
        paid = head.pay(
            actions.reshape(head.session.num_envs, *actions.shape[axes:]),
            self._look(next_tensordict),
            _rows(next_tensordict["reward"]),
            _rows(next_tensordict["terminated"]),
            _rows(next_tensordict["truncated"]),
            active=None if taken is None else _rows(taken),
        )
        told = {key: paid.infos[key] for key in self._keys}
        return self._told(next_tensordict, {**told, "reward": paid.rewards})

    def _look(self, tensordict: Any) -> UInt8:
        """(N, H, W, 3) the pictures."""
        seen = tensordict[self._pixels]
        seen = seen.reshape(-1, *seen.shape[-3:]).cpu().numpy()
        return pictures_of({str(self._pixels): seen}, "RewardTransform")

    def _told(self, tensordict: Any, values: Any) -> Any:
        number = self._number()
        for key, value in values.items():
            value = torch.as_tensor(value, dtype=number.dtype, device=number.device)
            tensordict.set(key, value.reshape(number.shape))
        return tensordict


def info_reader(env: Any) -> Any:
    """Reads what a reward wrapper says in ``info`` into the TensorDict.

    That is every ``reward_<name>``, ``reward_<name>_due`` and ``weight_<name>``, each
    with its type, and nothing of the environment's own, which
    `GymWrapper.auto_register_info_dict` takes as well: it fails on Python numbers.

    Args:
        env: The Gymnasium environment, single or vector, with the reward wrapper.

    Raises:
        ValueError: There is no reward wrapper in it, or it lives in another process.

    Example:
        >>> from torchrl.envs import GymWrapper  # doctest: +SKIP
        >>> env = GenRewardWrapper(env)  # doctest: +SKIP
        >>> GymWrapper(env).set_info_dict_reader(info_reader(env))  # doctest: +SKIP
    """
    said = find_host(env)._head.opening()
    shape = (env.num_envs,) if isinstance(env, VectorEnv) else ()
    spec = {
        key: data.Unbounded(shape, dtype=torch.from_numpy(values).dtype)
        for key, values in said.items()
        if key.startswith(("reward_", "weight_"))
    }
    composite = data.Composite(spec, shape=shape)
    return envs.default_info_dict_reader([*spec], composite)


def _rows(values: Any) -> Bool:
    """(N,) of what has the shape (*batch, 1)."""
    rows: Bool = values.reshape(-1).cpu().numpy()
    return rows
