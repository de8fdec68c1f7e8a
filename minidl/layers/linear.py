"""The linear layer, forwards and backwards: a chapter to read beside the code below it.

Every network in this package is linear layers with something between them, so whoever understands
this file understands most of backpropagation. The examples are run by the tests.

Notation. x is one example or a batch of them, y what the layer makes of it, and C the cost: the one
number that training makes smaller. "d" in front of a name always means the derivative of C with
respect to it, so dx is dC/dx and has the shape of x.

**One example.** Each output is a weighted sum of all the inputs, and has a weight of its own for
each of them. With two inputs and three outputs,

    y1 = x1 w11 + x2 w21 + b1
    y2 = x1 w12 + x2 w22 + b2
    y3 = x1 w13 + x2 w23 + b3

Put the weights in a matrix with a row for each input and a column for each output, and write the
example as a row: the three sums are one product of a row with a matrix, y = x W + b.

>>> import numpy as np
>>> W = np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])  # (n_in, n_out) = (2, 3)
>>> b = np.array([0.5, 0.0, -0.5])  # (n_out,)
>>> x = np.array([[2.0, 1.0]])  # (1, n_in): one row
>>> x @ W + b
array([[12.5, 24. , 35.5]])

The layer of this file does just that.

>>> from minidl.layers import Linear
>>> layer = Linear(2, 3, rng=np.random.default_rng(0), dtype=np.float64)
>>> layer.W[:], layer.b[:] = W, b
>>> layer.forward(x)
array([[12.5, 24. , 35.5]])

**A mini-batch.** Nothing new: one example in each row. All rows use the same W and b, and no row
looks at another.

>>> X = np.array([[2.0, 1.0], [0.0, 1.0], [-1.0, 3.0], [1.0, 1.0]])  # (n_samples, n_in) = (4, 2)
>>> Y = layer.forward(X)
>>> Y
array([[12.5, 24. , 35.5],
       [10.5, 20. , 29.5],
       [29.5, 58. , 86.5],
       [11.5, 22. , 32.5]])
>>> bool(np.all(Y[:1] == layer.forward(X[:1])))
True

**The gradient that comes back.** The layer does not know the cost. It is told how the cost changes
with each of its outputs, dy, an array with the shape of y, and it has two duties: to find how the
cost changes with its own parameters, dW and db, and to tell the layer before it how the cost
changes with each of its inputs, dx. The chain rule links the two sides: dC/dx = dC/dy . dy/dx.

**dy/dx is a Jacobian.** For one example it is the table of how each output moves with each input:
row j, column i holds dy_j / dx_i. From y_j = x_1 w_1j + x_2 w_2j + b_j that is w_ij. So the table,
(n_out, n_in), is W transposed. It holds no x: the slope of a linear map is the same everywhere.
`jacobian` finds it from `backward` alone, by asking for one output at a time.

>>> from minidl.gradcheck import jacobian
>>> jacobian(layer, np.array([2.0, 1.0]))
array([[ 1., 10.],
       [ 2., 20.],
       [ 3., 30.]])
>>> jacobian(layer, np.array([-7.0, 0.1])).tolist() == W.T.tolist()
True

**The chain rule, entry by entry.** x1 moves all three outputs, so what it does to the cost is
gathered from all three: how much the cost cares for an output, times how much that output moves.

    dx1 = dy1 w11 + dy2 w12 + dy3 w13
    dx2 = dy1 w21 + dy2 w22 + dy3 w23

>>> dy = np.array([[1.0, -1.0, 2.0]])
>>> dx1 = dy[0, 0] * W[0, 0] + dy[0, 1] * W[0, 1] + dy[0, 2] * W[0, 2]
>>> dx2 = dy[0, 0] * W[1, 0] + dy[0, 1] * W[1, 1] + dy[0, 2] * W[1, 2]
>>> float(dx1), float(dx2)
(5.0, 50.0)

Both lines at once: the row dy times the Jacobian, dx = dy W^T. In the forward pass an output
collects from all inputs through a column of W; in the backward pass an input collects from all
outputs through a row of W. It is the same wiring, walked the other way.

>>> y = layer.forward(x)
>>> layer.backward(dy)
array([[ 5., 50.]])

**The batch rule.** The output of one row does not move with the input of another, so between rows
the derivative is zero, and each row of dX needs its own row of dY only. Stacked, the rule for a row
is the rule for the batch: dX = dY W^T. There is no sum over examples in it.

>>> dY = np.array([[1.0, -1.0, 2.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
>>> Y = layer.forward(X)
>>> dX = layer.backward(dY)
>>> dX
array([[ 5., 50.],
       [ 2., 20.],
       [ 0.,  0.],
       [ 6., 60.]])

**The parameters.** w_ij carries x_i into y_j, so one example moves the cost by x_i dy_j for each
unit of w_ij: the outer product of input and output gradient. Here the examples do meet, because
all of them use the same w_ij: their shares are added. A sum over examples of outer products is a
product of matrices again, dW = X^T dY. The bias enters each output with a factor of 1, so
db is the sum of the rows of dY. (That the cost is a mean over the batch is the loss's affair: it
has divided dY by the number of rows already.)

>>> sum(np.outer(X[n], dY[n]) for n in range(4))
array([[ 3., -1.,  5.],
       [ 2.,  1.,  3.]])
>>> layer.dW
array([[ 3., -1.,  5.],
       [ 2.,  1.,  3.]])
>>> layer.db
array([2., 1., 3.])

Whether all this is right can be measured: move one weight a little, and see what the cost does.
With C = sum(Y * dY), a cost whose gradient by Y is dY, the weight in row 0, column 2 moves it by
layer.dW[0, 2] = 5 for each unit. `check_gradients` does this for every entry of every layer.

>>> moved = W.copy()
>>> moved[0, 2] += 1e-3
>>> change = np.sum((X @ moved + b) * dY) - np.sum((X @ W + b) * dY)
>>> round(float(change / 1e-3), 6)
5.0

**What a linear layer is good for.** Its Jacobian has no entry that must be zero: each output sees
all of the input, and each is a blend of its own. That makes it the usual last layer, which turns
features into class scores. It has no activation function. Without one between them, two linear
layers are only one, with the weights W1 W2 and the bias b1 W2 + b2, and depth gains nothing.

>>> second = Linear(3, 2, rng=np.random.default_rng(1), dtype=np.float64)
>>> one = Linear(2, 2, rng=np.random.default_rng(2), dtype=np.float64)
>>> one.W[:], one.b[:] = layer.W @ second.W, layer.b @ second.W + second.b
>>> bool(np.allclose(second.forward(layer.forward(X)), one.forward(X), rtol=1e-12))
True
"""

