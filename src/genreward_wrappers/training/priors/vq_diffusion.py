"""A discrete diffusion of the next frame's codes, given the frames before it.

The noise of VQ-Diffusion (Gu et al., arXiv 2111.14822): at each of T steps a code may
be masked, or replaced by any other, and a mask stays a mask. After t steps a code c is

    c itself          with probability  keep[t] + stray[t],
    any other code    each with         stray[t],
    the mask          with              mask[t],

with keep + codes * stray + mask = 1. The net predicts the clean codes, p(x0 | xt,
context). What a noisy code says about its own clean one is known, and added to the
net's prediction, so that it need not learn to copy. The rest follows by Bayes' rule:

    p(xs | xt, context) = sum over x0 of q(xs | xt, x0) p(x0 | xt, context),  s < t.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genreward_wrappers.training.priors.transformer import Blocks, check_width

#: Below this a probability is 0, and its logarithm that of this.
TINY = 1e-30


@dataclass(frozen=True)
class DiffusionConfig:
    """The shape of a discrete video diffusion.

    Attributes:
        codes: The number of rows of the codec's codebook.
        positions: The number of codes of a frame.
        context: How many frames the next one is conditioned on.
        steps: T, the number of noise steps.
        hops: The number of steps from noise to codes in scoring, evenly spread over T.
        stray: The share of codes that are replaced and not masked, at the end.
        width: The width of the transformer.
        layers: The number of attention blocks.
        heads: The number of attention heads.
    """

    codes: int
    positions: int
    context: int = 2
    steps: int = 100
    hops: int = 11
    stray: float = 0.1
    width: int = 96
    layers: int = 3
    heads: int = 4

    def __post_init__(self) -> None:
        if self.context < 1 or not 1 <= self.hops <= self.steps:
            raise ValueError(
                f"context={self.context}, hops={self.hops}, steps={self.steps}: "
                "expected at least one frame of context, and from 1 to steps hops"
            )
        # Without strays a code that is not masked would be known for sure, and some
        # of the ratios below would be 0 / 0.
        if not 0 < self.stray < 1:
            raise ValueError(f"stray={self.stray}: expected between 0 and 1")
        check_width(self.width, self.layers, self.heads)


class Noise:
    """The noise of a discrete diffusion, in closed form.

    Attributes:
        keep, stray, mask: (T + 1,) float64 after t steps, as above; t = 0 is clean.
    """

    def __init__(self, codes: int, steps: int, stray: float) -> None:
        """A schedule on which masks and strays grow linearly.

        Args:
            codes: The number of rows of the codebook; the mask is the number after the
                last.
            steps: T.
            stray: Share of strays after T steps; the rest is masked.
        """
        self.codes, self.steps = codes, steps
        time = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        # A little is kept to the end, or the steps between could not be told apart.
        self.keep = 1 - (1 - 1e-5) * time
        self.mask = (1 - stray) * (1 - 1e-5) * time
        self.stray = (1 - self.keep - self.mask) / codes

    def after(self, x0: Tensor, t: Tensor) -> Tensor:
        """q(xt | x0) as (n, S, codes + 1) probabilities, for x0 (n, S) and t (n,)."""
        clean = nn.functional.one_hot(x0, self.codes).double()
        keep, stray, mask = (part[t][:, None, None] for part in self._parts(x0))
        return torch.cat(
            [keep * clean + stray, mask.expand(*x0.shape, 1)],
            -1,
        )

    def before(self, believed: Tensor, xt: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """p(xs | xt) where x0 has the probabilities believed, as (n, S, codes + 1).

        Args:
            believed: (n, S, codes) p(x0 | xt).
            xt: (n, S) the noisy codes.
            s: (n,) the earlier step.
            t: (n,) the step of xt.
        """
        masked, same = self._seen(xt)
        keep_t, _, mask_t = (part[t][:, None, None] for part in self._parts(xt))
        keep_s, stray_s, mask_s = (part[s][:, None, None] for part in self._parts(xt))
        # What it takes to get from s to t.
        keep = keep_t / keep_s
        mask = 1 - (1 - mask_t) / (1 - mask_s)
        stray = (1 - keep - mask) / self.codes
        step = torch.where(masked, mask, keep * same + stray)
        weight = believed.double() / self.evidence(xt, t)
        total = weight.sum(-1, keepdim=True)
        of_codes = step * (keep_s * weight + stray_s * total)
        of_mask = masked * mask_s * total
        return torch.cat([of_codes, of_mask], -1)

    def evidence(self, xt: Tensor, t: Tensor) -> Tensor:
        """(n, S, codes) q(xt | x0) for every clean code."""
        masked, same = self._seen(xt)
        keep, stray, mask = (part[t][:, None, None] for part in self._parts(xt))
        return torch.where(masked, mask, keep * same + stray)

    def last(self, like: Tensor) -> Tensor:
        """(codes + 1,) what p begins with: noise after T steps that knows no x0."""
        each = (1 - self.mask[-1]) / self.codes
        spread = torch.full((self.codes + 1,), float(each), dtype=torch.float64)
        spread[-1] = self.mask[-1]
        return spread.to(like.device)

    def _seen(self, xt: Tensor) -> tuple[Tensor, Tensor]:
        """(n, S, 1) where there is a mask, (n, S, codes) 1 for the code there is."""
        # Any code will do where there is a mask; it is not looked at.
        same = nn.functional.one_hot(xt.clamp(max=self.codes - 1), self.codes)
        return (xt == self.codes)[..., None], same.double()

    def _parts(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        device = like.device
        return self.keep.to(device), self.stray.to(device), self.mask.to(device)


class VQDiffusion(nn.Module):
    """The diffusion of Diffusion Reward.

    Example:
        >>> model = VQDiffusion(DiffusionConfig(codes=8, positions=4))
        >>> context = torch.zeros(2, 2, 4, dtype=torch.int64)
        >>> model.bound(context, torch.rand(2, 12, 4)).shape
        torch.Size([2])
    """

    def __init__(self, config: DiffusionConfig) -> None:
        """Builds an untrained model."""
        super().__init__()
        self.config = config
        self.noise = Noise(config.codes, config.steps, config.stray)
        spread = np.rint(np.linspace(config.steps, 0, config.hops + 1))
        self.times = [int(t) for t in spread]
        self.code = nn.Embedding(config.codes + 1, config.width)
        frames = config.context + 1
        self.frame = nn.Parameter(0.02 * torch.randn(frames, 1, config.width))
        self.position = nn.Parameter(
            0.02 * torch.randn(1, config.positions, config.width)
        )
        self.time = nn.Embedding(config.steps + 1, config.width)
        self.blocks = Blocks(config.width, config.layers, config.heads, causal=False)
        self.head = nn.Linear(config.width, config.codes)

    def forward(self, xt: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Logits (n, S, codes) of the clean codes.

        Args:
            xt: (n, S) noisy codes of the frame.
            t: (n,) the number of noise steps.
            context: (n, context, S) the codes of the frames before it.
        """
        given = torch.cat([context, xt[:, None]], 1)
        tokens = self.code(given) + self.frame + self.position
        tokens = tokens.flatten(1, 2) + self.time(t)[:, None]
        logits: Tensor = self.head(self.blocks(tokens)[:, -self.config.positions :])
        return logits + self.noise.evidence(xt, t).log().float()

    def loss(self, x0: Tensor, context: Tensor, t: Tensor, u: Tensor) -> Tensor:
        """The bound on minus log p(x0 | context), per code, plus plain cross entropy.

        Args:
            x0: (n, S) the frame's codes.
            context: (n, context, S) of the frames before it.
            t: (n,) noise steps, each drawn uniformly from 1 to T.
            u: (n, S) uniform from 0 to 1, which decide the noise.
        """
        xt = draw(self.noise.after(x0, t), u)
        logits = self(xt, t, context)
        believed = logits.softmax(-1)
        clean = nn.functional.one_hot(x0, self.config.codes)
        truth = self.noise.before(clean, xt, t - 1, t)
        guess = self.noise.before(believed, xt, t - 1, t)
        bound = self.config.steps * divergence(truth, guess).mean()
        # The bound hardly looks at codes that are not masked; the cross entropy does.
        plain = nn.functional.cross_entropy(logits.flatten(0, 1), x0.flatten())
        return bound.float() + plain

    @torch.no_grad()
    def bound(self, context: Tensor, u: Tensor) -> Tensor:
        """How well chains drawn from the model explain where they end.

        A chain goes from noise to codes x0 in hops t > s > ... > 0, and gets

            log p(x0 | xt, context)  of its last hop, and for every other one
            - KL(q(xs | xt, x0) || p(xs | xt, context)).

        Its mean over chains stands for minus the entropy of the next frame. It is 0
        where the model is certain of what comes, and below 0 elsewhere: a model that
        contradicts itself from hop to hop loses too. (The logarithm of p over q at the
        sampled xs has about the same mean for a good model; but for a bad one q of a
        step that x0 then denies is tiny, and the ratio enormous: it pays for nonsense.)

        Args:
            context: (n, context, S).
            u: (n, hops + 1, S) uniform in [0, 1), which decide the chain.

        Returns:
            (n,) float64, in nats, summed over the codes of a frame.
        """
        start = self.noise.last(context)
        x = draw(start.expand(*u[:, 0].shape, -1), u[:, 0])
        hops = []
        for hop, (t, s) in enumerate(itertools.pairwise(self.times), 1):
            now, then = (x.new_full((len(x),), step) for step in (t, s))
            believed = self(x, now, context).double().softmax(-1)
            guess = self.noise.before(believed, x, then, now)
            hops.append((x, then, now, guess))
            x = draw(guess, u[:, hop])
        last = hops.pop()[-1].gather(-1, x[..., None])[..., 0]
        total = last.clamp(min=TINY).log()
        clean = nn.functional.one_hot(x, self.config.codes)
        for xt, then, now, guess in hops:
            truth = self.noise.before(clean, xt, then, now)
            total = total - divergence(truth, guess)
        return total.sum(-1)


