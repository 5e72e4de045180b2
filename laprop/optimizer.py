"""LaProp as a torch.optim.Optimizer: one tensor at a time, foreach, and fused.

The arithmetic is written twice, for one tensor and for lists of tensors, as everywhere in
torch.optim; what depends on scalars only (:func:`_advance`), the choice between the two, and the
handling of complex and of 16-bit parameters (:func:`laprop`) are common to both. The third
implementation, one pass over memory, is in :mod:`laprop.kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast, overload

import torch
from torch import Tensor
from torch.optim.optimizer import (
    Optimizer,
    ParamsT,
    StateDict,
    _default_to_fused_or_foreach,
    _disable_dynamo_if_unsupported,
    _get_capturable_supported_devices,
    _get_scalar_dtype,
    _to_scalar,
    _use_grad_for_differentiable,
    _view_as_real,
)

from laprop.kernels import Plan, Unsuited, kernel_for
from laprop.kernels.plan import DTYPES, LOW_PRECISION, state_dtype

__all__ = ["LaProp", "laprop"]

Scalar = float | Tensor
Step = TypeVar("Step", bound=Callable[..., Any])

_DTYPES = (*DTYPES, torch.complex64, torch.complex128)
_ROUNDINGS = ("master", "stochastic", "nearest")
# What a group may hold besides options: names, and what schedulers and SWA write into it.
_GROUP_EXTRAS = {"params", "param_names", "name", "initial_lr", "initial_betas"} | {
    "min_lr", "max_lr", "base_momentum", "max_momentum", "swa_lr",
}  # fmt: skip


def _traced(step: Step) -> Step:
    """Let torch.compile trace a step where it traces it rightly; elsewhere it is called as it is.

    torch 2.11's inductor loses what the step writes into float64 scalars on the CPU, and so the
    bias corrections; 2.14's keeps it. In between nobody looked.
    """
    major, minor = (int(number) for number in torch.__version__.split(".")[:2])
    if (major, minor) >= (2, 14):
        return step
    return cast(Step, torch.compiler.disable(step))  # type: ignore[no-untyped-call]


@dataclass
class _Kept:
    """A parameter's state on its way through Optimizer.load_state_dict, which casts dicts."""

    state: dict[str, Any]