from typing import Any, Literal

import numpy as np

from minidl import kernels
from minidl.errors import require
from minidl.kernels import Array
from minidl.layers.initializers import INITIALIZERS
from minidl.layers.layer import Layer

Init = Literal[
    "he_normal",
    "he_uniform",
    "glorot_normal",
    "glorot_uniform",
    "lecun_normal",
    "lecun_uniform",
    "orthogonal",
    "zeros",
]


class Linear(Layer):
    """Weighted sums of all inputs.

    y  = x @ W + b
    dx = dy @ W.T
    dW = x.T @ dy
    db = dy.sum(axis=0)

    x, dx: (n_samples, n_in).  y, dy: (n_samples, n_out).  W: (n_in, n_out).  b: (n_out,).
    Saves x, which may be a SciPy CSR matrix when no dx is needed.

    rng: a generator that draws the first weights, or its seed.  init: how they are drawn; "he_..."
    with variance 2 / n_in, for ReLU and its relatives; "glorot_..." with 2 / (n_in + n_out), for
    tanh and sigmoid; "lecun_..." with 1 / n_in, for SELU; each "..._normal" or "..._uniform";
    "orthogonal", with orthonormal rows or columns; or "zeros".  gain: a factor of the first
    weights.  bias: whether there is a b, 0 at the start; without it, y = x @ W.
    Glorot and Bengio 2010; He et al. 2015; Saxe et al. 2014 (orthogonal).
    """

    param_names: tuple[str, ...] = ("W", "b")

    # In a training loop the work of a ReLU next to this layer is done here, while the product is in
    # the cache, and saves a pass over memory: see Sequential.enter_loop.
    rectifies = False  # y becomes max(y, 0)
    masks = False  # x comes from a ReLU, so dx is only wanted where x > 0

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        rng: np.random.Generator | int,
        init: Init = "he_normal",
        gain: float = 1.0,
        bias: bool = True,
        dtype: Any = np.float32,
    ) -> None:
        require("n_in", n_in, n_in >= 1, "at least 1")
        require("n_out", n_out, n_out >= 1, "at least 1")
        require("init", init, init in INITIALIZERS, f"one of {', '.join(INITIALIZERS)}")
        require("gain", gain, bool(np.isfinite(gain)), "finite")
        self.n_in, self.n_out, self.bias = n_in, n_out, bias
        if init == "zeros":  # as np.zeros makes them: no memory is touched
            self.W: Array = np.zeros((n_in, n_out), dtype)
        else:
            W = INITIALIZERS[init](n_in, n_out, np.random.default_rng(rng))
            self.W = (gain * W).astype(dtype)
        self.dW = np.zeros(self.W.shape, dtype)
        if bias:
            self.b = np.zeros(n_out, dtype)
            self.db = np.zeros_like(self.b)
        else:
            self.param_names = ("W",)

    def output_size(self, n_in: int) -> int:
        """Return n_out; refuse any other input than n_in features."""
        super().output_size(n_in)
        return self.n_out

    def multiply_adds(self, n_in: int) -> int:
        """Return n_in * n_out."""
        return self.n_in * self.n_out

    def forward(self, x: Array, train: bool = True) -> Array:
        """Return x @ W + b."""
        shape, dtype = (x.shape[0], self.n_out), self.W.dtype
        y = self._empty("y", shape, dtype) if train else np.empty(shape, dtype)
        affine = kernels.affine if type(x) is np.ndarray else kernels.sparse_affine
        affine(x, self.W, self.b if self.bias else None, y, self.rectifies)
        if train:
            self.save(x)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        """Overwrite dW and db; return dy @ W.T."""
        (x,) = self.saved()
        if type(x) is np.ndarray:
            kernels.matmul(x.T, dy, self.dW)
        else:
            kernels.sparse_gradient(x, dy, self.dW)
        if self.bias:
            kernels.sum_rows(dy, self.db)
        if not need_dx:
            return None
        dx = self._empty("dx", (dy.shape[0], self.n_in), dy.dtype)
        return kernels.matmul(dy, self.W.T, dx, x if self.masks else None)
