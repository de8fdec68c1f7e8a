"""Where the first number that is not finite came from."""

import numpy as np

from minidl.data.batches import Rows
from minidl.model import Sequential

ADVICE = "try a smaller learning_rate, a warmup, or clip_grad_norm"


def explain_divergence(model: Sequential, batch: Rows, step: int) -> str:
    """Return where the first number that is not finite came from, and what to do about it.

    model: as the step left it. Its forward pass over the batch is repeated, with the noise of that
    step.
    """
    with np.errstate(all="ignore"):
        x = batch.X if isinstance(batch.X, np.ndarray) else batch.X.data
        if not np.isfinite(x).all():
            advice = "look for NaN and infinite values in the data and its preprocessing"
            return f"the inputs of this batch are not finite; {advice}"
        return f"{_locate(model, batch, step)}; {ADVICE}"


def _locate(model: Sequential, batch: Rows, step: int) -> str:
    # Backward goes from the last layer to the first, so the last one is where it began.
    for name, parameter in reversed(list(model.named_parameters())):
        if not np.isfinite(parameter).all():
            i = int(name.split(".")[0])
            return f"it began in the update of {name} in {_title(model, i)}"
    replica = model.replica()  # its running statistics are its own
    replica.begin_step(step)
    x = batch.X
    for i, layer in enumerate(replica.layers):
        x = layer.forward(x)
        if not np.isfinite(x).all():
            return f"it began in the output of {_title(model, i)}"
    if not np.isfinite(model.buffers).all():
        return "it began in the running statistics of a normalization"
    return f"the outputs of {_title(model, len(model.layers) - 1)} are finite, their loss is not"


def _title(model: Sequential, i: int) -> str:
    return f"layer {i} ({type(model.layers[i]).__name__})"
