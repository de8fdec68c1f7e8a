"""A data set is checked, and cut into a training, a validation and a test part."""

from typing import Any, Literal, get_args

import numpy as np

from minidl.data.batches import Rows
from minidl.data.dataset import Dataset
from minidl.data.disk import DiskRows
from minidl.errors import DataError, ParameterError, require

Method = Literal["stratified", "random", "last"]


def split(
    dataset: Dataset,
    *,
    validation: float,
    test: float,
    method: Method = "stratified",
    rng: np.random.Generator,
) -> tuple[Rows, Rows | None, Rows | None]:
    """Return (train, validation, test); the last two are None where they are not asked for.

    validation, test: 0 for none, a share in (0, 1) of the rows, or a count of rows as an int.  A
    set with a test part of its own keeps it: `test` is then not used, and the share is of the
    other rows.
    method: "stratified" keeps the share of each class within one row, and where it can gives each
    part a row of every class; a class of a single row stays in the training part.  "random" draws
    without regard to classes; a regression, and rows of several labels, are always drawn so.
    "last" takes the last rows for the test part and those before them for validation, as views.
    Rows keep their order.

    Raises ValueError for a share or count out of range, DataError for data that cannot be used.
    """
    require("method", method, method in get_args(Method), f"one of {', '.join(get_args(Method))}")
    _check(dataset)
    n_samples = len(dataset.y)
    own_test = dataset.X_test is not None and dataset.y_test is not None
    n_test = 0 if own_test else _count("test", test, n_samples)
    n_validation = _count("validation", validation, n_samples)
    if n_validation + n_test >= n_samples:
        raise DataError(
            f"{dataset.source}: nothing is left for training: {n_samples} rows, "
            f"{n_validation} for validation, {n_test} for test"
        )

    def part(rows: slice | np.ndarray) -> Rows | None:
        X, y = dataset.X, dataset.y[rows]
        return Rows(X.part(rows) if isinstance(X, DiskRows) else X[rows], y) if len(y) else None

    end = n_samples - n_test
    one_label = dataset.classes is not None and dataset.y.ndim == 1
    cuts: list[slice | np.ndarray]
    if method == "last" or n_validation + n_test == 0:
        cuts = [slice(end - n_validation), slice(end - n_validation, end), slice(end, None)]
    else:
        if method == "stratified" and one_label:
            assigned = _stratified(dataset, n_validation, n_test, rng)
        else:
            counts = end - n_validation, n_validation, n_test
            assigned = rng.permutation(np.repeat([0, 1, 2], counts))
        cuts = [np.flatnonzero(assigned == number) for number in range(3)]
    train, held_out, test_part = map(part, cuts)
    assert train is not None
    if dataset.classes is not None and one_label:
        absent = np.bincount(dataset.y) > 0
        absent &= np.bincount(train.y, minlength=len(absent)) == 0
        if absent.any():
            raise DataError(
                f"{dataset.source}: no row of class {dataset.classes[absent.argmax()]!r} is left "
                "for training: split with method stratified, or hold fewer rows back"
            )
    if own_test:
        test_part = Rows(dataset.X_test, dataset.y_test)  # type: ignore[arg-type]
    return train, held_out, test_part


def _count(name: str, size: float, n_samples: int) -> int:
    if isinstance(size, float) and 0 < size < 1:
        return max(1, round(size * n_samples))
    if size == 0 or (isinstance(size, int | np.integer) and size > 0 and size is not True):
        return int(size)
    raise ParameterError(name, f"must be 0, a share in (0, 1) or a count of rows, got {size}")


def _stratified(
    dataset: Dataset, n_validation: int, n_test: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the part of each row: 0 train, 1 validation, 2 test."""
    labels, counts = np.unique(dataset.y, return_counts=True)
    n_train = len(dataset.y) - n_validation - n_test
    if n_train < len(labels):
        raise DataError(
            f"{dataset.source}: training would keep {n_train} of {len(dataset.y)} rows, fewer than "
            f"the {len(labels)} classes"
        )
    # A row of each class stays for training, and one for validation where that can have them all.
    reserved = np.minimum(1 + (n_validation >= len(labels)), np.maximum(counts - 1, 1))
    of_test = _share_out(n_test, counts, counts - reserved)
    of_validation = _share_out(n_validation, counts, counts - of_test - 1)
    assigned = np.zeros(len(dataset.y), dtype=np.int8)
    for label, first, second in zip(labels, of_test, of_test + of_validation, strict=True):
        rows = rng.permutation(np.flatnonzero(dataset.y == label))
        assigned[rows[:first]] = 2
        assigned[rows[first:second]] = 1
    return assigned


def _share_out(n_rows: int, counts: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Return how many of `n_rows` each class gives, by largest remainders.

    At most `limit`, and at least 1 where that is possible for all.

    counts, limit and the result: (n_classes,) int64.  Needs n_rows <= sum(limit).
    """
    quota = counts * (n_rows / counts.sum())
    least = np.minimum(limit, 1 if n_rows >= len(counts) else 0)
    given: np.ndarray = np.clip(np.floor(quota).astype(np.int64), least, limit)
    while (missing := n_rows - given.sum()) != 0:
        if missing > 0:
            given[np.where(given < limit, quota - given, -np.inf).argmax()] += 1
        else:
            given[np.where(given > least, quota - given, np.inf).argmin()] -= 1
    return given


def _check(dataset: Dataset) -> None:
    """Raise DataError where nothing could be learnt, or where a number is not finite."""
    name, n_samples = dataset.source, len(dataset.y)
    if n_samples == 0:
        raise DataError(f"{name}: there is no row")
    if dataset.X.shape[0] != n_samples:
        raise DataError(f"{name}: X has {dataset.X.shape[0]} rows and y has {n_samples}")
    if dataset.classes is not None and dataset.y.ndim == 1:
        n_classes = len(dataset.classes)
        if n_samples < n_classes:
            raise DataError(f"{name}: {n_samples} rows are fewer than {n_classes} classes")
        if dataset.y.min() < 0 or dataset.y.max() >= n_classes:
            raise DataError(f"{name}: y must hold class numbers from 0 to {n_classes - 1}")
        if dataset.y.min() == dataset.y.max():
            raise DataError(f"{name}: y holds one class only; a classifier needs at least two")
    for array_name in ("X", "y", "X_test", "y_test"):
        array = getattr(dataset, array_name)
        if array is None or array.dtype.kind != "f":
            continue
        if isinstance(array, DiskRows):
            for i, rows in enumerate(array.chunks()):
                _check_finite(dataset, array_name, rows, i * array.block_rows)
        else:
            _check_finite(dataset, array_name, array)


def _check_finite(dataset: Dataset, array_name: str, array: Any, first_row: int = 0) -> None:
    """array: a matrix as NumPy or CSR, or a vector of targets."""
    is_input = array_name.startswith("X")
    values = array if isinstance(array, np.ndarray) else array.data
    bad = np.isinf(values) if is_input and dataset.schema is not None else ~np.isfinite(values)
    if not bad.any():
        return
    place = np.unravel_index(int(bad.argmax()), values.shape)
    value, (row, *column) = values[place], map(int, place)
    if values is not array:
        row, column = int(np.searchsorted(array.indptr, row, "right")) - 1, [array.indices[row]]
    where = f"row {first_row + row}"
    if column:
        names = dataset.feature_names if is_input else None
        where += f", column {column[0]}" + (f" ({names[column[0]]})" if names else "")
    raise DataError(
        f"{dataset.source}: {array_name} holds {value} at {where}: "
        + ("fill in or drop what is missing" if np.isnan(value) else "every value must be finite")
    )
