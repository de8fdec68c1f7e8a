"""The labels of a classification as numbers, and back to what the user gave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_matrix, issparse
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels

from minidl.kernels import Array


def plain_targets(y: Any) -> Any:
    """Return nullable, Arrow-backed and categorical columns as NumPy arrays of plain values.

    Labels keep their kind: whole numbers in a nullable column do not become floats. Anything else,
    and a column with missing values, is returned as it is.
    """
    values = getattr(y, "to_list", getattr(y, "to_pylist", None))
    if values is None or isinstance(getattr(y, "dtype", None), np.dtype):
        return y
    plain = np.array(values())
    return plain if plain.dtype.kind in "biufUS" else y


@dataclass(frozen=True)
class Labels:
    """The classes of a target, and whether a row is a label or a row of marks.

    classes: sorted, (n_classes,).
    indicator: y is a matrix of 0 and 1, (n_samples, n_classes).  sparse: as a sparse matrix.
    exclusive: each row has one class, so that an indicator matrix must be one-hot.
    """

    classes: Array
    indicator: bool = False
    sparse: bool = False
    exclusive: bool = True

    @classmethod
    def of(cls, y: Any, classes: Array | None = None, *, one_hot: bool = False) -> Self:
        """Return the labels of y.

        classes: all that will come; by default those of y.
        one_hot: whether each row of an indicator matrix has one class.
        Raises ValueError where y is no target of a classification.
        """
        if isinstance(y, np.ndarray) and y.dtype.kind == "O" and y.ndim == 1:
            for row, label in enumerate(y):  # what is missing cannot be sorted
                missing = label is None or type(label).__name__ in ("NAType", "NaTType")
                if missing or (isinstance(label, float) and np.isnan(label)):
                    raise ValueError(f"Input y contains NaN or None: row {row} has no label")
        kind = type_of_target(y, input_name="y")
        check_classification_targets(y)
        if kind == "multiclass-multioutput":
            raise ValueError(
                "Multioutput target data is not supported with label binarization: give one label "
                "a row, or a matrix of 0 and 1 with a column for each label"
            )
        indicator = kind == "multilabel-indicator"
        found = unique_labels(y) if classes is None else classes
        return cls(found, indicator, issparse(y), one_hot or not indicator)

    def encode(self, y: Any) -> Array:
        """Return codes, (n_samples,), the places of the labels in `classes`; or marks.

        Marks, (n_samples, n_classes) of 0 and 1, stand for an indicator matrix that is not
        exclusive.  Raises ValueError for labels that are not in `classes`.
        """
        given = unique_labels(y)
        if len(np.setdiff1d(given, self.classes, assume_unique=True)):
            raise ValueError(
                "`y` has classes not in `self.classes_`. "
                f"`self.classes_` has {self.classes}. 'y' has {given}."
            )
        if not self.indicator:
            return np.asarray(np.searchsorted(self.classes, y))
        marks = (y.toarray() if issparse(y) else np.asarray(y)).astype(np.int64)
        if not self.exclusive:
            return marks
        counts = marks.sum(axis=1)
        if (counts != 1).any():
            row = int((counts != 1).argmax())
            raise ValueError(
                f"y must have exactly one 1 in each row for this loss, but row {row} has "
                f"{counts[row]}; use loss='log_loss' for several labels a row"
            )
        return np.asarray(marks.argmax(axis=1))

    def decode(self, codes: Array) -> Any:
        """Return labels as they were given, from the codes or marks that `encode` returns."""
        if not self.indicator:
            return self.classes[codes]
        marks = np.eye(len(self.classes), dtype=np.int64)[codes] if self.exclusive else codes
        return csr_matrix(marks) if self.sparse else marks

    def weights(self, codes: Array, class_weight: Any, sample_weight: Array | None) -> Any:
        """Return the factor of each row, (n_samples,), for the weights of classes.

        class_weight: factors by class, of which some may not occur, or "balanced"; then classes
        are counted by sample_weight, so that a weight of k remains a row given k times.
        """
        if not self.exclusive:  # the product over the labels
            return compute_sample_weight(class_weight, codes)
        if isinstance(class_weight, str):
            counts = np.bincount(codes, sample_weight, len(self.classes))
            shares = counts[codes] * np.count_nonzero(counts)
            return np.divide(counts.sum(), shares, out=np.zeros(len(codes)), where=shares > 0)
        classes = self.classes.tolist()
        if class_weight and set(class_weight).isdisjoint(classes):
            raise ValueError(f"class_weight names {list(class_weight)}, none of {classes}")
        return np.array([class_weight.get(label, 1.0) for label in classes])[codes]