class LaProp(Optimizer):
    r"""LaProp: the gradient is divided by its root mean square first, and averaged after.

    .. math::
        n_t &= \nu n_{t-1} + (1-\nu) g_t^2, \qquad
        u_t = g_t / (\sqrt{n_t / c_{n,t}} + \epsilon) \\
        m_t &= \mu m_{t-1} + (1-\mu) \lambda_t u_t, \qquad
        \theta_t = (\theta_{t-1} - m_t / c_{m,t}) (1 - w)

    with :math:`\lambda` = ``lr``, :math:`(\mu, \nu)` = ``betas``, :math:`\epsilon` = ``eps``,
    :math:`w` = ``weight_decay``; :math:`c_n` is the same average as :math:`n`, of the number 1,
    that is :math:`1-\nu^t` for a constant :math:`\nu`, and stays right when :math:`\nu` is
    scheduled. Source: arXiv 2002.04839, Algorithms 1 to 4 (sections 2.3, B.3 to B.5). Where the
    paper and the authors' code disagree, the defaults follow the code, which made the results;
    ``eps_in_sqrt=True, lr_weighted_correction=False`` is Algorithm 2 as printed.

    Everything is an option of a param group. Hyper-parameters may be changed between steps.

    Args:
        params: Parameters, named parameters, or dicts of param groups.
        lr: Learning rate :math:`\lambda`, >= 0; a float or a one-element tensor. The update is
            close to ``lr`` per step and coordinate, as in Adam. A step with ``lr = 0`` changes no
            weight, whatever the other options (the averages are still updated).
        betas: :math:`(\mu, \nu)`, decay rates of momentum and second moment, each in [0, 1); both
            floats or both one-element tensors. Any pair is stable. ``nu = 0`` is signed SGD with
            momentum, to the last bit for \|g\| from 2**24 eps (1.7e-8) up to 1.8e19 in float32.
        eps: Added to the root of the bias-corrected second moment, >= 0. The default is small
            enough not to matter where gradients do (\|g\| > 1e-8) and large enough that the
            underflow of g**2 in float32 (\|g\| < 1e-19) cannot be seen. With 0 the root itself is
            bounded below by the root of the smallest normal number, so that 0 / 0 is 0.
        weight_decay: :math:`w` >= 0, decoupled from the gradient. As in the paper it does **not**
            scale with ``lr``: a value for AdamW is to be given with ``decay_by_lr=True``.
        amsgrad: AmsProp (B.4): n is replaced by its maximum so far, before the bias correction.
        centered: Centered LaProp (B.5): n is replaced by n minus the squared average gradient,
            bounded below by 0. Allowed together with ``amsgrad``.
        centered_warmup: Steps (of the parameter) before centering begins.
        decay_by_lr: Multiply the weights by :math:`1 - \lambda w`, as AdamW and the authors'
            fairseq code do, in place of :math:`1 - w`.
        eps_in_sqrt: :math:`\sqrt{n/c_n + \epsilon}`, as Algorithms 2 to 4 are printed.
        lr_weighted_correction: :math:`c_m` is the average of :math:`\lambda` over the present
            :math:`\lambda`, so a change of ``lr`` applies to the whole momentum at once. With
            False it is :math:`1-\mu^t`: each gradient keeps the learning rate of its own step.
            The two are the same as long as ``lr`` is constant.
        low_precision: What becomes of bfloat16 and float16 parameters, whose arithmetic and
            averages are float32 in any case. A step of lr is lost when it is rounded to a weight
            more than 2**8 (2**11) times as large, hence ``"master"``: a float32 copy is kept in
            the state (4 bytes per weight; a weight changed from outside is noticed and taken
            over). ``"stochastic"``: rounding at random, right in the mean, with no memory; draws
            from torch's default generator, which replicas (DDP) must have seeded alike.
            ``"nearest"``: plain rounding, which stalls as Adam does.
        maximize: Ascend in place of descending.
        foreach: Use the implementation on lists of tensors. None: as in torch, where ``fused`` is
            None too and all parameters are on an accelerator; on a CPU the loop over tensors is as
            fast and needs less memory. On a CPU both give the same bits.
        fused: Use a kernel that makes the step in one pass over memory, without temporaries. It
            takes a group of plain dense tensors on one device in float16, bfloat16, float32 and
            float64, each gradient laid out in memory as its parameter, with all options but
            ``low_precision="stochastic"`` and ``differentiable``. Everything else goes the way of
            ``foreach`` (True with ``fused=True``, else None), a whole group at a time: complex and
            DTensor parameters, random rounding, and all steps that torch.compile traces.

            On the CPU it was built if there was a C++ compiler when laprop was installed
            (``laprop.kernels.cpu.available()``), and None is True, unless ``foreach`` is given. It
            runs on torch's threads, with bits that do not depend on their number. On x86-64 with
            AVX2 and FMA, second moments and counters have the bits of the other two; momentum and
            weights differ by a few units in the last place, as the kernel's square root is
            correctly rounded and torch's (MKL's) is not always.

            On CUDA it is Triton's, which comes with torch's CUDA wheels, for compute capability
            7.0 or more, and as in torch it has to be asked for. A step is a launch for the scalars
            and one for each dtype (two where some tensors are not aligned); the scalars of the
            state are on the device. GradScaler leaves unscaling and skipping to it, so that nothing
            waits for the device; with ``capturable=True`` and ``lr`` as a tensor on the device it
            can be captured and scheduled.
        capturable: The step can be captured in a CUDA graph. Scalars are kept on the device.
        differentiable: Autograd runs through the step.

    State, for each parameter:
        * ``step``: float32 scalar, steps that this parameter has made;
        * ``exp_avg``: :math:`m/c_m`, by lr: the bias-corrected average of u (with
          ``lr_weighted_correction=False``, of :math:`\lambda u`). Kept corrected, as this form
          has no scale of its own and so survives a learning rate that goes to 0 and comes back;
        * ``exp_avg_weight``: float64 scalar, the average of :math:`\lambda` (of 1) in ``exp_avg``;
        * ``exp_avg_sq``, ``exp_avg_sq_weight``: n and :math:`c_n`, float64 scalar;
        * ``max_exp_avg_sq`` (amsgrad), ``exp_avg_grad`` (centered), ``master_param`` (16 bit).

    A state_dict of torch.optim.Adam or AdamW can be loaded. Taken are ``step``, ``exp_avg_sq`` and
    ``max_exp_avg_sq``. The momentum starts anew, with its own bias correction, as an average of raw
    gradients is none of normalised ones (and their quotient is not bounded). The options, lr among
    them, stay those of this optimizer.

    Raises:
        ValueError: A hyper-parameter out of its range, or an unknown key in a param group.
        TypeError: An unknown keyword, or a parameter of another dtype than float16, bfloat16,
            float32, float64, complex64 and complex128.
        RuntimeError: ``fused`` together with ``foreach`` or ``differentiable``.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 4e-4,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-15,
        weight_decay: float = 0.0,
        *,
        amsgrad: bool = False,
        centered: bool = False,
        centered_warmup: int = 10,
        decay_by_lr: bool = False,
        eps_in_sqrt: bool = False,
        lr_weighted_correction: bool = True,
        low_precision: Literal["master", "stochastic", "nearest"] = "master",
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "centered": centered,
            "centered_warmup": centered_warmup,
            "decay_by_lr": decay_by_lr,
            "eps_in_sqrt": eps_in_sqrt,
            "lr_weighted_correction": lr_weighted_correction,
            "low_precision": low_precision,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        _check_options(defaults)
        self._plans: dict[int, Plan] = {}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a param group; options that it does not name are those of the constructor.

        Args:
            param_group: ``params`` and any of the constructor's options.

        Raises:
            ValueError: An unknown key, or an option out of its range.
            TypeError: A parameter that is not a floating point or complex tensor.
        """
        if isinstance(param_group, dict):  # the base class has the message for anything else
            unknown = sorted(map(str, param_group.keys() - self.defaults.keys() - _GROUP_EXTRAS))
            if unknown:
                raise ValueError(
                    f"Unknown key in param group: {', '.join(unknown)} (allowed: params, name, "
                    f"{', '.join(self.defaults)})"
                )
            _check_options({**self.defaults, **param_group})
        super().add_param_group(param_group)
        for param in self.param_groups[-1]["params"]:
            if param.dtype not in _DTYPES:
                self.param_groups.pop()
                raise TypeError(
                    f"LaProp cannot optimize a parameter of dtype {param.dtype} "
                    f"(allowed: {', '.join(str(d).removeprefix('torch.') for d in _DTYPES)})"
                )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plans = {}
        for group in self.param_groups:
            for key, default in self.defaults.items():
                group.setdefault(key, default)
            for param in group["params"]:
                kept = self.state.get(param)
                if isinstance(kept, _Kept):
                    self.state[param] = {
                        key: _place(key, value, param, group) for key, value in kept.state.items()
                    }

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Load a state_dict of LaProp, bit for bit, or one of Adam or AdamW (see the class).

        Args:
            state_dict: What ``state_dict()`` returned; it is copied, not aliased.

        Raises:
            ValueError: The groups do not fit this optimizer's, or the state is of another kind.
        """
        # torch would cast float32 averages of 16-bit parameters to 16 bits. As the last hook before
        # the cast, _keep wraps them so that they pass through; __setstate__ unwraps them.
        handle = self.register_load_state_dict_pre_hook(_keep)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()

    def _init_group(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        exp_avgs: list[Tensor],
        exp_avg_sqs: list[Tensor],
        max_exp_avg_sqs: list[Tensor],
        exp_avg_grads: list[Tensor],
        master_params: list[Tensor],
        state_steps: list[Tensor],
        exp_avg_weights: list[Tensor],
        exp_avg_sq_weights: list[Tensor],
    ) -> bool:
        """Append what has a gradient to the lists; torch.compile calls this while it traces."""
        has_complex = False
        for param in group["params"]:
            if param.grad is None:
                continue
            if param.grad.is_sparse:
                raise RuntimeError(
                    "LaProp does not support sparse gradients: the gradient of a parameter of "
                    f"shape {tuple(param.shape)} is sparse (use sparse=False in its layer)"
                )
            has_complex |= param.is_complex()
            state = self.state[param]

            def average(key: str, state: Any = state, param: Tensor = param) -> Tensor:
                # One by one, since a group's options may have been switched on meanwhile.
                if key not in state:
                    state[key] = torch.zeros_like(
                        param, dtype=state_dtype(param), memory_format=torch.preserve_format
                    ).detach()
                return cast(Tensor, state[key])

            def scalar(key: str, state: Any = state, param: Tensor = param) -> Tensor:
                if key not in state:
                    state[key] = torch.zeros((), dtype=_scalar_dtype(key))
                # On the CPU, where reading it costs nothing, unless the step must not be read.
                # torch.compile moves step, and only step, to the device: the others follow it.
                moved = _scalars_on_device(param, group)
                state[key] = state[key].to(param.device if moved else state["step"].device)
                return cast(Tensor, state[key])

            params.append(param)
            grads.append(param.grad)
            state_steps.append(scalar("step"))
            exp_avgs.append(average("exp_avg"))
            exp_avg_weights.append(scalar("exp_avg_weight"))
            exp_avg_sqs.append(average("exp_avg_sq"))
            exp_avg_sq_weights.append(scalar("exp_avg_sq_weight"))
            if group["amsgrad"]:
                max_exp_avg_sqs.append(average("max_exp_avg_sq"))
            if group["centered"]:
                exp_avg_grads.append(average("exp_avg_grad"))
            if param.dtype in LOW_PRECISION and group["low_precision"] == "master":
                if "master_param" not in state:
                    state["master_param"] = param.detach().to(torch.float32, copy=True)
                master_params.append(state["master_param"])
        return has_complex

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether GradScaler leaves unscaling and skipping to the step, which then saves a wait."""
        kernels = (
            _kernel(param, group)
            for group in self.param_groups
            if group["fused"]
            for param in group["params"]
        )
        return any(kernel is not None and kernel.scalars_on_device for kernel in kernels)

    def _fused_step(
        self, index: int, grad_scale: Tensor | None = None, found_inf: Tensor | None = None
    ) -> bool:
        """Make the step of a group with a kernel; return False where none can."""
        group = self.param_groups[index]
        plan = self._plans.get(index)
        if plan is None or not plan.fits(group, self.state):
            self._plans.pop(index, None)
            first = next((param for param in group["params"] if param.grad is not None), None)
            if first is None:
                return True  # without gradients there is nothing to do
            kernel = _kernel(first, group)
            if kernel is None:
                return False
            self._init_group(group, [], [], [], [], [], [], [], [], [], [])
            try:
                plan = self._plans[index] = kernel(group, self.state)
            except Unsuited:
                return False
        if plan.scalars_on_device:
            self._accelerator_graph_capture_health_check()
        return plan.step(group, grad_scale, found_inf)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @_traced
    @_use_grad_for_differentiable
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make one step.

        Args:
            closure: Evaluates the model and its gradients anew, and returns the loss.

        Returns:
            What the closure returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        # Given by GradScaler.step for as long as it lasts.
        grad_scale: Tensor | None = getattr(self, "grad_scale", None)
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        for index, group in enumerate(self.param_groups):
            if not torch.compiler.is_compiling() and self._fused_step(index, grad_scale, found_inf):
                continue
            self._accelerator_graph_capture_health_check()
            if found_inf is not None and found_inf.item():
                continue
            params: list[Tensor] = []
            grads: list[Tensor] = []
            exp_avgs: list[Tensor] = []
            exp_avg_sqs: list[Tensor] = []
            max_exp_avg_sqs: list[Tensor] = []
            exp_avg_grads: list[Tensor] = []
            master_params: list[Tensor] = []
            state_steps: list[Tensor] = []
            exp_avg_weights: list[Tensor] = []
            exp_avg_sq_weights: list[Tensor] = []
            beta1, beta2 = group["betas"]

            has_complex = self._init_group(
                group,
                params,
                grads,
                exp_avgs,
                exp_avg_sqs,
                max_exp_avg_sqs,
                exp_avg_grads,
                master_params,
                state_steps,
                exp_avg_weights,
                exp_avg_sq_weights,
            )
            if grad_scale is not None:
                torch._foreach_mul_(grads, 1 / grad_scale.item())
            laprop(
                params,
                grads,
                exp_avgs,
                exp_avg_sqs,
                max_exp_avg_sqs,
                exp_avg_grads,
                master_params,
                state_steps,
                exp_avg_weights,
                exp_avg_sq_weights,
                has_complex=has_complex,
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                eps=group["eps"],
                weight_decay=group["weight_decay"],
                amsgrad=group["amsgrad"],
                centered=group["centered"],
                centered_warmup=group["centered_warmup"],
                decay_by_lr=group["decay_by_lr"],
                eps_in_sqrt=group["eps_in_sqrt"],
                lr_weighted_correction=group["lr_weighted_correction"],
                low_precision=group["low_precision"],
                maximize=group["maximize"],
                foreach=group["foreach"],
                fused=group["fused"],
                capturable=group["capturable"],
                differentiable=group["differentiable"],
            )
        return loss


