"""An optimizer's settings, and the torch optimizer that they stand for."""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any, Literal

import torch
from omegaconf import OmegaConf

from experiments.common.messages import ConfigError
from experiments.common.schema import CONFIGS, Axis, Nonnegative, Unit, settings
from laprop import LaProp
from laprop.functional import ALGORITHMS

OPTIMIZERS = tuple(sorted(file.stem for file in (CONFIGS / "optimizer").glob("*.yaml")))
HYPERPARAMETERS = ("lr", "mu", "nu", "epsilon")

# Options that make laprop.LaProp the other optimizers of its family.
LAPROP = {
    "laprop": {},
    "laprop_printed": {"eps_in_sqrt": True, "lr_weighted_correction": False},
    "amsprop": {"amsgrad": True},
    "centered": {"centered": True},
}


@settings
class Optimizer:
    """Hyper-parameters in the paper's symbols; one value each, or a list in a vectorised task.

    An optimizer has those that its file in ``configs/optimizer`` names; the others are None.
    """

    name: Literal[OPTIMIZERS]  # type: ignore[valid-type]
    lr: Axis[Nonnegative]  # lambda
    mu: Axis[Unit] | None = None  # beta1
    nu: Axis[Unit] | None = None  # beta2
    epsilon: Axis[Nonnegative] | None = None
    weight_decay: Nonnegative = 0.0
    decay_by_lr: bool = False  # False: theta (1 - w), the paper's; True: theta (1 - lr w), AdamW's


@cache
def hyperparameters(optimizer: str) -> list[str]:
    """Those of ``HYPERPARAMETERS`` that an optimizer's file names."""
    named = OmegaConf.load(CONFIGS / "optimizer" / f"{optimizer}.yaml")
    return [name for name in HYPERPARAMETERS if name in named]


def require_usable(optimizer: str, module: ModuleType, task: str) -> None:
    """Refuse an optimizer that a task cannot use.

    Raises:
        ConfigError: names those that it can.
    """
    usable = [*ALGORITHMS, *getattr(module, "OPTIMIZERS", ())]
    if optimizer not in usable:
        raise ConfigError(
            f"optimizer={optimizer}: is not for {task}, which takes "
            f"{', '.join(o for o in OPTIMIZERS if o in usable)}"
        )


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
