"""The optimizer ``laprop`` in fairseq's registry.

fairseq reads the annotations of its options as types, so this file must not have
``from __future__ import annotations``, which makes them strings.
"""

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, List  # noqa: UP035  fairseq does not know list[float]

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II
from torch import Tensor

from laprop import LaProp

DECAYS = ChoiceEnum(["by_lr", "paper"])
FUSED = ChoiceEnum(["auto", "on", "off"])
LOW_PRECISION = ChoiceEnum(["master", "stochastic", "nearest"])
STATE_DTYPES = ChoiceEnum(["float32", "bfloat16"])


@dataclass
class FairseqLaPropConfig(FairseqDataclass):
    """LaProp's options; ``fairseq-train --help`` shows these texts and defaults."""

    laprop_betas: Any = field(
        default=(0.9, 0.999), metadata={"help": "(mu, nu): decay of momentum and second moment"}
    )
    laprop_eps: float = field(default=1e-15, metadata={"help": "added to the RMS of the gradient"})
    weight_decay: float = field(default=0.0, metadata={"help": "decoupled weight decay w"})
    laprop_decay: DECAYS = field(  # type: ignore[valid-type]
        default="by_lr",
        metadata={
            "help": "by_lr: weights times 1 - lr w, as fairseq's adam and the authors' fairseq "
            "code; paper: times 1 - w, which does not scale with lr"
        },
    )
    laprop_amsgrad: bool = field(
        default=False, metadata={"help": "AmsProp: the largest second moment so far"}
    )
    laprop_centered: bool = field(
        default=False, metadata={"help": "second moment minus the squared mean gradient"}
    )
    laprop_centered_warmup: int = field(
        default=10, metadata={"help": "steps before centering begins"}
    )
    laprop_agc: float = field(
        default=0.0,
        metadata={
            "help": "bound the gradient norm of each tensor by this times the tensor's norm, 0 for "
            "no bound; with --fp16 and --bf16 add --fp16-no-flatten-grads"
        },
    )
    laprop_cautious: bool = field(
        default=False, metadata={"help": "leave out updates whose sign is against the gradient's"}
    )
    laprop_lr_outside_momentum: bool = field(
        default=False,
        metadata={"help": "Algorithm 1: lr multiplies the momentum, not the gradients in it"},
    )
    laprop_state_dtype: STATE_DTYPES = field(  # type: ignore[valid-type]
        default="float32",
        metadata={"help": "dtype of the averages; bfloat16 is rounded at random"},
    )
    laprop_eps_in_sqrt: bool = field(
        default=False, metadata={"help": "epsilon under the root, as Algorithms 2 to 4 are printed"}
    )
    laprop_printed_correction: bool = field(
        default=False,
        metadata={"help": "correct the momentum by 1 - mu^t, as printed, not by the mean lr"},
    )
    laprop_low_precision: LOW_PRECISION = field(  # type: ignore[valid-type]
        default="master",
        metadata={
            "help": "16-bit weights (memory-efficient training): keep a float32 copy, round at "
            "random, or round to the nearest as fairseq's adam does, which stalls"
        },
    )
    laprop_fused: FUSED = field(  # type: ignore[valid-type]
        default="auto", metadata={"help": "the kernel that makes a step in one pass over memory"}
    )
    lr: List[float] = II("optimization.lr")  # noqa: UP006, RUF009


@register_optimizer("laprop", dataclass=FairseqLaPropConfig)
class FairseqLaProp(FairseqOptimizer):
    """fairseq's interface to :class:`laprop.LaProp`.

    Args:
        cfg: the options.
        params: the parameters to train; in ``--fp16`` training flat float32 copies of them.

    Raises:
        ValueError: an option is out of its range.
    """

    # LaProp does the arithmetic of 16-bit parameters in float32 by itself.
    supports_memory_efficient_fp16 = True

    def __init__(self, cfg: FairseqLaPropConfig, params: Iterable[Tensor]) -> None:
        super().__init__(cfg)
        self._optimizer = LaProp(params, **self.optimizer_config)
        # Without this attribute fairseq would replace the state that LaProp loads from a checkpoint
        # by the checkpoint's own tensors. LaProp's are in float32 and on the right device already.
        self._optimizer.disable_mem_eff_fp16_loading_hack = True  # type: ignore[attr-defined]

    @property
    def supports_flat_params(self) -> bool:
        """Whether all parameters may be one flat tensor: not if an option works on each tensor."""
        return not (self.cfg.laprop_agc or self.cfg.laprop_cautious)

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """The options as :class:`laprop.LaProp` takes them."""
        cfg = self.cfg
        lr = cfg.lr[0] if isinstance(cfg.lr, Sequence) else cfg.lr
        betas = cfg.laprop_betas
        if isinstance(betas, str):
            try:
                betas = ast.literal_eval(betas)
            except (SyntaxError, ValueError):
                raise ValueError(
                    f"--laprop-betas {betas}: must be two numbers, such as '(0.9, 0.98)'"
                ) from None
        return {
            "lr": float(lr),
            "betas": tuple(betas) if isinstance(betas, Sequence) else betas,
            "eps": cfg.laprop_eps,
            "weight_decay": cfg.weight_decay,
            "decay_by_lr": str(cfg.laprop_decay) == "by_lr",
            "amsgrad": cfg.laprop_amsgrad,
            "centered": cfg.laprop_centered,
            "centered_warmup": cfg.laprop_centered_warmup,
            "agc": cfg.laprop_agc or None,
            "cautious": cfg.laprop_cautious,
            "lr_in_momentum": not cfg.laprop_lr_outside_momentum,
            "state_dtype": None if str(cfg.laprop_state_dtype) == "float32" else torch.bfloat16,
            "eps_in_sqrt": cfg.laprop_eps_in_sqrt,
            "lr_weighted_correction": not cfg.laprop_printed_correction,
            "low_precision": str(cfg.laprop_low_precision),
            "fused": {"auto": None, "on": True, "off": False}[str(cfg.laprop_fused)],
        }