def _check_options(options: dict[str, Any]) -> None:
    """Refuse what is out of range, in torch.optim.Adam's words and with what is allowed."""

    def number(name: str, value: Any, low: float, high: float, what: str, allowed: str) -> None:
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(
                    f"Tensor {name} must be 1-element, but its shape is {tuple(value.shape)}"
                )
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"Invalid {what}: {value!r} (allowed: a number, {allowed})")
        if not low <= value < high:
            raise ValueError(f"Invalid {what}: {value} (allowed: {allowed})")

    number("lr", options["lr"], 0.0, math.inf, "learning rate", "0 <= lr < inf")
    betas = options["betas"]
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise ValueError(f"Invalid betas: {betas!r} (allowed: two values, (mu, nu))")
    if isinstance(betas[0], Tensor) != isinstance(betas[1], Tensor):
        raise ValueError(f"betas must be either both floats or both Tensors, but are {betas}")
    for i in (0, 1):
        number(f"betas[{i}]", betas[i], 0.0, 1.0, f"beta parameter at index {i}", "0 <= beta < 1")
    for key, what in (("eps", "epsilon value"), ("weight_decay", "weight_decay value")):
        if isinstance(options[key], Tensor):
            raise TypeError(f"Invalid {what}: {options[key]} (allowed: a float, {key} >= 0)")
        number(key, options[key], 0.0, math.inf, what, f"0 <= {key} < inf")
    if options["weight_decay"] > 1 and not options["decay_by_lr"]:
        raise ValueError(
            f"Invalid weight_decay value: {options['weight_decay']} (allowed: weight_decay <= 1 "
            "with decay_by_lr=False, where the weights are multiplied by 1 - weight_decay)"
        )
    warmup = options["centered_warmup"]
    if not isinstance(warmup, int) or isinstance(warmup, bool) or warmup < 0:
        raise ValueError(f"Invalid centered_warmup: {warmup!r} (allowed: an integer >= 0)")
    if options["low_precision"] not in _ROUNDINGS:
        raise ValueError(
            f"Invalid low_precision: {options['low_precision']!r} "
            f"(allowed: {', '.join(_ROUNDINGS)})"
        )
    flags = ("amsgrad", "centered", "decay_by_lr", "eps_in_sqrt", "lr_weighted_correction")
    for key in (*flags, "maximize", "capturable", "differentiable", "foreach", "fused"):
        if not isinstance(options[key], bool) and (
            key not in ("foreach", "fused") or options[key] is not None
        ):
            raise TypeError(f"Invalid {key}: {options[key]!r} (allowed: True or False)")
    if options["fused"] and options["differentiable"]:
        raise RuntimeError("`fused` does not support `differentiable`")
    if options["fused"] and options["foreach"]:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")


