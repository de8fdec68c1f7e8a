"""scikit-learn's callbacks (1.9 and newer), told of each epoch."""

from collections.abc import Callable, Mapping
from typing import Any

from minidl.kernels import Array

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # before scikit-learn 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing to support."""


__all__ = ["CallbackSupportMixin", "FitCallbacks"]


class FitCallbacks:
    """One fit as the callbacks of an estimator see it: a task, with one subtask an epoch.

    Does nothing for an estimator without callbacks.
    X, y: the training rows; `y` is a function that returns them, called only where it is needed.
    """

    def __init__(self, estimator: Any, max_epochs: int, X: Any, y: Callable[[], Array]) -> None:
        self._told: dict[str, Any] = {"estimator": estimator, "X": X, "y": y}
        self._root: Any = None
        if getattr(estimator, "_skl_callbacks", None) or hasattr(estimator, "_parent_callback_ctx"):
            self._root = estimator._init_callback_context(max_subtasks=max_epochs)
            self._root.call_on_fit_task_begin(**self._told)

    def epoch_begins(self) -> None:
        """Open the subtask of an epoch."""
        if self._root is not None:
            self._epoch = self._root.subcontext(task_name="epoch")
            self._epoch.call_on_fit_task_begin(**self._told)

    def epoch_ends(self, fitted: Callable[[], Mapping[str, Any]]) -> bool:
        """Close the subtask; return whether a callback asks to stop.

        fitted: returns the attributes of an estimator that stopped here.
        """
        told = {**self._told, "reconstruction_attributes": fitted}
        return self._root is not None and bool(self._epoch.call_on_fit_task_end(**told))

    def fit_ends(self) -> None:
        """Close the task of the fit."""
        if self._root is not None:
            self._root.call_on_fit_task_end(**self._told, reconstruction_attributes=dict)
