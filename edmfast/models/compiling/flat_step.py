"""A training step as one flat compiled graph: a loss with derivatives inside, and the gradients of that loss.

Energies are trained through their score, force fields through their forces, and critics through a penalty on their
gradient. Such a loss is differentiated twice, which torch.compile refuses (pytorch issue 91469) unless the loss is
written anew with torch.func. `flat_compile` traces the loss with both derivatives for inductor to compile.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edmfast._internal.nested import tensors_in, with_tensors
from edmfast.models.compiling.arguments import structure_of
from edmfast.models.compiling.attributes import MOST_STATES
from edmfast.models.compiling.flat_graph import FlatGraph
from edmfast.models.compiling.traced_loss import Loss, Named, Parameters, Trace


def flat_compile(
    loss_fn: Callable[..., Any],
    params: Parameters,
    *,
    has_aux: bool = False,
    mode: str | None = None,
) -> FlatStep:
    """Return a training step that computes a loss and its gradients by one flat compiled graph.

    The loss may contain derivatives, such as forces, scores and gradient penalties (torch.autograd.grad with
    create_graph=True). The graph is made at the first call. Sizes that change need one more compilation, and then
    no other. Where tracing or compiling fails, one warning names the reason, and the step runs eagerly.

    loss_fn: the loss [] of the arguments of the step. These are tensors, plain values, and lists, tuples and
        dictionaries of both. With a module, `loss_fn(*args)` reads the weights from the module, as in an
        eager loop. With a mapping of tensors, it is called as `loss_fn(params, *args)`.
    params: the module that the loss uses (an `nn.ModuleList` of several), or the tensors by name.
    has_aux: True where loss_fn returns (loss, aux), with tensors in lists, tuples and dictionaries as aux.
    mode: the mode of torch.compile, used on a GPU only.

    Tensors that the loss takes from elsewhere, such as the weights of a teacher, are read at every call and get no
    gradients. Random numbers drawn within the loss differ from those of an eager call.

        step = edmfast.flat_compile(loss_fn, model)
        loss, gradients = step(batch)        # or loss = step.backward(batch), and optimizer.step()

    Raises TypeError for params of another kind.
    """
    return FlatStep(loss_fn, params, has_aux=has_aux, mode=mode)


class FlatStep:
    """A training step by compiled graphs, equal to the eager step up to rounding. `flat_compile` makes it.

    trained: the parameters of a module that get gradients, by name; by default those that require them at a call.
    what, otherwise: what the warning after a failure calls the compilation, and says that happens instead.
    """

    def __init__(
        self,
        loss_fn: Callable[..., Any],
        params: Parameters,
        *,
        has_aux: bool = False,
        mode: str | None = None,
        trained: Mapping[str, Tensor] | None = None,
        what: str = "flat_compile",
        otherwise: str = "the step runs eagerly",
    ) -> None:
        if not isinstance(params, (nn.Module, Mapping)):
            raise TypeError(
                "params must be a module or a mapping of names to tensors, given "
                f"{type(params).__name__}"
            )
        self.loss = Loss(loss_fn, params, has_aux)
        self.trained = trained
        self.what, self.otherwise, self.mode = what, otherwise, mode
        self.states = [self.loss.watch()]
        self.flats: dict[Hashable, tuple[Trace, FlatGraph]] = {}
        self.failed = False

    def __call__(self, *args: Any) -> tuple[Any, ...]:
        """Return the loss [], the gradients by the names of their parameters, and aux where the loss has it.

        The gradient of a parameter that the loss does not use is zero.
        """
        trained, others = self.loss.tensors(self.trained)
        inputs = [tensor.detach() for tensor in tensors_in(args)]

        aux: Any = None

        def eager() -> tuple[Tensor, ...]:
            nonlocal aux
            loss, gradients, aux = self.loss.eager(args, trained, others)
            return loss, *gradients, *tensors_in(aux)

        structure = structure_of(args)
        state = None if self.failed else self._state()
        if self.failed:
            results = eager()
        else:
            key = structure, (*trained,), (*others,), self.loss.modes(), state
            fixed = [tensor.detach() for tensor in (*trained.values(), *others.values())]
            trace, flat = self._flat(key, args, trained, others)
            with torch.no_grad():
                results = flat(fixed, inputs, eager)
            self.failed = self.failed or flat.failed
            aux = trace.aux if aux is None else aux
        loss, *rest = results
        gradients = dict(zip(trained, rest, strict=False))
        if not self.loss.has_aux:
            return loss, gradients
        tensors = iter(rest[len(trained) :])
        return loss, gradients, with_tensors(aux, lambda _: next(tensors))

    def backward(self, *args: Any) -> Any:
        """Add the gradients to the `.grad` of the parameters, as `loss.backward()` does, and return the loss [].

        With has_aux it returns (loss, aux).
        """
        loss, gradients, *aux = self(*args)
        trained, _ = self.loss.tensors(self.trained)
        for name, gradient in gradients.items():
            parameter = trained[name]
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                # in place, since others may hold the tensor
                parameter.grad += gradient
        return (loss, *aux) if aux else loss

    def _flat(
        self, key: Hashable, args: Any, trained: Named, others: Named
    ) -> tuple[Trace, FlatGraph]:
        if key not in self.flats:
            # the trace must not keep the tensors of its first arguments
            template = with_tensors(args, lambda _: torch.empty(0))
            trace = Trace(self.loss, template, [*trained], [*others])
            self.flats[key] = (
                trace,
                FlatGraph(trace, what=self.what, otherwise=self.otherwise, mode=self.mode),
            )
        return self.flats[key]

    def _state(self) -> int:
        """Return the index of the current state of the plain attributes; each state has its own graphs."""
        for number, attributes in enumerate(self.states):
            changed = attributes.change()
            if changed is None:
                return number
        if len(self.states) >= MOST_STATES and not self.failed:
            self.failed = True
            warnings.warn(
                f"{self.what}: the attribute {changed} took more than {MOST_STATES} values, and each value needs "
                f"its own graph: {self.otherwise}",
                stacklevel=3,
            )
        self.states.append(self.loss.watch())
        return len(self.states) - 1