def _kernel(param: Tensor, group: dict[str, Any]) -> type[Plan] | None:
    """Return the kernel that a group's options ask for where the parameter is, None without one."""
    fused = group["fused"]
    if fused is None:
        fused = group["foreach"] is None and param.device.type == "cpu"
    if not fused or group["differentiable"]:
        return None
    kernel = kernel_for(param.device.type)
    if kernel is None or (group["capturable"] and not kernel.scalars_on_device):
        return None
    return kernel


def _scalars_on_device(param: Tensor, group: dict[str, Any]) -> bool:
    """Return whether step and the sums of weights are kept where the parameter is."""
    if group["capturable"]:
        return True
    kernel = _kernel(param, group) if group["fused"] else None
    return kernel is not None and kernel.scalars_on_device


def _scalar_dtype(key: str) -> torch.dtype:
    # float64, since it is the weights' complement 1 - c that decays over thousands of steps.
    return _get_scalar_dtype() if key == "step" else torch.float64


_SCALARS = ("step", "exp_avg_weight", "exp_avg_sq_weight")


def _place(key: str, value: Any, param: Tensor, group: dict[str, Any]) -> Any:
    """Return a copy of a loaded value with the dtype and on the device that the step expects."""
    if key in _SCALARS:
        device = param.device if _scalars_on_device(param, group) else torch.device("cpu")
        scalar = torch.as_tensor(value, dtype=_scalar_dtype(key))
        return scalar.detach().to(device=device, dtype=_scalar_dtype(key), copy=True)
    if isinstance(value, Tensor):
        return value.detach().to(device=param.device, dtype=state_dtype(param), copy=True)
    return value


