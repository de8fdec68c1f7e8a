"""The two losses of scikit-learn's regressor, which sum over the outputs where minidl's average."""

from __future__ import annotations

from dataclasses import dataclass

from minidl.kernels import Array
from minidl.losses import MSE, Poisson


@dataclass(frozen=True)
class HalfSquaredError(MSE):
    """Half the squared error, summed over the outputs: scikit-learn's "squared_error".

    l_i     = sum_j (z_ij - t_ij)**2 / 2
    dlogits = (z - t) * w_i / total_weight
    """

    def _per_output(self, n_outputs: int) -> float:
        return 1.0

    def _elementwise(self, z: Array, t: Array) -> tuple[Array, Array]:
        e = z - t
        return 0.5 * e * e, e


@dataclass(frozen=True)
class SummedPoisson(Poisson):
    """Half the Poisson deviance, summed over the outputs: scikit-learn's "poisson"."""

    def _per_output(self, n_outputs: int) -> float:
        return 1.0
