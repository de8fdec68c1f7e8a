"""`TableEncoder`: a raw table as inputs for a network, as a transformer of scikit-learn's kind."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted

from minidl.data.preprocessing.features import TableFeatures
from minidl.data.schema import Schema
from minidl.data.tables import Table, TableError, table_of
from minidl.kernels import Array
from minidl.losses.loss import columns

MAX_LABELS = 10_000  # of a category; the rarest ones beyond count as missing


class TableEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Numbers, categories, dates and gaps of a raw table as float32 inputs for a network.

    `minidl.data.preprocessing.TableFeatures` says what becomes of each kind of column.

    Parameters
    ----------
    columns : dict or None, default=None
        Kinds of columns by name, where they are not to be told from the cells: "number",
        "category", "date", "date FORMAT" or "ignore".
    missing : list of str, default=()
        Texts that mark a gap, beside the usual ones such as "" and "NA".

    Attributes
    ----------
    schema_ : Schema
        Kind, labels, range and share of gaps of each column.
    n_features_in_, feature_names_in_ : int, ndarray of str
        The columns of the training table; names only where it has them.

    Examples
    --------
    >>> import pandas as pd
    >>> from minidl.tabular import TableEncoder
    >>> houses = pd.DataFrame({"rooms": [3, 5, None, 4], "town": ["Ulm", "Bonn", "Ulm", None]})
    >>> TableEncoder().fit_transform(houses).shape
    (4, 20)
    """

    def __init__(
        self, *, columns: Mapping[str, str] | None = None, missing: Sequence[str] = ()
    ) -> None:
        self.columns = columns
        self.missing = missing

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the kinds of the columns, and what their encodings need to know.

        Parameters
        ----------
        X : data frame (pandas, polars, pyarrow) or array-like of shape (n_samples, n_features)
        y : array-like of numbers, (n_samples,) or (n_samples, n), default=None
            What categories of many labels are coded by.

        Raises
        ------
        ValueError
            For a cell that does not fit its column, with its row, column and value.
        """
        codes = self.fit_codes(X)
        self.features_.fit(codes, None if y is None else columns(np.asarray(y), np.float64))
        return self

    def fit_codes(self, X: Any) -> Array:
        """Learn the kinds of the columns only, and return the rows as `encode` does.

        `features_.fit` is still to be called.
        """
        table = self._table(X)
        if table.n_rows == 0:
            raise TableError("X holds no row")
        schema = Schema.infer(
            table, self.columns, missing=tuple(self.missing), max_labels=MAX_LABELS
        )
        for note in schema.notes:
            warnings.warn(note, stacklevel=3)
        self.take(TableFeatures(schema), positional=table.positional)
        return schema.encode(table)

    def take(self, features: TableFeatures, *, positional: bool) -> Self:
        """Take the columns of these features; positional: whether they have no names."""
        self.features_, self.schema_ = features, features.schema
        self.n_features_in_ = len(self.schema_.columns)
        self.__dict__.pop("feature_names_in_", None)
        if not positional:
            names = [column.name for column in self.schema_.columns]
            self.feature_names_in_ = np.array(names, dtype=object)
        return self

    def encode(self, X: Any) -> Array:
        """Return rows as numbers, codes of labels and seconds, (n_samples, n_used) float64.

        What the training table did not hold (labels, values far outside, gaps) is a warning.
        """
        check_is_fitted(self)
        table = self._table(X)
        if table.positional and len(table.columns) != self.n_features_in_:
            raise TableError(
                f"X has {len(table.columns)} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input."
            )
        known = {column.name for column in self.schema_.columns}
        if more := [name for name in table.columns if name not in known and not table.positional]:
            warnings.warn(f"X has columns that are not used: {', '.join(more)}", stacklevel=3)
        return self.schema_.encode(table)

    def transform(self, X: Any) -> Array:
        """Return the inputs for a table, (n_samples, n_inputs) float32.

        X: as for `fit`; the columns of a frame are taken by name.
        """
        return np.asarray(self.features_.transform(self.encode(X)))

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """Return a name for each input: that of its column, and its number within the column."""
        check_is_fitted(self)
        sources, used = self.features_.sources, self.schema_.used
        places = ((j, np.sum(sources[:i] == j)) for i, j in enumerate(sources))
        return np.array([f"{used[j].name}_{k}" for j, k in places], dtype=object)

    def _table(self, X: Any) -> Table:
        if not hasattr(X, "columns"):
            X = X if hasattr(X, "tocsr") else np.asarray(X)
            cells = X.dtype.kind in "OUSM"  # the schema checks them
            dtype, finite = (object, False) if cells else ("numeric", "allow-nan")
            X = check_array(X, dtype=dtype, ensure_all_finite=finite, estimator=self)
        return table_of(X, tuple(self.missing))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = True
        tags.transformer_tags.preserves_dtype = []
        return tags
