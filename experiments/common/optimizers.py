"""From an optimizer's settings to the torch optimizer that they stand for."""

from __future__ import annotations

from typing import Any

import torch

from experiments.common.config import Optimizer
from experiments.common.messages import ConfigError
from laprop import LaProp

# Options that make laprop.LaProp the other optimizers of its family.
LAPROP = {
    "laprop": {},
    "laprop_printed": {"eps_in_sqrt": True, "lr_weighted_correction": False},
    "amsprop": {"amsgrad": True},
    "centered": {"centered": True},
}


def torch_optimizer(
    settings: Optimizer, params: Any, *, fused: bool | None = None
) -> torch.optim.Optimizer:
    """The torch optimizer whose steps are those of ``laprop.functional``'s rule of the same name.

    Args:
        settings: with one value for each hyper-parameter.
        params: parameters or groups.
        fused: of torch's own classes; LaProp chooses by itself.

    Raises:
        ConfigError: for a weight decay that the optimizer's class applies in another way, and for
            signum, of which torch has no class.
    """
    name, lr, eps = settings.name, settings.lr, settings.epsilon
    decay, by_lr = settings.weight_decay, settings.decay_by_lr
    if name == "signum":
        raise ConfigError(
            "optimizer=signum: torch has no class for it; only vectorised tasks have it"
        )
    if name in LAPROP or name == "signsgd":
        # At nu 0 and epsilon 0 a gradient's root mean square is its size: LaProp takes its sign.
        signs = name == "signsgd"
        return LaProp(
            params,
            lr=lr,
            betas=(settings.mu, 0.0 if signs else settings.nu),
            eps=0.0 if signs else eps,
            weight_decay=decay,
            decay_by_lr=by_lr,
            **LAPROP.get(name, {}),
        )
    if name in ("adam", "amsgrad"):
        if decay and not by_lr:
            raise ConfigError(
                f"optimizer.decay_by_lr=False: torch's {name} scales the decay by lr; "
                "set optimizer.decay_by_lr=true"
            )
        return torch.optim.AdamW(
            params,
            lr=lr,
            betas=(settings.mu, settings.nu),
            eps=eps,
            weight_decay=decay,
            amsgrad=name == "amsgrad",
            fused=fused,
        )
    if decay:
        raise ConfigError(
            f"optimizer.weight_decay={decay}: must be 0; torch's {name} adds it to the gradient"
        )
    if name == "sgd":
        return torch.optim.SGD(params, lr=lr, momentum=settings.mu, fused=fused)
    return torch.optim.RMSprop(params, lr=lr, alpha=settings.nu, eps=eps)
