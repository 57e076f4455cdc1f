"""Print how many launches one step of a run asks of a GPU, beside the network's own and in all, without a GPU.

Command: `python -m bench.gpu.launches [--names] [NAME ...]`.

A step of `smc.sample` is one call of `Run.advance` between two levels in the middle of a run: the move, the
evaluation, the weights, and what the run keeps of each level. A step of training makes a batch, the loss and its
gradients, and an update of Adam and of the average of the weights. Tensors are those of `bench.harness.stand_in`,
and `bench.harness.launches` says what counts as a launch, and which launches are the network's own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch

from bench.harness.launches import Launches
from bench.harness.stand_in import DEVICE, stand_in
from edmfast import smc
from edmfast.analytic import GaussianMixture
from edmfast.distill.batch import BatchMaker
from edmfast.distill.config import DistillConfig
from edmfast.distill.data import TensorData
from edmfast.distill.run import TrainingRun
from edmfast.distill.state import RunState
from edmfast.models import Denoiser, DiT, EnergyModel, ResidualMLP, UNet
from edmfast.models.compiling import flat_graph
from edmfast.smc.compiling import captured
from edmfast.smc.run import Run
from edmfast.targets import Guided, Product, Tempered, Tilted

LEVELS = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25)
MIDDLE = 2
"""The index of the level that the counted step leaves."""


def perceptron(kind: Any = EnergyModel) -> Any:
    """Return a model of points in the plane, with a perceptron inside."""
    return kind(ResidualMLP(2, 16, 2, embedding_width=8))


def mixture() -> GaussianMixture:
    """Return a mixture of two Gaussians in the plane."""
    return GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], [0.15, 0.45], [0.5, 0.5])


def _table(**fields: Any) -> smc.Calibration:
    """Return a calibration of the levels with a kappa for each step."""
    steps = len(LEVELS) - 1
    return smc.Calibration(LEVELS, kappa=(0.5,) * steps, log_weight_sd=(0.1,) * steps, **fields)


@dataclass(frozen=True)
class Step:
    """A step of `smc.sample` that is counted: the target, the shape of a sample, and the options of the run."""

    target: Callable[[], Any]
    shape: tuple[int, ...] = (2,)
    options: dict[str, Any] = field(default_factory=dict)
    sigmas: Any = LEVELS


_ENERGY = {"weights": "energy"}
_IMAGE = (1, 8, 8)
STEPS: dict[str, Step] = {
    "perceptron, ancestral": Step(perceptron, options={"proposal": "ancestral"} | _ENERGY),
    "perceptron, probed": Step(perceptron, options={"proposal": "curvature_matched"} | _ENERGY),
    "perceptron, calibrated": Step(perceptron, sigmas=_table(), options=_ENERGY),
    "perceptron, hybrid above": Step(perceptron, options={"weights": smc.Hybrid(above=0.5)}),
    "perceptron, hybrid below": Step(perceptron, options={"weights": smc.Hybrid(above=3.0)}),
    "perceptron, reversal probed": Step(perceptron, options={"weights": "reversal"}),
    "perceptron, reversal table": Step(
        perceptron, sigmas=_table(probes=(0,) * 5), options={"weights": "reversal"}
    ),
    "perceptron, stratified": Step(
        perceptron, options={"proposal": "ancestral", "resampling": "stratified"} | _ENERGY
    ),
    "perceptron, select": Step(
        perceptron, options={"proposal": "ancestral", "resampling": "select"} | _ENERGY
    ),
    "perceptron, genealogy": Step(
        perceptron,
        options={"proposal": "ancestral", "options": smc.RunOptions(genealogy=True)} | _ENERGY,
    ),
    "superdiff": Step(
        lambda: Product([perceptron(Denoiser), perceptron(Denoiser)]),
        options={"proposal": "superdiff"},
    ),
    "power": Step(lambda: Tempered(perceptron(), 2.0), options={"proposal": "ancestral"} | _ENERGY),
    "product of two, ancestral": Step(
        lambda: Product([perceptron(), perceptron()]), options={"proposal": "ancestral"} | _ENERGY
    ),
    "product of two, probed": Step(lambda: Product([perceptron(), perceptron()]), options=_ENERGY),
    "guided": Step(
        lambda: Guided(perceptron(), perceptron(), 2.0), options={"proposal": "ancestral"} | _ENERGY
    ),
    "two denoisers, score": Step(
        lambda: Product([perceptron(Denoiser), perceptron(Denoiser)]), options={"weights": "score"}
    ),
    "two denoisers, reversal": Step(
        lambda: Product([perceptron(Denoiser), perceptron(Denoiser)]),
        options={"weights": "reversal"},
    ),
    "tilted": Step(
        lambda: Tilted(perceptron(), lambda x0: x0[:, 0], 0.5, ramp=None),
        options={"proposal": "ancestral"},
    ),
    "MALA": Step(perceptron, options={"proposal": "ancestral", "correction": smc.MALA()} | _ENERGY),
    "mixture": Step(mixture, options={"proposal": "ancestral"}),
    "U-Net, ancestral": Step(
        lambda: EnergyModel(UNet(1, (8, 16))), _IMAGE, {"proposal": "ancestral"} | _ENERGY
    ),
    "U-Net, probed": Step(lambda: EnergyModel(UNet(1, (8, 16))), _IMAGE, _ENERGY),
    "DiT, ancestral": Step(
        lambda: EnergyModel(DiT(1, 8, width=16, depth=2, heads=2)),
        _IMAGE,
        {"proposal": "ancestral"} | _ENERGY,
    ),
    "DiT, probed": Step(
        lambda: EnergyModel(DiT(1, 8, width=16, depth=2, heads=2)), _IMAGE, _ENERGY
    ),
}


Machine = Callable[[], AbstractContextManager[None]]
"""A context in which tensors of a CUDA device can be made."""


class _Counted(Exception):
    """The step that is counted has been made, and the rest of the run is not needed."""


def of_step(step: Step, *, compile: bool = False, machine: Machine = stand_in) -> Launches:
    """Return the launches of a step of a run on a machine.

    compile: trace the step as `compile=True` does, and run the graph as it was traced. Its launches are then
    `captured`, and the others are those that a step needs outside the replay. Tensors on the CPU that the trace
    has made count as `constants`: each splits the graph that is captured, and is copied at every step.
    """
    launches, advance = Launches(), Run.advance
    target = step.target()
    backbones = [m.backbone for m in target.modules() if isinstance(m, (EnergyModel, Denoiser))]

    def advance_and_count(run: Run, state: Any) -> None:
        if state.index != MIDDLE:
            advance(run, state)
            return
        with launches.counting():
            advance(run, state)
        raise _Counted

    class Graphs:
        """Repeat steps in place of CUDA graphs, with their launches counted apart."""

        def __init__(self, _: torch.device) -> None: ...

        def warmed_up(self, call: Callable[[], Any]) -> Any:
            return call()

        def captured(self, step: Callable[[], None]) -> Callable[[], None]:
            def replay() -> None:
                with launches.replay():
                    step()

            return replay

    with (
        machine(),
        launches,
        launches.watching(backbones),
        mock.patch.object(Run, "advance", advance_and_count),
        mock.patch.object(flat_graph, "compile_graph", _as_traced(launches)),
        mock.patch.object(captured, "CudaGraphs", Graphs),
    ):
        try:
            _sample(step, target, compile=compile)
        except _Counted:
            return launches
    raise AssertionError("the run ended before the step that is counted")


def _as_traced(launches: Launches) -> Callable[..., Any]:
    """Return a function that takes the place of `compile_graph`, and counts tensors of the CPU in the graphs."""

    def not_compiled(graph: Any, *_: Any) -> Any:
        held = [getattr(graph, n.target) for n in graph.graph.nodes if n.op == "get_attr"]
        if on_host := sum(tensor.device.type == "cpu" for tensor in held):
            launches.constants["in the graph"] += on_host
        return graph

    return not_compiled


def whole_run(step: Step, *, machine: Machine = stand_in) -> smc.Particles:
    """Return the result of a run to its end, with every read of the device answered by some number."""
    target = step.target()
    with machine(), Launches():
        return _sample(step, target)


def _sample(step: Step, target: Any, **options: Any) -> smc.Particles:
    options = {"particles": 16, "populations": 2, **options, **step.options}
    return smc.sample(target.to(DEVICE), step.shape, step.sigmas, **options)


def of_training(*, machine: Machine = stand_in, **settings: Any) -> Launches:
    """Return the launches of one step of distillation of a perceptron. settings: fields of `DistillConfig`."""
    launches, config = Launches(), DistillConfig(batch_size=16, **settings)
    student, teacher = perceptron(), perceptron(Denoiser)
    as_traced = mock.patch.object(flat_graph, "compile_graph", _as_traced(launches))
    with machine(), launches, launches.watching([student.backbone]), as_traced:
        student.to(DEVICE)
        data = TensorData(torch.empty(50, 2, device=DEVICE), None, 0)
        state = RunState(student, [*data.samples.shape], config)
        run = TrainingRun(state, BatchMaker(data, teacher.to(DEVICE), config), None)
        bar = mock.MagicMock()
        run._do_step(bar)  # the first step makes the state of Adam
        with launches.counting():
            run._do_step(bar)
    return launches


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of all steps, or of those with one of the names in theirs."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.launches", description=__doc__)
    parser.add_argument("only", nargs="*", metavar="NAME", help="parts of names of steps")
    parser.add_argument(
        "--names", action="store_true", help="list the operations beside the network"
    )
    options = parser.parse_args(arguments)
    chosen = [n for n in STEPS if not options.only or any(part in n for part in options.only)]
    print("beside    own  total  reads copies constants  step")
    for name in chosen:
        launches = of_step(STEPS[name])
        counts = [launches.beside.total(), launches.own.total(), launches.total]
        counts += [c.total() for c in (launches.reads, launches.copies, launches.constants)]
        print("{:6} {:6} {:6} {:6} {:6} {:9}  {}".format(*counts, name))
        if options.names:
            for kind in ("beside", "reads", "copies", "constants"):
                for operation, count in getattr(launches, kind).most_common():
                    print(f"{count:20} {kind} {operation}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
