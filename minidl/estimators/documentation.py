"""The parameters and attributes that both estimators have, documented once."""

from __future__ import annotations

import inspect
from typing import TypeVar

Class = TypeVar("Class", bound=type)

PARAMETERS = """\
solver : {'adam', 'sgd', 'lbfgs', 'adamw'}, default='adam'
    Stochastic steps over batches, or L-BFGS over all rows at once: good for small data, and
    without dropout, batch normalization, or the parameters marked "stochastic" below.
alpha : float, default=0.0001
    L2 penalty: alpha / 2 * (sum of squared weights), divided by the rows of the batch, so its
    strength depends on `batch_size`. Not used where `weight_decay` is given, nor by 'adamw'.
batch_size : int or 'auto', default='auto'
    Rows in a step; 'auto' is min(200, n_samples). Stochastic.
learning_rate : {'constant', 'invscaling', 'adaptive'}, default='constant'
    For 'sgd': as it is; divided by t**power_t, t the rows seen; or divided by 5 whenever training
    would have stopped, down to 1e-6.
learning_rate_init : float, default=0.001
    Learning rate at the start. Stochastic.
power_t : float, default=0.5
    Exponent for learning_rate='invscaling'.
max_iter : int, default=200
    Largest number of epochs, or of iterations of L-BFGS.
shuffle : bool, default=True
    Whether each epoch takes the rows in another order. Stochastic.
random_state : int, RandomState instance or None, default=None
    First weights, row order and validation split. The same number gives the same model, and for
    the parameters that scikit-learn has, scikit-learn's model up to rounding.
tol : float, default=1e-4
    Improvement of the loss, or with `early_stopping` of the validation score, that an epoch must
    bring to count. For 'lbfgs' the largest component of the gradient at which it ends.
verbose : bool or int, default=False
    Whether to print a line an epoch.
warm_start : bool or 'exact', default=False
    Whether `fit` goes on with the weights that there are. True begins with a new optimizer and the
    seed again, as scikit-learn does. With 'exact' everything goes on: at a constant rate 10 epochs
    and 10 more are the same bits as 20; the data must be the same (for 'lbfgs' like True).
momentum : float, default=0.9
    Momentum of 'sgd', in [0, 1).
nesterovs_momentum : bool, default=True
    Whether that is Nesterov's.
early_stopping : bool, default=False
    Whether to split off `validation_fraction` of the rows (or to use `X_val` of `fit`), to stop
    when the score on them no longer improves, and to keep the best weights. Stochastic.
validation_fraction : float, default=0.1
    Share of the rows for `early_stopping`.
beta_1, beta_2 : float, default=0.9, 0.999
    Decay of the running averages of 'adam' and 'adamw', in [0, 1).
epsilon : float, default=1e-8
    Keeps their division finite.
n_iter_no_change : int or inf, default=10
    Epochs without an improvement by `tol` after which training stops. Stochastic.
max_fun : int, default=15000
    Largest number of evaluations of the loss by 'lbfgs'.
layers : list or None, default=None
    The layers in the notation of a config's `model`, such as `[{"linear": 64}, "batch_norm",
    "gelu", {"dropout": 0.1}, {"linear": "auto"}]`, in place of `hidden_layer_sizes`, `activation`
    and `dropout`.
dropout : float, default=0.0
    Probability, in [0, 1), with which each hidden unit is left out of a training step. Stochastic.
weight_decay : float or None, default=None
    L2 penalty weight_decay / 2 * (sum of squared weights) on the mean loss, in place of `alpha`;
    it does not depend on the size of batches. For 'adamw' the decoupled decay; None is 0.01.
schedule : str, dict or None, default=None
    Course of the learning rate over `max_iter` epochs, in the notation of a config: "cosine",
    `{"one_cycle": {"peak": 0.3}}`. Then `tol` ends training only with `early_stopping`.
    Stochastic.
clip_grad_norm : float or None, default=None
    The gradient is scaled down to this norm where it is longer. Stochastic.
ema : float or None, default=None
    Decay, in (0, 1), of the running average of the weights that is validated and kept in their
    place. Stochastic; not for `partial_fit`.
progress : bool, default=False
    Whether to show a bar.
preset : {'tabular'} or None, default=None
    Values for every parameter that is still at its default; what you set yourself wins. 'tabular':
    two hidden layers of 256 with dropout, AdamW, cycles of the learning rate, smoothed labels or
    scaled targets (`minidl.estimators.presets`). Values that suit another one are taken only with
    it: those of AdamW where `solver` is the preset's, the hidden layers without `layers`.
    8, 24, 56 or 120 epochs, fewer for many rows: as many as do best on a fifth of the rows, held
    out in trials; not chosen where validation data, `max_iter`, `schedule` or `solver` are given.
    X is then a raw table, an array or a pandas or polars frame, in which values may be missing and
    columns may be categories: the preprocessing is fitted on the training rows, and part of the
    model and of its file. Computed in float32; not for sparse matrices."""


ATTRIBUTES = """\
coefs_, intercepts_ : list of ndarray
    W, (n_in, n_out), and b, (n_out,), of each linear layer: live views into the model. Arrays that
    are put into the lists are copied into the model before it is used.
history_ : list of dict
    A record an epoch: "epoch", "learning_rate", "train_loss"; with validation "validation_loss" and
    each metric of it; with `X_val` also each metric of the training rows, the first 5,000.
    `pandas.DataFrame(history_)` is a table of it.
loss_ : float
    Loss of the last epoch, penalty included.
best_loss_ : float or None
    Lowest loss; None with early stopping. Stochastic solvers, as the next three.
loss_curve_ : list of float
    Loss of each epoch.
validation_scores_ : list of float or None
    Score of each epoch on the validation rows.
best_validation_score_ : float or None
    The highest of them.
n_iter_ : int
    Epochs or iterations of the last call.
t_ : int
    Rows seen by a stochastic solver, over all calls.
n_features_in_, feature_names_in_ : int, ndarray of str
    The columns of X; names only where X has them.
n_layers_, n_outputs_ : int
    Linear layers plus one; columns of the output.
out_activation_ : str
    What is applied to the outputs: 'softmax', 'logistic', 'identity' or 'exp'."""


def documented(kind: Class) -> Class:
    """Put the shared parts into a class's docstring, where it says "<shared>" the first two times.

    A decorator.
    """
    text = inspect.cleandoc(kind.__doc__ or "")
    for part in (PARAMETERS, ATTRIBUTES):
        text = text.replace("<shared>", part, 1)
    kind.__doc__ = text
    return kind
