"""The C extension, as kernels.py calls it."""

from typing import Any

from numpy.typing import NDArray

VERSION: int

def set_threads(n: int, /) -> int: ...
def use_sgemm(address: int | None, /) -> None: ...
def matmul(
    a: NDArray[Any],
    b: NDArray[Any],
    out: NDArray[Any],
    bias: NDArray[Any] | None,
    mask: NDArray[Any] | None,
    relu: bool,
    /,
) -> bool | None: ...
def relu(x: NDArray[Any], y: NDArray[Any], /) -> bool | None: ...
def relu_backward(dy: NDArray[Any], y: NDArray[Any], dx: NDArray[Any], /) -> bool | None: ...
def sum_rows(x: NDArray[Any], sums: NDArray[Any], /) -> bool | None: ...
def take_rows(X: NDArray[Any], rows: NDArray[Any], out: NDArray[Any], /) -> bool | None: ...
def softmax(
    logits: NDArray[Any],
    labels: NDArray[Any],
    dlogits: NDArray[Any],
    smoothing: float,
    share: float,
    /,
) -> float | None: ...
def sgd(
    p: NDArray[Any],
    g: NDArray[Any],
    v: NDArray[Any],
    rate: float,
    momentum: float,
    decay: float,
    scale: float,
    nesterov: bool,
    /,
) -> bool | None: ...
