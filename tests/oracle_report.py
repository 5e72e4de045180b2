"""Print how far each update rule and the optimizer are from the oracle, at worst, in ulp.

    python tests/oracle_report.py [members]

A case is one member (hyper-parameters, parameters, gradients) over 40 steps, compared at each.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np
import oracle
import torch

from laprop import LaProp
from laprop.functional import ALGORITHMS, Algorithm

WIDE = {np.float32: np.float64, np.float64: np.longdouble}
STEPS = 40
KINDS = {"for loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def algorithm(name: str) -> Algorithm:
    """The rule of laprop.functional that the oracle has under this name."""
    if name == "lapropw_authors":
        return dataclasses.replace(
            ALGORITHMS["lapropw"], lr_in_momentum=True, lr_weighted_correction=True
        )
    if name == "centered_amsprop":
        return dataclasses.replace(ALGORITHMS["amsprop"], centered=True)
    if name == "laprop_cautious":
        return dataclasses.replace(ALGORITHMS["laprop"], cautious=True)
    if name == "laprop_agc":
        return ALGORITHMS["laprop"]
    return ALGORITHMS[name]


def functional_path(name: str, case: oracle.Case) -> np.ndarray:
    """Theta after each step by `laprop.functional`, all members in one batch."""
    rule = algorithm(name)
    in_root = case.eps_in_sqrt or rule.eps_in_sqrt
    rule = dataclasses.replace(rule, eps_in_sqrt=in_root)
    theta = torch.from_numpy(case.theta)
    state = rule.init(theta)
    tensors = {
        key: torch.from_numpy(getattr(case, key)) for key in ("mu", "nu", "epsilon", "weight_decay")
    }
    if name == "laprop_agc":
        tensors["agc"] = torch.from_numpy(case.agc)
    path = []
    for g, lr in zip(case.gradients, case.lr, strict=True):
        theta, state = rule.step(
            theta,
            torch.from_numpy(g),
            state,
            lr=torch.from_numpy(lr),
            centered_warmup=case.centered_warmup,
            **tensors,
        )
        path.append(theta.numpy())
    return np.stack(path)


def optimizer_options(name: str) -> dict[str, bool]:
    """The options that make LaProp the algorithm of this name."""
    return {
        "lapropw": {"lr_weighted_correction": False},
        "laprop_printed": {"lr_weighted_correction": False},
        "lapropw_authors": {},
        "laprop": {"lr_in_momentum": False},
        "amsprop": {"lr_in_momentum": False, "amsgrad": True},
        "centered": {"lr_in_momentum": False, "centered": True},
        "centered_amsprop": {"lr_in_momentum": False, "amsgrad": True, "centered": True},
        "laprop_agc": {"lr_in_momentum": False},
        "laprop_cautious": {"lr_in_momentum": False, "cautious": True},
    }[name]


def optimizer_path(name: str, case: oracle.Case, **kind: bool) -> np.ndarray:
    """Theta after each step by LaProp, one param group per member."""
    params = [torch.nn.Parameter(torch.from_numpy(row.copy())) for row in case.theta]
    decay = np.broadcast_to(case.weight_decay, case.nu.shape)
    optimizer = LaProp(
        [
            {
                "params": [param],
                "betas": (float(case.mu[i]), float(case.nu[i])),
                "eps": float(case.epsilon[i]),
                "weight_decay": float(decay[i]),
                "agc": float(case.agc[i]) if name == "laprop_agc" else None,
            }
            for i, param in enumerate(params)
        ],
        centered_warmup=case.centered_warmup,
        eps_in_sqrt=case.eps_in_sqrt or name == "laprop_printed",
        **kind,
        **optimizer_options(name),
    )
    path = []
    for g, lr in zip(case.gradients, case.lr, strict=True):
        for i, group in enumerate(optimizer.param_groups):
            group["lr"] = float(lr[i])
            params[i].grad = torch.from_numpy(g[i])
        optimizer.step()
        path.append(np.stack([param.detach().numpy().copy() for param in params]))
    return np.stack(path)


def constant_lr(case: oracle.Case) -> oracle.Case:
    """The case with each member's largest lr at every step; then all forms of c_m agree."""
    return dataclasses.replace(case, lr=np.broadcast_to(case.lr.max(0), case.lr.shape).copy())


def still_at_zero(case: oracle.Case) -> oracle.Case:
    """The case without lr = 0, at which LaProp stands still, unlike the printed Algorithm 2."""
    return dataclasses.replace(case, lr=np.where(case.lr == 0, 1e-5, case.lr))


def optimizer_case(name: str, case: oracle.Case) -> oracle.Case:
    """The case without what the optimizer and the printed algorithm define differently."""
    return no_ties(name, still_at_zero(case))


def no_ties(name: str, case: oracle.Case) -> oracle.Case:
    """The case without nu = 0 for cautious, because there sums of signs may cancel to 0."""
    if name != "laprop_cautious":
        return case
    return dataclasses.replace(case, nu=np.where(case.nu == 0, 0.1, case.nu))


def largest(make: object, name: str, members: int, dtype: type, seed: int) -> float:
    """Largest error in ulp over one random case."""
    case = oracle.random_case(np.random.default_rng(seed), members, STEPS, dtype)
    case = no_ties(name, case) if make is functional_path else optimizer_case(name, case)
    theta, scale = oracle.path(name, case, WIDE[dtype])
    return oracle.ulp(make(name, case), theta, scale, dtype)


def main(members: int) -> None:
    print(f"{'':<18}{'':<12}{'cases':>8}{'ulp float32':>14}{'ulp float64':>14}")
    for name in oracle.NAMES:
        errors = [
            max(largest(functional_path, name, members // 10, dtype, seed) for seed in range(10))
            for dtype in (np.float32, np.float64)
        ]
        print(f"{name:<18}{'functional':<12}{members:>8}{errors[0]:>14.2f}{errors[1]:>14.2f}")
    for name in oracle.NAMES[len(oracle.RULES_ALONE) :]:
        for kind, options in KINDS.items():

            def make(name: str, case: oracle.Case, options: Any = options) -> np.ndarray:
                return optimizer_path(name, case, **options)

            errors = [
                max(largest(make, name, members // 100, dtype, seed) for seed in range(10))
                for dtype in (np.float32, np.float64)
            ]
            print(f"{name:<18}{kind:<12}{members // 10:>8}{errors[0]:>14.2f}{errors[1]:>14.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
