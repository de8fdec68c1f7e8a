"""Converters for `skl2onnx.to_onnx`: MLPClassifier and MLPRegressor, in pipelines too.

from minidl.export.to_skl2onnx import register
register()
onnx_model = skl2onnx.to_onnx(pipeline, X[:1].astype(np.float32))
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import TensorProto, helper
from skl2onnx import update_registered_converter
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)

from minidl.estimators import MLPClassifier, MLPRegressor
from minidl.export.lowering import lower
from minidl.export.to_onnx import onnx_model


def register() -> None:
    """Make the estimators of minidl known to skl2onnx."""
    flags = [True, False]
    options = {"zipmap": [*flags, "columns"], "nocl": flags, "output_class_labels": flags}
    for kind, shapes, own in (
        (MLPClassifier, calculate_linear_classifier_output_shapes, options),
        (MLPRegressor, calculate_linear_regressor_output_shapes, {}),
    ):
        name = f"Minidl{kind.__name__}"
        update_registered_converter(kind, name, shapes, _convert, overwrite=True, options=own)


def _convert(scope: Any, operator: Any, container: Any) -> None:
    """Copy the nodes of our own export into the model that skl2onnx builds."""
    predictor = operator.raw_operator.predictor()
    graph = onnx.load_from_string(onnx_model(predictor, lower(predictor, narrow=True))).graph
    names = {
        ours.name: theirs.full_name
        for ours, theirs in zip(graph.output, operator.outputs, strict=True)
    }
    names["X"] = scope.get_unique_variable_name("X")
    given = operator.inputs[0].full_name
    container.add_node("Cast", [given], [names["X"]], op_version=13, to=TensorProto.FLOAT)
    for constant in graph.initializer:
        names[constant.name] = scope.get_unique_variable_name(constant.name)
        constant.name = names[constant.name]
        container.initializers.append(constant)
    for node in graph.node:
        for output in node.output:
            names.setdefault(output, scope.get_unique_variable_name(output))
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        container.add_node(
            node.op_type,
            [names[each] for each in node.input],
            [names[each] for each in node.output],
            op_version=13,
            **attributes,
        )
