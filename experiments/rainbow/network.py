"""The network: convolutions, then noisy layers, which give the distribution over returns."""

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from experiments.rainbow.replay import Batch

CONVOLUTIONS = {  # (channels, kernel, stride)
    "nature": ((32, 8, 4), (64, 4, 2), (64, 3, 1)),  # Mnih et al. 2015
    "data_efficient": ((32, 5, 5), (64, 5, 5)),  # van Hasselt et al. 2019
    "minatar": ((16, 3, 1),),  # Young and Tian 2019
}
Factors = tuple[Tensor, Tensor]
Noise = dict[str, Factors]
Layers = Callable[[str, Tensor], Tensor]


class NoisyLinear(nn.Module):
    """Affine layer with factorised noise (Fortunato et al. 2018): weight + sigma e_out e_in^T.

    Args:
        inputs, outputs: numbers of inputs and outputs of each stream.
        sigma: initial scale of the noise: it starts as sigma / sqrt(inputs) for a weight, and as
            sigma / sqrt(outputs) for a bias.
        streams: number of parallel layers, each with its own noise.
    """

    def __init__(self, inputs: int, outputs: int, sigma: float, streams: int = 1) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        shape = (streams, outputs, inputs)
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full(shape, sigma * bound))
        self.bias = nn.Parameter(torch.empty(shape[:2]).uniform_(-bound, bound))
        self.bias_sigma = nn.Parameter(torch.full(shape[:2], sigma / math.sqrt(outputs)))

    def formed(self, noise: Factors) -> tuple[Tensor, Tensor]:
        """The noisy weight (streams outputs, inputs) and bias (streams outputs,)."""
        e_in, e_out = noise
        weight = torch.addcmul(self.weight, self.weight_sigma, e_out[..., None] * e_in[:, None])
        bias = torch.addcmul(self.bias, self.bias_sigma, e_out)
        return weight.flatten(0, 1), bias.flatten()

    def factored(self, x: Tensor, noise: Factors) -> Tensor:
        """Outputs (1, streams outputs) for one x (1, inputs), without forming the noisy weight."""
        e_in, e_out = noise
        parts = zip(self.weight_sigma, self.bias_sigma, e_in * x, strict=True)
        spread = torch.cat([torch.addmv(bias, weight, y) for weight, bias, y in parts])
        mean = linear(x, self.weight.flatten(0, 1), self.bias.flatten())
        return torch.addcmul(mean, e_out.flatten(), spread)