def draw(probabilities: Tensor, u: Tensor) -> Tensor:
    """(n, S) which of the k outcomes (n, S, k) each u in [0, 1) falls on."""
    edges = probabilities.double().cumsum(-1)
    scaled = u.double() * edges[..., -1]
    return (edges <= scaled[..., None]).sum(-1)


def divergence(truth: Tensor, guess: Tensor) -> Tensor:
    """(n, S) KL(truth || guess) of distributions (n, S, k)."""
    ratio = truth.clamp(min=TINY).log() - guess.clamp(min=TINY).log()
    return (truth * ratio).sum(-1)


def certainty(
    model: VQDiffusion,
    context: Tensor,
    keys: Sequence[np.random.Generator],
    chains: int = 1,
) -> NDArray[np.float64]:
    """(n,) minus the entropy of what comes after each context, estimated.

    Args:
        model: The diffusion.
        context: (n, context, S).
        keys: The random generator of each row's chains.
        chains: How many chains each row draws.
    """
    config = model.config
    shape = (chains, config.hops + 1, config.positions)
    # Not in double: of the numbers below 1 the largest would round up to it.
    u = np.stack([key.random(shape, dtype=np.float32) for key in keys])
    device = next(model.parameters()).device
    every = context.to(device).repeat_interleave(chains, 0)
    found = model.bound(every, torch.from_numpy(u).flatten(0, 1).to(device))
    mean: NDArray[np.float64] = found.reshape(-1, chains).mean(1).cpu().numpy()
    return mean
