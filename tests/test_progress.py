"""Only a state that a training can be in is taken over, and nothing is changed by another one."""

import copy

import numpy as np
import pytest
from test_training import make, problem

from minidl.optimizers import AdamW


def training():
    return make(validation=problem(20, 1), ema=0.9, optimizer=AdamW(0.01))


def halfway():
    """The state after one epoch and two batches."""
    whole = training()
    while whole.step() is None:
        pass
    whole.step(), whole.step()
    return copy.deepcopy(whole.state())


def put(*path, value):
    def change(state):
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = value

    return change


def drop(*path):
    def change(state):
        for key in path[:-1]:
            state = state[key]
        del state[path[-1]]

    return change


FORGERIES = {
    **{f"no {'.'.join(path)}": drop(*path) for path in [
        ("params",), ("buffers",), ("optimizer",), ("progress",), ("rng",), ("average",), ("best",),
        ("optimizer", "n_steps"), ("optimizer", "mean"), ("optimizer", "square"),
        ("progress", "batch"), ("average", "n_updates"), ("average", "params"), ("best", "params"),
        ("rng", "state"),
    ]},
    **{f"progress.{key} {value}": put("progress", key, value=value) for key, value in [
        ("step", -1), ("step", 10**30), ("step", 2**64), ("step", 1.0), ("step", True), ("step", 3),
        ("epoch", 2), ("epoch", "1"), ("epoch", 10**9), ("batch", -1), ("batch", 10**6),
        ("batch", 3), ("epoch_loss", -5.0), ("epoch_loss", float("nan")), ("epoch_loss", None),
        ("epoch_weight", -1.0), ("epoch_weight", 23.0), ("epoch_weight", 1e9),
        ("epoch_weight", float("inf")), ("stopped_early", True),
        ("learning_rate", -0.1), ("learning_rate", float("nan")), ("learning_rate", 10**400),
        ("seconds", -1.0), ("seconds", float("inf")), ("best_score", float("nan")),
        ("best_score", "1"), ("best_epoch", 2), ("best_epoch", -1), ("best_epoch", 10**30),
        ("epochs_without_improvement", -1), ("epochs_without_improvement", 50),
        ("stopped_early", 1), ("stopped_early", None),
    ]},
    "optimizer.n_steps -1": put("optimizer", "n_steps", value=-1),
    "optimizer.n_steps other": put("optimizer", "n_steps", value=5),
    "optimizer.square negative": lambda state: np.negative(
        state["optimizer"]["square"], out=state["optimizer"]["square"]
    ),
    "optimizer.mean short": lambda state: state["optimizer"].update(mean=np.zeros(2, np.float32)),
    "optimizer of another kind": lambda state: state["optimizer"].update(
        velocity=state["optimizer"].pop("mean")
    ),
    "average.n_updates": put("average", "n_updates", value=2),
    "params of another dtype": lambda state: state.update(params=state["params"].astype(float)),
    "params is a list": lambda state: state.update(params=state["params"].tolist()),
    "optimizer is a list": put("optimizer", value=[]),
    "progress is a list": put("progress", value=[1, 2]),
    "one key too many": put("progress", "x", value=1),
    "another generator": put("rng", "bit_generator", value="MT19937"),
    "rng below 0": put("rng", "state", "state", value=-1),
    "rng too large": put("rng", "state", "inc", value=2**128),
    "rng text": put("rng", "state", value="x"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_state_that_cannot_be_is_refused(name):
    state, fresh = halfway(), training()
    before = copy.deepcopy(fresh.state())
    FORGERIES[name](state)
    with pytest.raises(ValueError, match=r"^it is not a state of this training: ") as error:
        fresh.restore(state)
    assert len(str(error.value)) < 300
    assert np.array_equal(fresh.model.params, before["params"])
    assert fresh.progress == before["progress"] and fresh.state()["rng"] == before["rng"]


def test_the_state_itself_is_taken():
    fresh = training()
    fresh.restore(halfway())
    assert fresh.progress["epoch"] == 1 and fresh.progress["batch"] == 2
