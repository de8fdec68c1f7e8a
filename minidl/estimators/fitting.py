"""How an estimator drives the training loop: the parts that need to know no estimator."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from minidl.data.batches import Rows
from minidl.errors import DivergenceError
from minidl.evaluation import loss_and_metrics, predict_outputs
from minidl.kernels import Array
from minidl.lbfgs import Minimum, fit_lbfgs
from minidl.losses import Loss
from minidl.model import Sequential
from minidl.optimizers import Optimizer
from minidl.terminal import ProgressBar

NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and "
    "need to be preprocessed."
)


def batch_rows(batch_size: int | str, n_rows: int) -> int:
    """Return the rows of a step: at most n_rows, and 200 at most for "auto"."""
    if isinstance(batch_size, str):
        return min(200, n_rows)
    if batch_size > n_rows:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped",
            stacklevel=2,
        )
    return min(int(batch_size), n_rows)


def hold_out(
    n_samples: int, strata: Array | None, fraction: float, random_state: Any
) -> tuple[Array, Array]:
    """Return the indices of the rows to train on, and of those to validate on."""
    train, held_out = train_test_split(
        np.arange(n_samples), random_state=random_state, test_size=fraction, stratify=strata
    )
    if held_out.size < 2:
        raise ValueError(
            "The validation set is too small. Increase 'validation_fraction' or the size of "
            "your dataset."
        )
    return train, held_out


class RowOrder:
    """The order of the rows in each epoch, each a permutation of the one before it.

    That is how scikit-learn draws it, so that the same `random_state` gives the same order.
    """

    def __init__(self, n_rows: int, random_state: np.random.RandomState | None) -> None:
        self.order = np.arange(n_rows)
        self._random_state = random_state

    def go_on(self, order: Array) -> None:
        """Take over the last order of an earlier fit of the same rows.  Raises ValueError."""
        if order.size != self.order.size:
            raise ValueError(
                f"warm_start='exact' goes on with the same data: before it had {order.size} rows, "
                f"now {self.order.size}"
            )
        self.order = order

    def __call__(self, epoch: int) -> Array:
        """Return the order of the next epoch; without a `random_state` always the same."""
        if self._random_state is not None:
            self.order = self._random_state.permutation(self.order)
        return self.order


def change_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Set the base learning rate of SGD; past steps keep the rate that they were made with."""
    for velocity in optimizer.averages.values():
        velocity *= optimizer.learning_rate / learning_rate
    optimizer.learning_rate = learning_rate


def figures_by_part(loss_scale: float, **parts: Mapping[str, float]) -> dict[str, float]:
    """Return figures under names such as "train_loss"; losses are multiplied by loss_scale."""
    return {
        f"{part}_{name}": value * loss_scale if name == "loss" else value
        for part, measured in parts.items()
        for name, value in measured.items()
    }


def minimise(
    model: Sequential,
    loss_function: Loss,
    rows: Rows,
    held_out: Rows | None,
    *,
    history: list[dict[str, float]],
    loss_scale: float,
    weight_decay: float,
    max_iterations: int,
    max_evaluations: int,
    tolerance: float,
    verbose: bool,
    progress: bool,
) -> Minimum:
    """Train the model by L-BFGS; add the figures of each iteration to the history.

    Raises ValueError where the loss is not finite; warns where it did not converge.
    """
    bar = ProgressBar(total=max_iterations, unit="iterations", leave=True, disable=not progress)

    def after_iteration(iteration: int, loss: float) -> None:
        measured: Mapping[str, float] = {}
        if held_out is not None:
            outputs = predict_outputs(model, held_out.X)
            measured = loss_and_metrics(loss_function, outputs, held_out.y, held_out.sample_weight)
        figures = figures_by_part(loss_scale, train={"loss": loss}, validation=measured)
        history.append({"epoch": len(history) + 1} | figures)
        if verbose:
            print(f"Iteration {iteration}, loss = {loss * loss_scale:.8f}")
        bar.set_description_str(f"loss {loss * loss_scale:.4g}", refresh=False)
        bar.update()

    with bar:
        try:
            found = fit_lbfgs(
                model,
                loss_function,
                rows,
                weight_decay=weight_decay,
                max_iterations=max_iterations,
                max_evaluations=max_evaluations,
                tolerance=tolerance,
                callback=after_iteration,
            )
        except DivergenceError as error:
            raise ValueError(NOT_FINITE) from error
    if not (np.isfinite(model.params).all() and np.isfinite(found.loss)):
        raise ValueError(NOT_FINITE)
    if not found.converged:
        warnings.warn(
            f"lbfgs failed to converge after {found.iterations} iteration(s) "
            f"(status={found.status}):\n{found.message}\n"
            f"Increase max_iter (now {max_iterations}) or max_fun (now {max_evaluations}), "
            "or scale the data.",
            ConvergenceWarning,
            stacklevel=2,
        )
    return found


def trains_in_epochs(estimator: Any) -> bool:
    """Whether an estimator has a `partial_fit`; raise AttributeError where it has not."""
    if estimator.solver == "lbfgs":
        raise AttributeError(
            "partial_fit is only available for stochastic optimizers. "
            f"{estimator.solver} is not stochastic."
        )
    for name in ("ema", "schedule"):
        if getattr(estimator, name) is not None:
            raise AttributeError(
                f"partial_fit does not support {name}: it needs to know how many epochs will come"
            )
    return True
