"""Converters for `skl2onnx.to_onnx`: MLPClassifier and MLPRegressor, in pipelines too.

from minidl.export.to_skl2onnx import register
register()
onnx_model = skl2onnx.to_onnx(pipeline, X[:1].astype(np.float32))
"""

from typing import Any

import onnx
from onnx import TensorProto, helper
from onnx.compose import add_prefix
from skl2onnx import update_registered_converter
from skl2onnx.common.data_types import DoubleTensorType
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
    """Put our own export into the model that skl2onnx builds."""
    predictor, given = operator.raw_operator.predictor(), operator.inputs[0]
    is_double = isinstance(given.type, DoubleTensorType)  # and so is then what skl2onnx returns
    model = onnx.load_from_string(onnx_model(predictor, lower(predictor, narrow=True)))
    graph = add_prefix(model, scope.get_unique_variable_name("minidl")).graph
    for constant in graph.initializer:
        container.initializers.append(constant)
    X, last = graph.input[0].name, graph.output[-1].name
    container.add_node("Cast", [given.full_name], [X], op_version=13, to=TensorProto.DOUBLE)
    for node in graph.node:
        options = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        if last in node.output:
            options["to"] = TensorProto.DOUBLE if is_double else TensorProto.FLOAT
        container.add_node(
            node.op_type, list(node.input), list(node.output), op_version=13, **options
        )
    for ours, theirs in zip(graph.output, operator.outputs, strict=True):
        container.add_node("Identity", [ours.name], [theirs.full_name], op_version=13)
