"""LaProp as a torch.optim.Optimizer: the class, its options and its step.

The other parts are in :mod:`laprop.options` (what options are allowed), :mod:`laprop.state` (the
state and its loading), :mod:`laprop.arithmetic` (the step on tensors) and :mod:`laprop.kernels`
(the step in one pass over memory).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from operator import attrgetter, itemgetter
from typing import Any, Literal, TypeVar, cast, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT, StateDict, _use_grad_for_differentiable

from laprop.arithmetic import Row, step_rows
from laprop.kernels import Batch, Kernel, batches
from laprop.options import checked, refuse_near_misses, warn_of_decay
from laprop.state import Kept, check_dtype, complete, keep, kernel_of, placed, row_keys

__all__ = ["LaProp"]

Step = TypeVar("Step", bound=Callable[..., Any])
# The options that decide what the state holds, beside its dtypes.
_FORM = ("centered", "lr_in_momentum", "lr_weighted_correction")
_form = itemgetter(*_FORM)

_grad = attrgetter("grad")


def _traced(step: Step) -> Step:
    """Let torch.compile trace a step where it traces it rightly; elsewhere it is called as it is.

    torch 2.11's inductor loses what the step writes into float64 scalars on the CPU, and so the
    bias corrections; 2.14's keeps it. In between nobody looked.
    """
    major, minor = (int(number) for number in torch.__version__.split(".")[:2])
    if (major, minor) >= (2, 14):
        return step
    disabled = torch.compiler.disable(step)  # type: ignore[no-untyped-call]

    # Of a bound method that was disabled itself, older versions of torch compile what is not bound.
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

    It takes what torch.optim.AdamW takes. Give a ``weight_decay`` meant for AdamW together with
    ``decay_by_lr=True``. Every argument below is also an option of a param group, and may be
    changed between steps, except ``lr_in_momentum`` and ``lr_weighted_correction``, which say what
    the momentum is an average of.

    .. math::
        n_t &= \nu n_{t-1} + (1-\nu) g_t^2, \qquad
        u_t = g_t / (\sqrt{n_t / c_{n,t}} + \epsilon) \\
        m_t &= \mu m_{t-1} + (1-\mu) \lambda_t u_t, \qquad
        \theta_t = (\theta_{t-1} - m_t / c_{m,t}) (1 - w)

    The symbols are :math:`\lambda` = ``lr``, :math:`(\mu, \nu)` = ``betas``,
    :math:`\epsilon` = ``eps``, :math:`w` = ``weight_decay``. :math:`c_n` is the same average as
    :math:`n`, of the number 1: :math:`1-\nu^t` for a constant :math:`\nu`, and right when
    :math:`\nu` is scheduled. Source: arXiv 2002.04839, Algorithms 1 to 4 (sections 2.3, B.3 to
    B.5). Where the paper and the authors' code disagree, the defaults follow the code, which made
    the results. ``lr_in_momentum=False`` is Algorithm 1 as printed;
    ``eps_in_sqrt=True, lr_weighted_correction=False`` is Algorithm 2 as printed.

    Args:
        params: Parameters, named parameters, or dicts of param groups. A frozen parameter may have
            any dtype.
        lr: Learning rate :math:`\lambda`, >= 0; a float or a one-element tensor. The update is
            close to ``lr`` per step and coordinate, as in Adam. A step with ``lr = 0`` changes no
            weight, whatever the other options; the averages are still updated.
        betas: :math:`(\mu, \nu)`, decay rates of momentum and second moment, each in [0, 1); both
            floats or both one-element tensors. Any pair is stable. ``nu = 0`` is signed SGD with
            momentum, to the last bit for \|g\| from 2**24 eps (1.7e-8) up to 1.8e19 in float32.
            Above that the square overflows, as in Adam: the weight stays, or becomes NaN at 0.
        eps: Added to the root of the bias-corrected second moment, >= 0. The default is small
            enough not to matter where gradients do (\|g\| > 1e-8) and large enough that the
            underflow of g**2 in float32 (\|g\| < 1e-19) cannot be seen. With 0 the root itself is
            bounded below by the root of the smallest normal number, so that 0 / 0 is 0.
        weight_decay: :math:`w` >= 0, decoupled from the gradient. As in the paper it does **not**
            scale with ``lr``. A warning is given where more than a thousandth of the weights would
            go in each step.
        amsgrad: AmsProp (B.4): n is replaced by its maximum so far, before the bias correction.
        centered: Centered LaProp (B.5): n is replaced by n minus the squared average gradient,
            bounded below by 0. Allowed together with ``amsgrad``.
        centered_warmup: Steps (of the parameter) before centering begins.
        agc: Adaptive gradient clipping of each tensor as a whole, as in DreamerV3: the norm of its
            gradient is made at most ``agc`` times its own norm, which counts as at least 1e-3.
            None: gradients are not clipped.
        cautious: Leave out the coordinates of an update whose sign is against the gradient's, and
            divide the others by their share in the tensor, which counts as at least 1e-3
            (arXiv 2411.16085).
        decay_by_lr: Multiply the weights by :math:`1 - \lambda w`, as AdamW and the authors'
            fairseq code do, in place of :math:`1 - w`.
        eps_in_sqrt: :math:`\sqrt{n/c_n + \epsilon}`, as Algorithms 2 to 4 are printed.
        lr_in_momentum: Whether :math:`\lambda_t` is a factor of :math:`u_t` in the momentum. With
            False, :math:`m_t` is the average of :math:`u_t` and
            :math:`\theta_t = (\theta_{t-1} - \lambda_t m_t / c_{m,t}) (1 - w)`, where
            :math:`c_m = 1-\mu^t`, as in DreamerV3. The two differ while ``lr`` changes.
        lr_weighted_correction: :math:`c_m` is the average of :math:`\lambda` over the present
            :math:`\lambda`, so that a change of ``lr`` applies to the whole momentum at once. With
            False it is :math:`1-\mu^t`: each gradient keeps the learning rate of its own step.
            The two are the same as long as ``lr`` is constant. It is not used with
            ``lr_in_momentum=False``.
        low_precision: What becomes of bfloat16 and float16 parameters, whose arithmetic is float32
            in any case. A step of lr is lost when it is rounded to a weight more than 2**8 (2**11)
            times as large, hence ``"master"``: a float32 copy is kept in the state (4 bytes per
            weight; a weight changed from outside is noticed and taken over). ``"stochastic"``:
            rounding at random, right in the mean, with no memory. ``"nearest"``: plain rounding,
            which stalls as Adam does.
        state_dtype: The dtype of the averages. None: float32 for parameters of at most 32 bits,
            else the parameter's. ``torch.bfloat16``: two bytes for each, rounded at random, for
            parameters of at most 32 bits. bfloat16 training takes 12 bytes per weight by default,
            8 with ``state_dtype=torch.bfloat16``, and 4, as with torch's AdamW, if
            ``low_precision="stochastic"`` is given too.
        maximize: Ascend in place of descending.
        foreach: Use the implementation on lists of tensors. None: as in torch, where ``fused`` is
            None too and all parameters are on an accelerator. On a CPU it gives the same bits as
            the loop over tensors, which is as fast and needs less memory.
        fused: Use the kernel that makes the step in one pass over memory (see below). None: on the
            CPU, unless ``foreach`` is given.
        capturable: The step can be captured in a CUDA graph. Scalars are kept on the device.
        differentiable: Autograd runs through the step. The root has derivative 0 at 0.

    State, for each parameter:
        * ``step``: float32 scalar, steps that this parameter has made;
        * ``exp_avg``: :math:`m/c_m` without :math:`\lambda`: the bias-corrected average of u (with
          ``lr_weighted_correction=False``, of :math:`\lambda u`). Kept corrected, as this form
          has no scale of its own and so survives a learning rate that goes to 0 and comes back;
        * ``exp_avg_weight``: float64 scalar, the average of :math:`\lambda` (of 1) in ``exp_avg``;
        * ``exp_avg_sq``, ``exp_avg_sq_weight``: n and :math:`c_n`, float64 scalar;
        * ``max_exp_avg_sq`` (amsgrad), ``exp_avg_grad`` (centered), ``master_param`` (16 bit).

    A state_dict of torch.optim.Adam or AdamW can be loaded. Taken are ``step``, ``exp_avg_sq`` and
    ``max_exp_avg_sq``. The momentum starts anew, with its own bias correction, as an average of raw
    gradients is none of normalised ones (and their quotient is not bounded). The options, lr among
    them, stay those of this optimizer.

    Random numbers for ``"stochastic"`` and ``state_dtype`` come from torch's default generator.
    Replicas (DDP) must have seeded it alike.

    The kernels take plain dense tensors in float16, bfloat16, float32 and float64 whose gradient is
    laid out in memory as they are. Other parameters of the same group go the way of ``foreach``
    (True with ``fused=True``, else None): complex and DTensor parameters, strided ones, and some
    combinations of options with 16 bits; so do all steps that torch.compile traces. A kernel makes
    no temporaries; ``agc`` and ``cautious`` cost it one more pass each.

    On the CPU the kernel was built if there was a C++ compiler when laprop was installed
    (``laprop.kernels.available()``). It runs on torch's threads, on one thread with versions of
    torch that do not offer them, and its bits do not depend on their number. On x86-64 with AVX2
    and FMA, second moments and counters have the bits of the other implementations. Momentum and
    weights differ by a few units in the last place, as the kernel's square root is correctly
    rounded and torch's (MKL's) is not always.

    On CUDA the kernel is Triton's, which comes with torch's CUDA wheels, for compute capability 7.0
    or more; as in torch it has to be asked for. A step is two launches for each dtype (three where
    some tensors are not aligned); the scalars of the state are on the device. GradScaler leaves
    unscaling and skipping to it, so that nothing waits for the device. With ``capturable=True`` and
    ``lr`` as a tensor on the device it can be captured and scheduled.

    Raises:
        ValueError: A hyper-parameter out of its range, or a key in a param group that looks like a
            misspelt option.
        TypeError: An unknown keyword, or a parameter that requires a gradient of another dtype than
            float16, bfloat16, float32, float64, complex64 and complex128.
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
        agc: float | None = None,
        cautious: bool = False,
        decay_by_lr: bool = False,
        eps_in_sqrt: bool = False,
        lr_in_momentum: bool = True,
        lr_weighted_correction: bool = True,
        low_precision: Literal["master", "stochastic", "nearest"] = "master",
        state_dtype: torch.dtype | None = None,
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
        self._forms: dict[int, tuple[bool, ...]] = {}
        super().__init__(params, checked(defaults))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a param group; options that it does not name are those of the constructor.

        Args:
            param_group: ``params`` and any of the constructor's options. Other keys are kept, for
                the programs that they are meant for.

        Raises:
            ValueError: An option is out of its range, or a key looks like a misspelt option.
            TypeError: A parameter that requires a gradient has a dtype that cannot be optimized.
        """
        if not isinstance(param_group, dict):  # the base class has the message
            super().add_param_group(param_group)
            return
        refuse_near_misses(param_group, self.defaults)
        options = checked({key: param_group.get(key, self.defaults[key]) for key in self.defaults})
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group.update(options)
        try:
            for param in group["params"]:
                if param.requires_grad:  # a frozen one, such as of integers, is never stepped
                    check_dtype(param, group)
        except TypeError:
            self.param_groups.pop()
            raise
        warn_of_decay(group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for key, default in self.defaults.items():
                group.setdefault(key, default)
            for param in group["params"]:
                kept = self.state.get(param)
                if isinstance(kept, Kept):
                    self.state[param] = {
                        key: placed(key, value, param, group) for key, value in kept.state.items()
                    }
        self._forms = {id(group): _form(group) for group in self.param_groups}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Load a state_dict of LaProp, bit for bit, or one of Adam or AdamW (see the class).

        Args:
            state_dict: What ``state_dict()`` returned; it is copied, not aliased.

        Raises:
            ValueError: The groups do not fit this optimizer's, or the state is of another kind.
        """
        # torch would cast float32 averages of 16-bit parameters to 16 bits. As the last hook before
        # the cast, `keep` wraps them so that they pass through; __setstate__ unwraps them.
        handle = self.register_load_state_dict_pre_hook(keep)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()

    def _follow_changes(self, group: dict[str, Any]) -> None:
        """Drop what an option that was switched off would leave to grow stale.

        Raises:
            ValueError: An option was changed that says what the momentum is an average of.
        """
        form = _form(group)
        before = self._forms.get(id(group))
        if before == form:
            return
        states = [self.state[param] for param in group["params"] if param in self.state]
        if before is not None and states:
            for key, was, now in zip(_FORM, before, form, strict=True):
                if key != "centered" and was != now:
                    raise ValueError(
                        f"{key}={now}: cannot be changed after a step (it was {was}), as the "
                        "momentum then is an average of something else"
                    )
            for state in states if before[0] else ():
                state.pop("exp_avg_grad", None)
        self._forms[id(group)] = form

    def _init_group(
        self, group: dict[str, Any], tensors: list[Tensor], done: frozenset[int] = frozenset()
    ) -> None:
        """Append :func:`row_keys` of all that has a gradient to one list.

        torch.compile calls this while it traces, and takes lists of tensors only.

        Args:
            group: The group.
            tensors: The list.
            done: ``id`` of parameters that are left out.
        """
        for param in group["params"]:
            grad = param.grad
            if grad is None or id(param) in done:
                continue
            state = self.state[param]
            complete(param, grad, state, group)
            tensors += (param, grad, *(state[key] for key in row_keys(param.dtype, group)[2:]))

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether GradScaler leaves unscaling and skipping to the step, which then saves a wait."""
        kernels = (
            kernel_of(param, group)
            for group in self.param_groups
            if group["fused"]
            for param in group["params"]
        )
        return any(kernel is not None and kernel.scalars_on_device for kernel in kernels)

    def _check_capture(self) -> None:
        """Warn or raise as torch's own optimizers where a CUDA graph is captured, or could be."""
        check = getattr(self, "_accelerator_graph_capture_health_check", None)
        if check is None:  # its name in older versions of torch
            check = self._cuda_graph_capture_health_check
        check()

    def _kernel_step(
        self, group: dict[str, Any], grad_scale: Tensor | None, found_inf: Tensor | None
    ) -> frozenset[int] | None:
        """Make the step of what a kernel takes of a group.

        The lists hold parameters, gradients and state, so that nothing that another thread drops
        is gone before the kernel is done.

        Returns:
            ``id`` of the parameters that have made their step; None where no other has a gradient.
        """
        present = [*map(_grad, group["params"])]
        grads = [grad for grad in present if grad is not None]
        if not grads:
            return None
        params = group["params"]
        if len(grads) < len(params):
            params = [p for p, grad in zip(params, present, strict=True) if grad is not None]
        kernel = kernel_of(params[0], group)
        if kernel is None:
            return frozenset()
        if kernel.scalars_on_device:
            self._check_capture()
        done = [
            batch.params
            for batch in self._batches(params, grads, group, kernel)
            if kernel.step(batch, group, grad_scale, found_inf)
        ]
        if sum(map(len, done)) == len(params):
            return None
        return frozenset(id(param) for batch in done for param in batch)

    def _batches(
        self, params: list[Tensor], grads: list[Tensor], group: dict[str, Any], kernel: Kernel
    ) -> list[Batch]:
        """Return what the kernel takes; what it leaves is checked before anything is changed."""
        states = [self.state[param] for param in params]
        found: list[Batch] = []
        with suppress(KeyError):  # some state is not there yet
            found = batches(params, grads, states, group, kernel)
        taken = {id(param) for batch in found for param in batch.params}
        if len(taken) == len(params):
            return found
        # On a device the scalars may be on the host still, from steps under other options.
        again = not found or kernel.scalars_on_device
        for param, grad, state in zip(params, grads, states, strict=True):
            if again or id(param) not in taken:
                complete(param, grad, state, group)
        return batches(params, grads, states, group, kernel) if again else found

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

        Raises:
            RuntimeError: A gradient is sparse, or of another shape than its parameter.
            ValueError: A parameter's state was changed so that it cannot be used.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        # Given by GradScaler.step for as long as it lasts.
        grad_scale: Tensor | None = getattr(self, "grad_scale", None)
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            tensors: list[Tensor] = []
            if torch.compiler.is_compiling():
                self._init_group(group, tensors)
            else:
                self._follow_changes(group)
                done = self._kernel_step(group, grad_scale, found_inf)
                if done is None:
                    continue
                self._check_capture()
                if found_inf is not None and found_inf.item():
                    continue
                self._init_group(group, tensors, done)
            rows: list[Row] = []
            at = 0
            while at < len(tensors):
                keys = row_keys(tensors[at].dtype, group)
                rows.append(dict(zip(keys, tensors[at : at + len(keys)], strict=True)))
                at += len(keys)
            if grad_scale is not None and rows:
                torch._foreach_mul_([row["grad"] for row in rows], 1 / grad_scale.item())
            step_rows(rows, group)
        return loss
