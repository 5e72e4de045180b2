"""LaProp as a torch.optim.Optimizer: the class, its options and its step.

The other parts are in :mod:`laprop.options` (what options are allowed), :mod:`laprop.state` (the
state and its loading), :mod:`laprop.arithmetic` and :mod:`laprop.precision` (the step on tensors),
and :mod:`laprop.kernels` (the step in one pass over memory).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import suppress
from operator import attrgetter, is_, itemgetter
from typing import Any, Literal, TypeVar, cast, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT, StateDict, _use_grad_for_differentiable

from laprop.arithmetic import check_capturable, step_rows
from laprop.kernels import Batch, batches, why_not
from laprop.options import (
    OPTIONS,
    check_average,
    check_differentiable,
    check_kinds_of_betas,
    checked,
    checked_group,
    is_rounded_0,
    momentum_of,
    refuse_near_misses,
    warn,
    warn_of_decay,
)
from laprop.precision import Row
from laprop.state import Uncast, check_dtype, complete, kernel_of, row_keys, wrap_states

__all__ = ["LaProp"]

Loss = TypeVar("Loss")
Step = TypeVar("Step", bound=Callable[..., Any])
_grad = attrgetter("grad")
# lr often changes in every step. It is checked in every step, the others only when they change.
_LASTING = tuple(option for option in OPTIONS if option != "lr")
_lasting = itemgetter(*_LASTING)


def _id(group: dict[str, Any]) -> int:
    """Return what tells a group from the others, also if its dict was replaced.

    A group that is gone may have had the same, since the first parameter of a group can be
    replaced, and Python gives the id of an object that is gone to another.
    """
    return id(group["params"][0] if group["params"] else group)


def _traced(step: Step) -> Step:
    """Return the step, hidden from torch.compile in versions of torch that may miscompile it.

    torch 2.11's inductor loses what the step writes into float64 scalars on the CPU, and with it
    the bias corrections. torch 2.14 compiles the step correctly. 2.12 and 2.13 are untested.
    """
    major, minor = (int(number) for number in torch.__version__.split(".")[:2])
    if (major, minor) >= (2, 14):
        return step
    disabled = torch.compiler.disable(step)  # type: ignore[no-untyped-call]

    # The wrapper is needed because older versions of torch compile the function behind a bound
    # method even if torch.compiler.disable was applied to that function.
    @functools.wraps(step)
    def untraced(*args: Any, **kwargs: Any) -> Any:
        return disabled(*args, **kwargs)

    return cast(Step, untraced)


class LaProp(Optimizer):
    r"""LaProp: Adam with the gradient divided by its root mean square before it is averaged.

    ::

        optimizer = LaProp(model.parameters(), lr=4e-4, betas=(0.9, 0.999))
        for x, y in data:
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()

    It takes the arguments of torch.optim.AdamW, ``eps`` and ``weight_decay`` as numbers. Give a
    ``weight_decay`` meant for AdamW together with ``decay_by_lr=True``. Every argument below but
    ``params`` and ``differentiable`` is also an option of a param group. Options may be changed
    between steps, except ``lr_in_momentum`` and ``lr_weighted_correction``, which define what the
    momentum is an average of. A step refuses the values that the constructor refuses, but takes
    betas of which one is a float and one a tensor, which torch's schedulers make. It does not read
    tensors for this check, and a step that torch.compile traces checks nothing.

    .. math::
        n_t &= \nu n_{t-1} + (1-\nu) g_t^2, \qquad
        u_t = g_t / (\sqrt{n_t / c_{n,t}} + \epsilon) \\
        m_t &= \mu m_{t-1} + (1-\mu) \lambda_t u_t, \qquad
        \theta_t = (\theta_{t-1} - m_t / c_{m,t}) (1 - w)

    The symbols are :math:`\lambda` = ``lr``, :math:`(\mu, \nu)` = ``betas``,
    :math:`\epsilon` = ``eps``, :math:`w` = ``weight_decay``. :math:`c_n` is the average of the
    number 1 with the same weights as :math:`n`. For a constant :math:`\nu` it is :math:`1-\nu^t`,
    and it stays correct when :math:`\nu` is scheduled. Source: arXiv 2002.04839, Algorithms 1 to 4
    (sections 2.3, B.3 to B.5). Where the paper and the authors' ``laprop.py`` disagree, the
    defaults follow ``laprop.py``, with one exception: a step with ``lr = 0`` changes no weight. The
    authors trained IWSLT14 and RoBERTa by another file, whose decay (``decay_by_lr=True``) and
    epsilon differ. ``lr_in_momentum=False`` is Algorithm 1 as printed; ``eps_in_sqrt=True,
    lr_weighted_correction=False`` is Algorithm 2 as printed.

    Args:
        params: Parameters, named parameters, or dicts of param groups. A frozen parameter may have
            any dtype.
        lr: Learning rate :math:`\lambda`, >= 0; a float or a one-element tensor. The update is
            close to ``lr`` per step and coordinate, as in Adam. A step with ``lr = 0`` changes no
            weight, whatever the other options; the averages are still updated. A float ``lr`` that
            rounding made slightly negative, as torch's LinearLR with ``end_factor=0`` can, counts
            as 0. So does every negative tensor, because a step does not read a tensor's value.
        betas: :math:`(\mu, \nu)`, decay rates of momentum and second moment, each in [0, 1); both
            floats or both one-element tensors. For any pair the update is bounded, without
            ``centered`` and ``cautious`` (:func:`laprop.bounds.proposition1`). ``nu = 0`` is signed
            SGD with momentum. Very large gradients make n overflow, as in Adam (docs/optimizer.md
            has the sizes).
        eps: Added to the root of the bias-corrected second moment, >= 0. In float32 the default is
            too small to change a root of 3e-8 or more, and large enough to hide the underflow of
            g**2 (\|g\| < 1e-19). With 0 the denominator is bounded below by the root of the
            smallest normal number, so that a gradient of 0 gives the update 0, not 0 / 0.
        weight_decay: :math:`w` in [0, 1], decoupled from the gradient. As in the paper it does
            **not** scale with ``lr``. With ``decay_by_lr`` it may be any number >= 0. A warning is
            given for a thousandth or more per step, and for values most likely meant for AdamW.
        amsgrad: AmsProp (B.4): n is replaced by its maximum so far, before the bias correction.
        centered: Centered LaProp (B.5): n is replaced by n minus the squared average gradient,
            bounded below by 0. Where the gradient hardly changes that is 0 and the update is
            \|g\| / ``eps``, so give an ``eps`` far above the default. Allowed with ``amsgrad``.
        centered_warmup: Steps (of the parameter) before centering begins, an integer >= 0 and below
            2**24.
        agc: Adaptive gradient clipping of each tensor as a whole, as in DreamerV3: the norm of its
            gradient is made at most ``agc`` times its own norm, which counts as at least 1e-3.
            Greater than 0, or None: gradients are not clipped.
        cautious: Leave out the coordinates of an update whose sign is against the gradient's, and
            divide the others by their share in the tensor, which counts as at least 1e-3
            (arXiv 2411.16085).
        decay_by_lr: Multiply the weights by :math:`1 - \lambda w`, as AdamW and the authors'
            fairseq code do, in place of :math:`1 - w`.
        eps_in_sqrt: Divide by :math:`\sqrt{n/c_n + \epsilon}`, as Algorithms 2 to 4 print it.
        lr_in_momentum: Whether :math:`\lambda_t` is a factor of :math:`u_t` in the momentum. With
            False, :math:`m_t` is the average of :math:`u_t` and
            :math:`\theta_t = (\theta_{t-1} - \lambda_t m_t / c_{m,t}) (1 - w)`, where
            :math:`c_m = 1-\mu^t`, as in DreamerV3. The two differ while ``lr`` changes.
        lr_weighted_correction: :math:`c_m` is the average of :math:`\lambda` divided by the present
            :math:`\lambda`, so that a change of ``lr`` applies to the whole momentum at once. With
            False it is :math:`1-\mu^t`: each gradient keeps the learning rate of its own step.
            The two are the same as long as ``lr`` is constant. With ``lr_in_momentum=False`` this
            option has no effect.
        low_precision: How bfloat16 and float16 parameters are stored; their arithmetic is float32
            in any case. ``"master"`` keeps a float32 copy in the state, for 4 bytes per weight. If
            anything but this step changes a weight (also the step of another parameter in the same
            memory), the copy takes over the new value. ``"stochastic"`` rounds at random without
            bias, and needs no memory. ``"nearest"`` rounds to nearest, and loses small updates, as
            Adam does.
        state_dtype: The dtype of the averages. None: float32 for parameters of at most 32 bits,
            else the parameter's. ``torch.bfloat16``, or its name ``"bfloat16"``, which a group
            stores: each average takes two bytes per element and is rounded at random. This needs
            parameters of at most 32 bits. It is refused with ``centered``, because the rounding
            errors would exceed the variance. With ``amsgrad`` the maximum collects rounding errors
            too; with gradients of random sign it grows in each step, and at ``nu`` 0.999 it was 6 %
            too large after 20,000 steps. The state of a bfloat16 weight takes 12 bytes by default,
            8 with ``state_dtype=torch.bfloat16``, and 4, as with torch's AdamW, if
            ``low_precision="stochastic"`` is given too. These random numbers come from torch's
            default generator, which replicas (DDP) must seed with the same number.
        maximize: Maximize the objective instead of minimizing it.
        foreach: Use the implementation on lists of tensors. None: use it as torch does, that is if
            ``fused`` is None too and all parameters are on an accelerator. On a CPU it gives the
            same bits as the loop over tensors. On one thread of our benchmark the loop takes
            0.97 to 1.25 times as long.
        fused: Use the kernel that makes the step in one pass over memory (see below). None: use it
            on the CPU, unless ``foreach`` is given. With True, a warning names once each reason
            why a step is made without it.
        capturable: The step can be captured in a CUDA graph. Scalars are kept on the device.
        differentiable: Autograd runs through the step. It needs ``state_dtype=None``, and
            ``low_precision="nearest"`` if a parameter has 16 bits. The root has derivative 0 at 0.
            At ``lr = 0`` see docs/optimizer.md.

    State, for each parameter:
        * ``step``: scalar, the parameter's steps; float32, or float64 if that is torch's default;
        * ``exp_avg``: :math:`m/c_m` without :math:`\lambda`: the bias-corrected average of u (with
          ``lr_weighted_correction=False``, of :math:`\lambda u`). The bias-corrected form does not
          scale with lr, so it survives a learning rate that goes to 0 and comes back;
        * ``exp_avg_weight``: float64 scalar, the average of :math:`\lambda` (or of the number 1)
          that corrects the bias of ``exp_avg``;
        * ``exp_avg_sq``: n; ``exp_avg_sq_weight``: :math:`c_n`, a float64 scalar;
        * ``max_exp_avg_sq`` (amsgrad), ``exp_avg_grad`` (centered), ``master_param`` (16 bit).

    A param group also holds ``momentum_of``: the values of the two options that may not change,
    with which the steps so far were made. A change is thus refused even if it was made in a
    state_dict or before a copy.

    A state_dict of torch.optim.Adam or AdamW can be loaded. ``step``, ``exp_avg_sq`` and
    ``max_exp_avg_sq`` are taken from it. The momentum starts anew, with its own bias correction,
    because dividing Adam's average of raw gradients by the root could give an unbounded update. A
    state_dict of the authors' LaProp, or of timm's, can be loaded too, and the training goes on
    unchanged (docs/optimizer.md). In both cases this optimizer keeps its own options, including lr.

    The gradient of a 16-bit parameter may be float32 (``param.grad_dtype``). torch.compile needs
    torch 2.14 or later; with an older one the step runs as it is.

    No kernel takes complex or strided parameters; those of a subclass other than DTensor; a
    gradient or state with another memory layout or on another device than the parameter; float32
    gradients of 16-bit parameters; DTensors with ``agc`` or ``cautious``; ``state_dtype`` with
    ``cautious``; ``"stochastic"`` in float16, or on CUDA at all; on the CPU, parameters of one
    dtype two of which share memory; and steps that torch.compile traces. Their step is made without
    a kernel: on lists of tensors with ``fused=True``, else as ``foreach=None`` decides.
    docs/optimizer.md says what the kernels need.

    Raises:
        ValueError: An option is out of its range, or another does not allow it; one of betas is a
            float and the other a tensor; or a key in a param group looks like a misspelt option.
        TypeError: A keyword is unknown, an option is of the wrong type, or a parameter that
            requires a gradient has a dtype other than float16, bfloat16, float32, float64,
            complex64 and complex128 (with ``state_dtype``, other than the first three).
        RuntimeError: Two of ``fused``, ``foreach`` and ``differentiable`` are set.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 4e-4,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-15,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        centered: bool = False,
        centered_warmup: int = 10,
        agc: float | None = None,
        cautious: bool = False,
        decay_by_lr: bool = False,
        eps_in_sqrt: bool = False,
        lr_in_momentum: bool = True,
        lr_weighted_correction: bool = True,
        low_precision: Literal["master", "stochastic", "nearest"] = "master",
        state_dtype: torch.dtype | str | None = None,
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
            "agc": agc,
            "cautious": cautious,
            "decay_by_lr": decay_by_lr,
            "eps_in_sqrt": eps_in_sqrt,
            "lr_in_momentum": lr_in_momentum,
            "lr_weighted_correction": lr_weighted_correction,
            "low_precision": low_precision,
            "state_dtype": state_dtype,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        # For each group by _id its momentum_of, which is one object for each group, and the options
        # but lr as they were last checked.
        self._lasting: dict[int, tuple[Any, tuple[Any, ...]]] = {}
        self._warned: set[str | None] = {None}  # reasons why no kernel is used
        defaults = checked(defaults)
        check_kinds_of_betas(defaults["betas"])
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a param group; options that it does not name are those of the constructor.

        Args:
            param_group: ``params`` and any of the constructor's options. Other keys are kept, since
                other programs may read them.

        Raises:
            ValueError: An option is out of its range, ``differentiable`` is not that of the
                constructor, or a key looks like a misspelt option.
            TypeError: An option is of the wrong type, or a parameter that requires a gradient has a
                dtype that cannot be optimized.
            RuntimeError: Two options exclude each other.
        """
        if not isinstance(param_group, dict):  # the base class has the message
            super().add_param_group(param_group)
            return
        refuse_near_misses(param_group)
        options = checked_group(param_group, self.defaults)
        check_kinds_of_betas(options["betas"])
        warn_of_decay(options)  # before anything changes, as a warning may be raised as an error
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group.update(options, momentum_of=momentum_of(options))
        try:
            for param in group["params"]:
                if param.requires_grad:  # a frozen one, such as of integers, is never stepped
                    check_dtype(param, group)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # A pickled optimizer may lack options that are newer than it.
        arguments = inspect.signature(LaProp).parameters
        for key in OPTIONS:
            default = self.defaults.setdefault(key, arguments[key].default)
            for group in self.param_groups:
                group.setdefault(key, default)
        for group in self.param_groups:
            group.setdefault("momentum_of", momentum_of(group))
            for param in group["params"]:
                loaded = self.state.get(param)
                if isinstance(loaded, Uncast):
                    self.state[param] = loaded.state
        self._lasting = {}  # the next step checks all options
        self._warned = {None}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Load a state_dict of LaProp, bit for bit, or one of Adam or AdamW (see the class).

        Args:
            state_dict: What ``state_dict()`` returned; it is copied, not aliased. Options that its
                groups lack, because they are newer than it, are those of the constructor.

        Raises:
            ValueError: The groups do not fit this optimizer's, the state or an entry of it is of
                another kind, or an option is out of its range. The optimizer is then as it was.
            TypeError: An option is of the wrong type, or does not allow a parameter's dtype.
            RuntimeError: Two options exclude each other.
        """
        # torch would cast float32 averages of 16-bit parameters to 16 bits. As the last hook before
        # the cast, `wrap_states` wraps them so that they pass through; __setstate__ unwraps them.
        handle = self.register_load_state_dict_pre_hook(wrap_states)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()

    def _follow_changes(self, group: dict[str, Any]) -> None:
        """Check lr, and the other options of a group that changed since the last step.

        An lr that a scheduler's rounding errors made negative becomes 0. Options are compared by
        identity, because comparing tensors would wait for their device. If ``centered`` was
        switched, or is off at the first check, its average is dropped, because steps without
        ``centered`` do not update it. If it is on at the first check, its average is a loaded or
        copied one and is kept.

        Raises:
            ValueError: An option is out of its range or missing, or one was changed that defines
                what the momentum is an average of.
            TypeError: An option is of the wrong type.
            RuntimeError: Two options exclude each other.
        """
        try:
            lr, present = group["lr"], _lasting(group)
        except KeyError as error:
            raise ValueError(f"a param group has lost its option {error}") from None
        if (isinstance(lr, float) or not isinstance(lr, Tensor)) and is_rounded_0(
            lr, group.get("initial_lr", self.defaults["lr"])
        ):
            group["lr"] = 0.0
        owner, before = self._lasting.get(_id(group), (None, None))
        if owner is not group.get("momentum_of"):
            before = None  # it is of a group that is gone
        if before is not None and all(map(is_, before, present)):
            group["lr"] = checked(group, ("lr",), read_tensors=False)["lr"]
            return
        changed: list[str] = [*_LASTING]
        if before is not None:
            pairs = zip(_LASTING, before, present, strict=True)
            changed = [key for key, was, now in pairs if was is not now]
        options = checked(group, ("lr", *changed), read_tensors=False)
        check_differentiable(group["differentiable"], self.defaults)
        check_average(group, [self.state.get(param, {}) for param in group["params"]])
        if "centered" in changed and (before is not None or not group["centered"]):
            for param in group["params"]:
                self.state.get(param, {}).pop("exp_avg_grad", None)
        group.update(options)
        self._lasting[_id(group)] = group["momentum_of"], _lasting(group)

    def _init_group(
        self, group: dict[str, Any], tensors: list[Tensor], done: frozenset[int] = frozenset()
    ) -> None:
        """Append the tensors that a step needs to one list, for each parameter with a gradient.

        For each parameter they are in the order of :func:`row_keys`. The list is flat because
        torch.compile calls this method while it traces, and takes only lists of tensors.

        Args:
            group: The group.
            tensors: The list that is appended to.
            done: ``id`` of parameters that are left out.
        """
        for param in group["params"]:
            grad = param.grad
            if grad is None or id(param) in done:
                continue
            state = self.state[param]
            keys = complete(param, grad, state, group)
            tensors += (param, grad, *[state[key] for key in keys])

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether GradScaler leaves unscaling and skipping to the step, which saves a sync."""
        kernels = (
            kernel_of(param, group)
            for group in self.param_groups
            if group["fused"]
            for param in group["params"]
        )
        return any(kernel is not None and kernel.scalars_on_device for kernel in kernels)

    def _check_capture(self) -> None:
        """Warn or raise as torch's own optimizers do about the capture of CUDA graphs."""
        check = getattr(self, "_accelerator_graph_capture_health_check", None)
        (check or self._cuda_graph_capture_health_check)()  # its name in older versions of torch

    def _gather(self, group: dict[str, Any], tensors: list[Tensor]) -> list[Batch]:
        """Complete and check the state of all parameters of a group that have a gradient.

        Args:
            group: The group.
            tensors: The tensors of the parameters that no kernel takes are appended to this list,
                as by :meth:`_init_group`.

        Returns:
            The batches that kernels take. They hold parameters, gradients and state, so that their
            memory exists until the kernel is done even if another thread drops its references.
        """
        present = [*map(_grad, group["params"])]
        grads = [grad for grad in present if grad is not None]
        if not grads:
            return []
        params = group["params"]
        if len(grads) < len(params):
            params = [p for p, grad in zip(params, present, strict=True) if grad is not None]
        found = self._batches(params, grads, group)
        if sum(len(batch.params) for batch in found) < len(params):
            taken = frozenset(id(param) for batch in found for param in batch.params)
            self._init_group(group, tensors, taken)
            check_capturable(tensors, group)
        if tensors or any(batch.kernel.scalars_on_device for batch in found):
            self._check_capture()
        return found

    def _batches(
        self, params: list[Tensor], grads: list[Tensor], group: dict[str, Any]
    ) -> list[Batch]:
        """Return the batches that kernels take.

        If there are any, the state of all other parameters is completed and checked here, so that
        an error is raised before any parameter is changed.
        """
        kernel = kernel_of(params[0], group)
        states = [self.state[param] for param in params]
        found: list[Batch] = []
        if kernel is not None:
            with suppress(KeyError, AttributeError):  # an entry is missing, or is not a tensor
                found = batches(params, grads, states, group, kernel)
            if sum(len(batch.params) for batch in found) == len(params):
                return found
            if kernel.scalars_on_device:
                found = []  # scalars may still be on the host, from steps with other options
        taken = {id(param) for batch in found for param in batch.params}
        others: dict[torch.device, list[int]] = {}
        for i, param in enumerate(params):
            if id(param) not in taken:
                others.setdefault(param.device, []).append(i)
        kernels = [kernel_of(params[rows[0]], group) for rows in others.values()]
        if not found and not any(kernels):
            return []
        for rows in others.values():
            for i in rows:
                complete(params[i], grads[i], states[i], group)
        for rows, kernel in zip(others.values(), kernels, strict=True):
            if kernel is not None:
                found += batches(
                    [params[i] for i in rows],
                    [grads[i] for i in rows],
                    [states[i] for i in rows],
                    group,
                    kernel,
                )
        return found

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], Loss]) -> Loss: ...

    @_traced
    @_use_grad_for_differentiable
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step.

        All param groups are checked before any is stepped, so an error about options, dtypes,
        shapes or missing entries leaves all parameters as they were.

        Args:
            closure: A function that evaluates the model and its gradients anew, and returns the
                loss.

        Returns:
            What the closure returned, or None.

        Raises:
            RuntimeError: A gradient is sparse, or of another shape or dtype than its parameter; or
                two options exclude each other.
            ValueError: A parameter's state was changed so that it cannot be used, or an option was
                set to a value out of its range.
            TypeError: An option was set to a value of the wrong type, or a parameter was converted
                to a dtype that cannot be optimized.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        # GradScaler.step sets found_inf while it calls this method, which may then have to change
        # nothing. A traced step could not decide that.
        if torch.compiler.is_compiling() and getattr(self, "found_inf", None) is not None:
            torch.compiler.disable(self._step_groups)()  # type: ignore[no-untyped-call]
        else:
            self._step_groups()
        return loss

    def _step_groups(self) -> None:
        """Make one step of all groups."""
        compiling = torch.compiler.is_compiling()
        if not compiling:
            for group in self.param_groups:
                self._follow_changes(group)
        grad_scale: Tensor | None = getattr(self, "grad_scale", None)
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        # All groups are checked before any is stepped, so that an error leaves nothing half done.
        work: list[tuple[dict[str, Any], list[Batch], list[Tensor]]] = []
        for group in self.param_groups:
            tensors: list[Tensor] = []
            if compiling:
                self._init_group(group, tensors)
                work.append((group, [], tensors))
            else:
                work.append((group, self._gather(group, tensors), tensors))
        for group, found, tensors in work:
            stepped = [b for b in found if b.kernel.step(b, group, grad_scale, found_inf)]
            if len(stepped) < len(found):
                tensors.clear()  # in the order of the group, since parameters may share memory
                done = frozenset(id(param) for batch in stepped for param in batch.params)
                self._init_group(group, tensors, done)
            if not tensors or (found_inf is not None and found_inf.item()):
                continue
            rows: list[Row] = []
            at = 0
            while at < len(tensors):
                keys = row_keys(tensors[at].dtype, group)
                rows.append(dict(zip(keys, tensors[at : at + len(keys)], strict=True)))
                at += len(keys)
            if group["fused"] and not compiling:
                for reason in {why_not(row["param"], group) for row in rows} - self._warned:
                    self._warned.add(reason)
                    warn(f"LaProp(fused=True) makes some steps without a kernel, because {reason}")
            if grad_scale is not None and rows:
                torch._foreach_mul_([row["grad"] for row in rows], 1 / grad_scale.item())
            step_rows(rows, group)