def _keep(optimizer: Optimizer, state_dict: StateDict) -> StateDict:
    """Hook before loading: recognise whose state it is, and keep it from being cast."""
    adam = {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
    groups = state_dict["param_groups"]
    states: dict[Any, Any] = state_dict["state"]
    if all("lr_weighted_correction" in group for group in groups):
        kept = {k: _Kept(v) if isinstance(v, dict) else v for k, v in states.items()}
        return {**state_dict, "state": kept}

    keys = {key for state in states.values() for key in state}
    if not all("betas" in group for group in groups) or (keys and not {"step"} < keys <= adam):
        raise ValueError(
            "LaProp cannot load this state_dict: its state is neither LaProp's nor Adam's, "
            f"it holds {', '.join(sorted(map(str, keys))) or 'nothing'}"
        )
    kept = {}
    for group in groups:
        nu = float(group["betas"][1])
        for k in group["params"]:
            if k in states:
                state = {key: value for key, value in states[k].items() if key != "exp_avg"}
                # 1 - nu^t without the cancellation for nu near 1
                weight = -math.expm1(float(state["step"]) * math.log(nu)) if nu > 0 else 1.0
                kept[k] = _Kept({**state, "exp_avg_sq_weight": weight})
    if len(groups) == len(optimizer.param_groups):  # otherwise the base class refuses it
        groups = [
            {**ours, "params": theirs["params"]}
            for ours, theirs in zip(optimizer.param_groups, groups, strict=True)
        ]
    return {**state_dict, "state": kept, "param_groups": groups}


def _exact(x: Scalar, device: torch.device) -> Scalar:
    """Return a hyper-parameter in float64: a 0-dimensional tensor if it is one, or in a graph.

    In a graph, since torch.compile bakes a float that changes into foreach calls as a constant.
    """
    if isinstance(x, Tensor):
        return _to_scalar(x).to(torch.float64)
    if torch.compiler.is_compiling():
        return torch.scalar_tensor(x, dtype=torch.float64, device=device)
    return x


def _quotient(a: Scalar, b: Scalar) -> Scalar:
    """Return a / b, and 0 for 0 / 0."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return torch.where(torch.as_tensor(b == 0), 0.0, a / b)
    return a / b if b != 0 else 0.0


def _advance(
    step: Tensor,
    weight: Tensor,
    sq_weight: Tensor,
    *,
    lr: Scalar,
    beta1: Scalar,
    beta2: Scalar,
    lr_weighted_correction: bool,
    as_tensors: bool,
) -> tuple[Scalar, Scalar, Scalar, Scalar]:
    """Count one step of one parameter, in place, in float64.

    Returns:
        step, the new count; keep and gain of ``exp_avg = keep * exp_avg + gain * u``; c_n. Floats,
        unless ``as_tensors`` (which never waits for a device).
    """
    step += 1
    old_weight: Scalar = weight.clone() if as_tensors else weight.item()
    old_sq_weight: Scalar = sq_weight.clone() if as_tensors else sq_weight.item()
    new_weight = beta1 * old_weight + (1 - beta1) * (lr if lr_weighted_correction else 1.0)
    new_sq_weight = beta2 * old_sq_weight + (1 - beta2)
    for state, new in ((weight, new_weight), (sq_weight, new_sq_weight)):
        if isinstance(new, Tensor):
            state.copy_(new)
        else:
            state.fill_(new)
    # The average u weighted by mu^(t-s) lr_s, of which exp_avg_weight is the sum of weights. An lr
    # of 0 has weight 0, and the quotients do not depend on the scale of lr.
    keep = _quotient(beta1 * old_weight, new_weight)
    gain = _quotient((1 - beta1) * lr, new_weight)
    return step.clone() if as_tensors else step.item(), keep, gain, new_sq_weight


def _final(
    lr: Scalar, weight_decay: float, decay_by_lr: bool, lr_weighted_correction: bool
) -> tuple[Scalar, Scalar]:
    """Return scale and decay in ``param = (param - scale * exp_avg) * decay``; 0, 1 for lr = 0."""
    if isinstance(lr, Tensor):
        moves = (lr != 0).to(lr.dtype)
        decay = 1 - (lr if decay_by_lr else moves) * weight_decay if weight_decay != 0 else 1.0
        return lr if lr_weighted_correction else moves, decay
    if lr == 0:
        return 0.0, 1.0
    return lr if lr_weighted_correction else 1.0, 1 - weight_decay * (lr if decay_by_lr else 1.0)


def _correction(c_n: Scalar, eps_in_sqrt: bool) -> Scalar:
    """Return the factor that corrects the bias of n or, by default, of its root."""
    if eps_in_sqrt:
        return 1 / c_n
    return 1 / (c_n.sqrt() if isinstance(c_n, Tensor) else math.sqrt(c_n))


def _root_floor(dtype: torch.dtype) -> float:
    """Below this g**2 is denormal: the least value that the denominator may take."""
    return float(torch.finfo(dtype).tiny ** 0.5)


def _single_tensor_laprop(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    max_exp_avg_sqs: list[Tensor],
    exp_avg_grads: list[Tensor],
    state_steps: list[Tensor],
    exp_avg_weights: list[Tensor],
    exp_avg_sq_weights: list[Tensor],
    *,
    lr: Scalar,
    beta1: Scalar,
    beta2: Scalar,
    eps: float,
    weight_decay: float,
    amsgrad: bool,
    centered: bool,
    centered_warmup: int,
    decay_by_lr: bool,
    eps_in_sqrt: bool,
    lr_weighted_correction: bool,
    maximize: bool,
    as_tensors: bool,
    differentiable: bool,
) -> None:
    scale, decay = _final(lr, weight_decay, decay_by_lr, lr_weighted_correction)

    def old(tensor: Tensor) -> Tensor:
        # Autograd must find what it saved as it was, although the state is changed in place.
        return tensor.clone() if differentiable else tensor

    for i, param in enumerate(params):
        grad = -grads[i] if maximize else grads[i]
        exp_avg, exp_avg_sq = exp_avgs[i], exp_avg_sqs[i]
        step, keep, gain, c_n = _advance(
            state_steps[i],
            exp_avg_weights[i],
            exp_avg_sq_weights[i],
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            lr_weighted_correction=lr_weighted_correction,
            as_tensors=as_tensors,
        )

        if isinstance(beta2, Tensor):
            exp_avg_sq.copy_(old(exp_avg_sq) * beta2 + grad * grad * (1 - beta2))
        else:
            exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)

        second = old(exp_avg_sq)
        warm: bool | Tensor = True
        if centered:
            mean = exp_avg_grads[i]
            if isinstance(beta2, Tensor):
                mean.copy_(old(mean) * beta2 + grad * (1 - beta2))
            else:
                mean.mul_(beta2).add_(grad, alpha=1 - beta2)
            warm = step > centered_warmup
            if warm is not False:
                # n >= mean^2 is exact, but does not survive rounding.
                variance = (second - old(mean).square()).clamp_(min=0)
                second = torch.where(warm, variance, second) if warm is not True else variance
        if amsgrad and warm is not False:
            # As in the authors' code, uncentered moments do not enter a centered maximum.
            previous = old(max_exp_avg_sqs[i])
            maximum = torch.maximum(previous, second)
            second = torch.where(warm, maximum, second) if warm is not True else maximum
            max_exp_avg_sqs[i].copy_(
                torch.where(warm, maximum, previous) if warm is not True else maximum
            )

        correction = _correction(c_n, eps_in_sqrt)
        if eps_in_sqrt:
            denom = (second * correction).add_(eps).sqrt_()
        else:
            denom = (second.sqrt() * correction).add_(eps)
        floor = _root_floor(denom.dtype)
        if eps < floor:
            denom = denom.clamp(min=floor)

        if as_tensors:
            exp_avg.copy_(old(exp_avg) * keep + grad / denom * gain)
            param.copy_((old(param) - old(exp_avg) * scale) * decay)
        else:
            exp_avg.mul_(keep).addcdiv_(grad, denom, value=cast(float, gain))
            if scale != 0:
                param.add_(exp_avg, alpha=cast(float, -scale))
            if decay != 1:
                param.mul_(decay)


def _foreach_laprop(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    max_exp_avg_sqs: list[Tensor],
    exp_avg_grads: list[Tensor],
    state_steps: list[Tensor],
    exp_avg_weights: list[Tensor],
    exp_avg_sq_weights: list[Tensor],
    *,
    lr: Scalar,
    beta1: Scalar,
    beta2: Scalar,
    eps: float,
    weight_decay: float,
    amsgrad: bool,
    centered: bool,
    centered_warmup: int,
    decay_by_lr: bool,
    eps_in_sqrt: bool,
    lr_weighted_correction: bool,
    maximize: bool,
    as_tensors: bool,
    differentiable: bool,
) -> None:
    if differentiable:
        raise RuntimeError("`foreach` does not support `differentiable`")
    scale, decay = _final(lr, weight_decay, decay_by_lr, lr_weighted_correction)
    # Lists of tensors of one device and dtype each; scalars stay out of this, as theirs differ.
    by_device_and_dtype = Optimizer._group_tensors_by_device_and_dtype(
        [cast(list[Tensor | None], params)], with_indices=True
    )
    for _, indices in by_device_and_dtype.values():

        def those(tensors: list[Tensor], indices: list[int] = indices) -> list[Tensor]:
            return [tensors[i] for i in indices]

        group_params, group_grads, group_exp_avgs = those(params), those(grads), those(exp_avgs)
        group_exp_avg_sqs = those(exp_avg_sqs)
        if maximize:
            group_grads = list(torch._foreach_neg(group_grads))
        advanced = [
            _advance(
                state_steps[i],
                exp_avg_weights[i],
                exp_avg_sq_weights[i],
                lr=lr,
                beta1=beta1,
                beta2=beta2,
                lr_weighted_correction=lr_weighted_correction,
                as_tensors=as_tensors,
            )
            for i in indices
        ]
        steps, keeps, gains, c_ns = (list(scalars) for scalars in zip(*advanced, strict=True))

        like = group_params[0]

        def local(x: Scalar, like: Tensor = like) -> Any:
            # foreach kernels want tensors of the device and dtype of the lists.
            if isinstance(x, Tensor):
                return x.to(device=like.device, dtype=like.dtype, non_blocking=True)
            return x

        def common(x: Scalar, count: int = len(indices)) -> Any:
            # A list, as foreach of a list and one tensor reads its value, which breaks a graph.
            return [local(x)] * count if isinstance(x, Tensor) else x

        nu, nu_complement = common(beta2), common(1 - beta2)
        keeps, gains = [local(keep) for keep in keeps], [local(gain) for gain in gains]

        torch._foreach_mul_(group_exp_avg_sqs, nu)
        if isinstance(beta2, Tensor):
            squares = torch._foreach_mul(group_grads, group_grads)
            torch._foreach_mul_(squares, nu_complement)
            torch._foreach_add_(group_exp_avg_sqs, squares)
        else:
            torch._foreach_addcmul_(group_exp_avg_sqs, group_grads, group_grads, nu_complement)

        # The second moments that divide; what is replaced below is replaced in this list only.
        seconds = list(group_exp_avg_sqs)
        warm: list[Any] = [True] * len(indices)
        if centered:
            means = those(exp_avg_grads)
            torch._foreach_mul_(means, nu)
            if isinstance(beta2, Tensor):
                torch._foreach_add_(means, torch._foreach_mul(group_grads, nu_complement))
            else:
                torch._foreach_add_(means, group_grads, alpha=nu_complement)
            warm = [step > centered_warmup for step in steps]
            variances = list(torch._foreach_sub(seconds, torch._foreach_mul(means, means)))
            torch._foreach_clamp_min_(variances, 0)
            seconds = _where(warm, variances, seconds)
        if amsgrad:
            maxima = those(max_exp_avg_sqs)
            torch._foreach_maximum_(maxima, _where(warm, seconds, maxima))
            seconds = _where(warm, maxima, seconds)

        corrections = [local(_correction(c_n, eps_in_sqrt)) for c_n in c_ns]
        if eps_in_sqrt:
            denoms = torch._foreach_mul(seconds, corrections)
            torch._foreach_add_(denoms, common(_exact(eps, like.device)))
            torch._foreach_sqrt_(denoms)
        else:
            denoms = torch._foreach_sqrt(seconds)
            torch._foreach_mul_(denoms, corrections)
            torch._foreach_add_(denoms, common(_exact(eps, like.device)))
        floor = _root_floor(like.dtype)
        if eps < floor:
            torch._foreach_clamp_min_(denoms, floor)

        torch._foreach_mul_(group_exp_avgs, keeps)
        if as_tensors:
            normalised = torch._foreach_div(group_grads, denoms)
            torch._foreach_mul_(normalised, gains)
            torch._foreach_add_(group_exp_avgs, normalised)
        else:
            torch._foreach_addcdiv_(group_exp_avgs, group_grads, denoms, gains)

        if as_tensors:
            steps_taken = torch._foreach_mul(group_exp_avgs, common(scale))
            torch._foreach_sub_(group_params, steps_taken)
        elif scale != 0:
            torch._foreach_add_(group_params, group_exp_avgs, alpha=cast(float, -scale))
        if isinstance(decay, Tensor) or decay != 1:
            torch._foreach_mul_(group_params, common(decay))


def _where(conditions: list[Any], a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
    """Choose between tensors one by one; no operation where the conditions are on the host."""
    return [
        torch.where(c, x, y) if isinstance(c, Tensor) else (x if c else y)
        for c, x, y in zip(conditions, a, b, strict=True)
    ]


def _stochastic_rounding(source: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float32 to one of its two neighbours in a 16-bit dtype, right in the mean.

    A number of that dtype, inf and NaN stay what they are.
    """
    dropped = 16 if dtype == torch.bfloat16 else 13  # bits of the float32 mantissa
    noise = torch.randint_like(source, 1 << dropped, dtype=torch.int32)
    # As integers, floats of a sign are ordered by magnitude: add noise below the cut, then cut.
    rounded = ((source.view(torch.int32) + noise) & -(1 << dropped)).view(torch.float32)
    if dtype == torch.float16:
        # Below 2**-14 float16 has a fixed spacing, 2**-24, which cuts further up.
        fixed = torch.floor(source * 2.0**24 + noise * 2.0**-dropped) * 2.0**-24
        rounded = torch.where(source.abs() < 2.0**-14, fixed, rounded)
    return torch.where(source.isfinite(), rounded, source).to(dtype)


def _widen(
    params: list[Tensor], grads: list[Tensor], master_params: list[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Put float32 in the place of 16-bit parameters; return these, each with what replaced it."""
    narrow = []
    masters = iter(master_params)
    for i, param in enumerate(params):
        if param.dtype not in LOW_PRECISION:
            continue
        if master_params:
            wide = next(masters)
            # A weight that is not the rounded copy was changed from outside: that one counts.
            wide.copy_(torch.where(wide.to(param.dtype) == param, wide, param.to(wide.dtype)))
        else:
            wide = param.to(torch.float32)
        narrow.append((param, wide))
        params[i] = wide
        grads[i] = grads[i].to(torch.float32)
    return narrow


@_disable_dynamo_if_unsupported(single_tensor_fn=_single_tensor_laprop)
def laprop(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    max_exp_avg_sqs: list[Tensor],
    exp_avg_grads: list[Tensor],
    master_params: list[Tensor],
    state_steps: list[Tensor],
    exp_avg_weights: list[Tensor],
    exp_avg_sq_weights: list[Tensor],
    *,
    has_complex: bool,
    lr: float | Tensor,
    beta1: float | Tensor,
    beta2: float | Tensor,
    eps: float,
    weight_decay: float,
    amsgrad: bool,
    centered: bool,
    centered_warmup: int,
    decay_by_lr: bool,
    eps_in_sqrt: bool,
    lr_weighted_correction: bool,
    low_precision: str,
    maximize: bool,
    foreach: bool | None,
    fused: bool | None,
    capturable: bool,
    differentiable: bool,
) -> None:
    """Make one step on lists of tensors, in place; see :class:`LaProp` for all arguments.

    ``max_exp_avg_sqs``, ``exp_avg_grads`` and ``master_params`` (one for each 16-bit parameter)
    are empty where their option is off. The lists themselves are used up.
    """
    if not params:
        return
    tensor_options = any(isinstance(x, Tensor) for x in (lr, beta1, beta2))
    if foreach is None and fused is None:
        _, foreach = _default_to_fused_or_foreach(params, differentiable, use_fused=False)
        foreach = foreach and (capturable or not tensor_options)

    compiling = torch.compiler.is_compiling()
    if capturable and not compiling:
        devices = _get_capturable_supported_devices()
        if any(param.device.type not in devices for param in params):
            raise RuntimeError(
                "If capturable=True, params and state_steps must be on supported devices: "
                f"{', '.join(devices)}"
            )
    if tensor_options and not capturable and not compiling:
        # The scalars of the state are on the CPU; only a tensor on a device has to be waited for.
        lr, beta1, beta2 = (x.cpu() if isinstance(x, Tensor) else x for x in (lr, beta1, beta2))
    device = state_steps[0].device
    lr, beta1, beta2 = (_exact(x, device) for x in (lr, beta1, beta2))

    narrow = _widen(params, grads, master_params)
    if has_complex:
        grads[:] = [grad.resolve_conj() for grad in grads]
        averages = [exp_avgs, exp_avg_sqs, max_exp_avg_sqs, exp_avg_grads]
        _view_as_real(params, grads, *(tensors for tensors in averages if tensors))

    # The kernels are LaProp.step's; where they cannot be used, foreach is what comes closest.
    implementation = _foreach_laprop if foreach or fused else _single_tensor_laprop
    implementation(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        max_exp_avg_sqs,
        exp_avg_grads,
        state_steps,
        exp_avg_weights,
        exp_avg_sq_weights,
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        weight_decay=weight_decay,
        amsgrad=amsgrad,
        centered=centered,
        centered_warmup=centered_warmup,
        decay_by_lr=decay_by_lr,
        eps_in_sqrt=eps_in_sqrt,
        lr_weighted_correction=lr_weighted_correction,
        maximize=maximize,
        as_tensors=capturable
        or differentiable
        or compiling
        or tensor_options
        or device.type != "cpu",  # reading a scalar would wait for the device
        differentiable=differentiable,
    )

    for param, wide in narrow:
        stochastic = low_precision == "stochastic"
        param.copy_(_stochastic_rounding(wide, param.dtype) if stochastic else wide)
