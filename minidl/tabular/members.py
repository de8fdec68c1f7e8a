"""The nets of an ensemble: each trained without one fold of the rows, and all packed into one.

A member's number of epochs is chosen on the fold that it has not seen, and its outputs for that
fold are an honest prediction of each row.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import inf

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs
from scipy.linalg import block_diag
from tqdm import tqdm

from minidl.best import EarlyStopping
from minidl.blas import usable_cores
from minidl.data.batches import Rows
from minidl.errors import DivergenceError
from minidl.evaluation import predict_outputs
from minidl.kernels import Array
from minidl.layers.activations import SiLU
from minidl.layers.layer import Layer
from minidl.layers.linear import Linear
from minidl.losses import Loss
from minidl.model import Sequential
from minidl.optimizers import AdamW
from minidl.schedules import Cosine
from minidl.specs import build_layers, weigh
from minidl.training import Training

PROCESSES_PAY = 2e10  # multiply-adds of all members together
MEMBERS, MANY_ROWS, FEWEST_ROWS = 5, 200_000, 10
STEPS, FEWEST_EPOCHS = 2000, 30

# The net, in the notation of a config. The shipped configs for tables say the same, optimizer
# included; all was chosen on the tables of scripts/compare_tabular.py.
HIDDEN = (
    {"name": "linear", "n_out": 256, "init": "glorot_uniform"},
    {"name": "silu"},
    {"name": "dropout", "p": 0.2},
)
LAYERS = (*3 * HIDDEN, {"name": "linear", "n_out": "auto", "init": "glorot_uniform"})
optimizer = partial(AdamW, 0.004, beta2=0.95, weight_decay=0.1)

Fold = tuple[Array, Array]  # the rows to train on, and the rows held out


def length_for(n_rows: int) -> tuple[int, int, int]:
    """Return the rows of a batch, the epochs of a cosine schedule, and the patience.

    A member makes some 2,000 steps or more. It ends after `patience` epochs without a lower loss on
    the rows held out.
    """
    batch_rows = 64 if n_rows < 1000 else 128 if n_rows < 10_000 else 256
    epochs = min(200, max(FEWEST_EPOCHS, STEPS * batch_rows // n_rows))
    return min(batch_rows, n_rows), epochs, max(15, epochs // 3)


def train_members(
    rows: Rows,
    loss_function: Loss,
    n_outputs: int,
    folds: Sequence[Fold],
    *,
    seeds: Sequence[np.random.SeedSequence],
    n_jobs: int | None,
    time_limit: float | None,
    progress: bool,
) -> tuple[list[Sequential], Array]:
    """Return a trained net for each fold, and the outputs of each row by a net without it.

    Rows that no fold holds out have NaN for outputs.  The bits depend on the seeds alone, not on
    n_jobs; with a `time_limit`, in seconds, on the speed of the machine as well.
    """
    _, epochs, _ = length = length_for(len(folds[0][0]))
    n_weights = weigh(LAYERS, rows.X.shape[1], n_outputs)[0]
    visits = sum(len(train) for train, _ in folds) * epochs
    pays = 3 * visits * n_weights > PROCESSES_PAY
    jobs = min(len(folds), usable_cores() if pays else 1) if n_jobs is None else n_jobs
    seconds = inf if time_limit is None else time_limit / -(-len(folds) // effective_n_jobs(jobs))
    made = Parallel(n_jobs=jobs, return_as="generator")(
        delayed(train_member)(rows, loss_function, n_outputs, fold, length, seed, seconds)
        for fold, seed in zip(folds, seeds, strict=True)
    )
    members = list(tqdm(made, total=len(folds), unit="member", disable=not progress))
    outputs = np.full((len(rows.y), n_outputs), np.nan)
    for member, (_, held_out) in zip(members, folds, strict=True):
        outputs[held_out] = predict_outputs(member, rows.X[held_out])
    return members, outputs


def train_member(
    rows: Rows,
    loss_function: Loss,
    n_outputs: int,
    fold: Fold,
    length: tuple[int, int, int],
    seed: np.random.SeedSequence,
    seconds: float,
) -> Sequential:
    """Return a net trained on one part of a fold, with the weights that are best on the other."""
    begin, (batch_rows, epochs, patience) = time.monotonic(), length
    init, noise, order = (np.random.default_rng(each) for each in seed.spawn(3))
    n_in = rows.X.shape[1]
    layers = build_layers(LAYERS, n_in, n_outputs, init=init, noise=noise, dtype=np.float32)
    model = Sequential(layers)
    train, held_out = (rows.select(part) for part in fold)
    validates = len(held_out.y) > 0
    training = Training(
        model,
        loss_function,
        optimizer(),
        train,
        held_out if validates else None,
        epochs=epochs,
        batch_size=batch_rows,
        early_stopping=EarlyStopping(patience) if validates else None,
        rng=order,
        schedule=CosineUntil(begin=begin, end=begin + seconds),
        blas_threads=1,
    )
    with suppress(DivergenceError):  # the best weights before it remain
        for _ in training.steps():
            if time.monotonic() > begin + seconds:
                break
    training.use_best()
    return model


@dataclass(frozen=True)
class CosineUntil(Cosine):
    """A cosine over the epochs or the time from `begin` to `end`, whichever ends first."""

    begin: float = 0.0
    end: float = 1.0

    def _at(self, t: float, epoch: float) -> float:
        elapsed = (time.monotonic() - self.begin) / (self.end - self.begin)
        return super()._at(min(1.0, max(t, elapsed)), epoch)


def pack(members: Sequence[Sequential], scale: float = 1.0) -> Sequential:
    """Return one net whose outputs are `scale` times the mean of the members' outputs.

    Its hidden layers hold those of all members side by side, in blocks of the weight matrices.
    """
    stacks = [[layer for layer in m.layers if isinstance(layer, Linear)] for m in members]
    first, *middle, last = zip(*stacks, strict=True)
    layers: list[Layer] = []
    for i, linears in enumerate((first, *middle)):
        blocks = [linear.W for linear in linears]
        W = block_diag(*blocks) if i else np.hstack(blocks)
        layers += [linear_of(W, np.concatenate([linear.b for linear in linears])), SiLU()]
    factor = scale / len(members)
    W, b = np.vstack([linear.W for linear in last]), sum(linear.b for linear in last)
    return Sequential([*layers, linear_of(W * factor, b * factor)])


def unpack(model: Sequential, n_members: int) -> list[Sequential]:
    """Return what stands behind the first layer of a packed net, for each member by itself.

    A member takes its part of the first layer's outputs, and the outputs of all add up to those of
    the packed net.
    """
    _, *middle, last = (layer for layer in model.layers if isinstance(layer, Linear))
    n, members = n_members, []
    for i in range(n):
        layers: list[Layer] = []
        for linear in middle:
            blocks = linear.W.reshape(n, linear.n_in // n, n, linear.n_out // n)
            layers += [SiLU(), linear_of(blocks[i, :, i], linear.b.reshape(n, -1)[i])]
        W = np.split(last.W, n)[i]
        members.append(Sequential([*layers, SiLU(), linear_of(W, last.b / n)]))
    return members


def linear_of(W: Array, b: Array) -> Linear:
    """Return a linear layer with these weights."""
    linear = Linear(*W.shape, rng=0, init="zeros", dtype=np.float32)
    linear.W[:], linear.b[:] = W, b
    return linear


def folds_of(
    labels: Array | None, n_rows: int, n_members: int | None, rng: np.random.Generator
) -> list[Fold]:
    """Return the rows to train on and those to hold out, for each member.

    labels: codes of classes, whose shares each fold keeps; None for none.
    n_members: folds; 1 holds out a fifth of the rows. By default 5, and 1 for very many rows.
    Fewer than 10 rows are all trained on, and none is held out.
    """
    if n_rows < FEWEST_ROWS:
        everything = np.arange(n_rows)
        return [(everything, everything[:0])] * (n_members or 1)
    if n_members is None:
        n_members = MEMBERS if n_rows <= MANY_ROWS else 1
    n_folds = min(n_rows // 2, n_members if n_members > 1 else MEMBERS)
    order = rng.permutation(n_rows)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    held_out = [np.sort(order[i::n_folds]) for i in range(n_folds)]
    return [(np.setdiff1d(order, part), part) for part in held_out[:n_members]]
