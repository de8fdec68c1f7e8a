"""What a trained model is worth: metrics with intervals, pictures and pages for people.

    from minidl.report import learning_curves
    learning_curves(epochs).savefig("curves.png")

The pictures are matplotlib Figures and need the extra `minidl[report]`.
"""

from typing import Any

__all__ = [  # loaded with the first picture: `minidl.report.metrics` does without matplotlib
    "calibration",
    "confusion_matrix",
    "f1_by_label",
    "first_layer_weights",
    "importances",
    "learning_curves",
    "learning_rates",
    "mistakes",
    "overlaid_curves",
    "partial_dependence",
    "residuals",
    "roc_and_precision_recall",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from minidl.report import figures

    return getattr(figures, name)