class Network(nn.Module):
    """Logits of the return's distribution, for each action.

    Args:
        shape: shape of a state, (C, H, W).
        actions, atoms: numbers of actions and of atoms.
        convolutions: a key of :data:`CONVOLUTIONS`.
        hidden: units of the layer between convolutions and output, in each stream.
        dueling: whether there is a stream for the value and one for the advantages (Wang et al.
            2016).
        sigma: see :class:`NoisyLinear`.
        unit: pixel value that counts as 1.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        actions: int,
        atoms: int,
        *,
        convolutions: str,
        hidden: int,
        dueling: bool,
        sigma: float,
        unit: float,
    ) -> None:
        super().__init__()
        self.actions, self.dueling, self.unit = actions, dueling, unit
        layers: list[nn.Module] = []
        channels = shape[0]
        for outputs, kernel, stride in CONVOLUTIONS[convolutions]:
            layers += [nn.Conv2d(channels, outputs, kernel, stride), nn.ReLU(inplace=True)]
            channels = outputs
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            features = self.convolutions(torch.zeros(1, *shape)).shape[1]
        noisy = {"hidden": NoisyLinear(features, hidden, sigma, 1 + dueling)}
        noisy["advantage"] = NoisyLinear(hidden, actions * atoms, sigma)
        if dueling:
            noisy["value"] = NoisyLinear(hidden, atoms, sigma)
        self.noisy = nn.ModuleDict(noisy)
        shapes = [layer.weight.shape for layer in noisy.values()]
        # For each layer the shape of the noise factors of its inputs, then of its outputs. One draw
        # of random numbers fills all of them.
        self.factors = [(s, width) for s, *widths in shapes for width in reversed(widths)]
        self.sizes = [s * width for s, width in self.factors]

    def draw(self, generator: torch.Generator) -> Noise:
        """Fresh factors sign(z) sqrt|z|, z normal, for every noisy layer; drawn on the CPU."""
        z = torch.randn(sum(self.sizes), generator=generator)
        parts = torch.copysign(z.abs().sqrt_(), z).to(self.device).split(self.sizes)
        factors = [part.view(shape) for part, shape in zip(parts, self.factors, strict=True)]
        return dict(zip(self.noisy, zip(factors[::2], factors[1::2], strict=True), strict=True))

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    def formed(self, noise: Noise) -> Layers:
        """The noisy layers for many states; their noisy weights are computed once."""
        weights = {name: self._layer(name).formed(noise[name]) for name in self.noisy}
        return lambda name, x: linear(x, *weights[name])

    def factored(self, noise: Noise) -> Layers:
        """The noisy layers for one state; they never compute noisy weights, which saves time."""
        return lambda name, x: self._layer(name).factored(x, noise[name])

    def _layer(self, name: str) -> NoisyLinear:
        return cast(NoisyLinear, self.noisy[name])

    def forward(self, states: Tensor, layers: Layers, advantage_alone: bool = False) -> Tensor:
        """Logits (N, actions, atoms).

        Args:
            states: uint8 (N, C, H, W).
            layers: what :meth:`formed` or :meth:`factored` returned.
            advantage_alone: leave out the value, and the mean of the advantages.
        """
        x = self.convolutions(states.float() / self.unit)
        hidden = layers("hidden", x).relu()
        if not self.dueling:
            return layers("advantage", hidden).unflatten(1, (self.actions, -1))
        for_advantage, for_value = hidden.chunk(2, 1)
        advantage = layers("advantage", for_advantage).unflatten(1, (self.actions, -1))
        if advantage_alone:
            return advantage
        value = layers("value", for_value)[:, None]
        return value + advantage - advantage.mean(1, keepdim=True)


def best_actions(logits: Tensor, support: Tensor) -> Tensor:
    """Actions (N,) of the largest mean return; ``support`` (atoms,)."""
    return (logits.softmax(-1) @ support).argmax(-1)


def projected(p: Tensor, returns: Tensor, discounts: Tensor, support: Tensor) -> Tensor:
    """Distribution of ``returns + discounts Z`` on the support of Z (Bellemare et al. 2017).

    The probability of each moved atom is shared between its two neighbours on the support; the
    nearer neighbour gets more.

    Args:
        p: probability of each atom, (B, atoms).
        returns, discounts: (B,).
        support: equally spaced atoms, (atoms,); what falls outside goes to its ends.
    """
    low, high, last = support[0], support[-1], len(support) - 1
    moved = (returns[:, None] + discounts[:, None] * support).clamp(low, high)
    place = (moved - low) * (last / (high - low))
    lower = place.long().clamp(max=last - 1)
    above = (place - lower) * p  # what goes to the upper neighbour
    result = torch.zeros_like(p).scatter_add_(1, lower, p - above)
    return result.scatter_add_(1, lower + 1, above)


def losses(
    online: Network,
    target: Network,
    batch: Batch,
    noises: tuple[Noise, Noise],
    support: Tensor,
    *,
    double: bool,
    advantage_alone: bool,
) -> Tensor:
    """Kullback-Leibler divergence of every prediction from its target, (B,).

    Args:
        online, target: the network that learns, and its older copy.
        batch: a minibatch on the networks' device.
        noises: the noise of the online and of the target network.
        support: atoms of the returns.
        double: whether the online network chooses the next action that the target network values.
        advantage_alone: see :meth:`Network.forward`; it applies to the prediction, not its target.
    """
    mine = online.formed(noises[0])
    rows = torch.arange(len(batch.actions), device=support.device)
    with torch.no_grad():
        following = target(batch.following, target.formed(noises[1]))
        chooser = online(batch.following, mine) if double else following
        p = following[rows, best_actions(chooser, support)].softmax(-1)
        goal = projected(p, batch.returns, batch.discounts, support)
        entropy = -torch.xlogy(goal, goal).sum(-1)
    predicted = online(batch.states, mine, advantage_alone)[rows, batch.actions].log_softmax(-1)
    return -(goal * predicted).sum(-1) - entropy
