"""ONNX: opset 17 and IR version 8, which older runtimes read too."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from minidl.export.graph import ONNX, Value, named, written
from minidl.export.lowering import columns_of
from minidl.kernels import Array
from minidl.predictor import Predictor

OPSET, IR_VERSION = 17, 8
TABLE_OPSET = 3  # of ai.onnx.ml, for the labels of categories
OWN = "minidl_"  # begins the names inside the graph, which end in no "_"


def onnx_model(predictor: Predictor, output: Value) -> bytes:
    """Return the model, with the inputs and outputs that scikit-learn's models have.

    Where all columns are numbers, the one input is "X", (rows, n_features) float32.  Else each
    column is an input of its name, (rows, 1): a number in float32, a category as text, a date in
    seconds from 1970 in UTC in float64.  NaN is a gap, as is a text that is no label.
    A classifier has the outputs "label" and "probabilities", (rows, n_classes); a regression has
    "variable".
    """
    names, arrays = named(output, prefix=OWN)
    last = "variable" if predictor.classes is None else "probabilities"
    outputs = [_info(last, TensorProto.FLOAT, output.width)]
    inputs: list[Any] = []
    nodes: list[Any] = []
    steps: list[str] = []
    for value, name in names.items():
        if value.op == "input":
            inputs, nodes = _inputs(predictor, name)
        elif value.op != "constant":
            dtype = helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
            steps.append(f"{name} = {written(value, names, ONNX, dtype=dtype)}")
    steps.append(f"{last} = Cast<to={TensorProto.FLOAT}>({names[output]})")
    if predictor.has_several_labels:
        arrays[f"{OWN}half"] = np.array(0.5, np.float32)
        steps += [f"{OWN}over = Greater({last}, {OWN}half)", f"label = Cast<to=7>({OWN}over)"]
        outputs.insert(0, _info("label", TensorProto.INT64, output.width))
    elif predictor.classes is not None:
        labels = np.asarray(predictor.classes)
        plain: Any = {"f": np.float32, "i": np.int64, "b": np.int64}.get(labels.dtype.kind)
        labels = labels.astype(str).astype(object) if plain is None else labels.astype(plain)
        arrays[f"{OWN}labels"] = labels
        steps.append(f"{OWN}best = ArgMax<axis=1, keepdims=0>({last})")
        steps.append(f"label = Gather({OWN}labels, {OWN}best)")
        outputs.insert(0, _info("label", helper.np_dtype_to_tensor_dtype(labels.dtype)))
    graph = helper.make_graph(
        [*nodes, *parser.parse_graph(f"minidl () => () {{ {chr(10).join(steps)} }}").node],
        "minidl",
        inputs,
        outputs,
        [numpy_helper.from_array(np.array(each, order="C"), name) for name, each in arrays.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", TABLE_OPSET)]
    model = helper.make_model(
        graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="minidl"
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def given_inputs(predictor: Predictor, rows: Array) -> dict[str, Any]:
    """Return what the model is given for rows as numbers, labels as their codes."""
    columns = columns_of(predictor)
    if all(column.kind == "number" for column in columns):
        return {"X": rows.astype(np.float32)}
    given: dict[str, Any] = {}
    for j, (name, column) in enumerate(zip(input_names(predictor), columns, strict=True)):
        values = rows[:, j : j + 1]
        if column.kind == "category":
            labels = np.array([*column.labels, "\N{REPLACEMENT CHARACTER}"], dtype=object)
            values = labels[np.where(np.isnan(values), -1, values).astype(int)]
        given[name] = values.astype(np.float32) if column.kind == "number" else values
    return given


def input_names(predictor: Predictor) -> list[str]:
    """Return the names of the inputs, one for each column: no two names in a graph are equal."""
    taken = {"label", "probabilities", "variable"}
    names = []
    for column in columns_of(predictor):
        name = column.name
        while name in taken or not name or (name.startswith(OWN) and not name.endswith("_")):
            name += "_"
        taken.add(name)
        names.append(name)
    return names


def _inputs(predictor: Predictor, raw: str) -> tuple[list[Any], list[Any]]:
    """Return the inputs, and the nodes that put them side by side in float64 as `raw`."""
    columns, double = columns_of(predictor), TensorProto.DOUBLE
    if all(column.kind == "number" for column in columns):
        cast = helper.make_node("Cast", ["X"], [raw], to=double)
        return [_info("X", TensorProto.FLOAT, len(columns))], [cast]
    inputs, nodes, numbers = [], [], []
    kinds = {"category": TensorProto.STRING, "date": double}
    for given, column in zip(input_names(predictor), columns, strict=True):
        inputs.append(_info(given, kinds.get(column.kind, TensorProto.FLOAT), 1))
        if column.kind == "category":
            node = helper.make_node(
                "LabelEncoder",
                [given],
                [given := f"{OWN}code_{len(inputs)}"],
                domain="ai.onnx.ml",
                keys_strings=list(column.labels),
                values_floats=[float(code) for code in range(len(column.labels))],
                default_float=float("nan"),
            )
            nodes.append(node)
        numbers.append(f"{OWN}number_{len(inputs)}")
        nodes.append(helper.make_node("Cast", [given], numbers[-1:], to=double))
    return inputs, [*nodes, helper.make_node("Concat", numbers, [raw], axis=1)]


def _info(name: str, kind: int, *width: int) -> Any:
    return helper.make_tensor_value_info(name, kind, ["rows", *width])
