"""ONNX: opset 17 and IR version 8, which older runtimes read too."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from minidl.export.graph import OPERATIONS, Value, named
from minidl.export.lowering import columns_of, has_several_labels
from minidl.kernels import Array
from minidl.predictor import Predictor

OPSET, IR_VERSION = 17, 8
TABLE_OPSET = 3  # of ai.onnx.ml, for the labels of categories


def onnx_model(predictor: Predictor, output: Value) -> bytes:
    """Return the model, with the inputs and outputs that scikit-learn's models have.

    Where all columns are numbers, the one input is "X", (rows, n_features) float32.  Else each
    column is an input of its name, (rows, 1): a number in float32, a category as text, a date in
    seconds from 1970 in UTC in float64.  NaN is a gap, as is a text that is no label.
    A classifier has the outputs "label" and "probabilities", (rows, n_classes); a regression has
    "variable".
    """
    writer = _Writer(predictor)
    names, constants = named(output)
    names = {value: f"minidl.{name}" for value, name in names.items()}
    for name, array in constants.items():
        writer.constant(array, f"minidl.{name}")
    for value, name in names.items():
        if value.op != "constant":
            writer.node(value, [names[each] for each in value.inputs], name)
    rows, last = "rows", "variable" if predictor.classes is None else "probabilities"
    writer.add("Cast", [names[output]], last, to=TensorProto.FLOAT)
    outputs = [helper.make_tensor_value_info(last, TensorProto.FLOAT, [rows, output.width])]
    if predictor.classes is not None:
        outputs.insert(0, writer.labels(predictor, last, rows))
    graph = helper.make_graph(writer.nodes, "minidl", writer.inputs, outputs, writer.constants)
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
    taken = {"label", "labels", "probabilities", "variable"}
    names = []
    for column in columns_of(predictor):
        name = column.name
        while name in taken or not name:
            name += "_"
        taken.add(name)
        names.append(name)
    return names


class _Writer:
    """The inputs, nodes and constants of a graph under construction."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.inputs: list[Any] = []
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, op: str, inputs: list[str], name: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its result."""
        name = name or f"minidl.n{len(self.nodes)}"
        domain = "ai.onnx.ml" if op == "LabelEncoder" else ""
        self.nodes.append(helper.make_node(op, inputs, [name], domain=domain, **attributes))
        return name

    def constant(self, array: Any, name: str = "") -> str:
        """Store an array and return its name."""
        name = name or f"minidl.c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def node(self, value: Value, inputs: list[str], name: str) -> str:
        """Add a value of the graph and return its name."""
        op, operation = value.op, OPERATIONS[value.op][2]
        to = TensorProto.DOUBLE if value.wide else TensorProto.FLOAT
        if op == "input":
            return self._raw(name)
        if op == "lookup":
            place = self.add("Cast", inputs[:1], to=TensorProto.INT64)
            return self.add(operation, [inputs[1], place], name)
        if op in ("equal", "greater", "at_least", "isnan"):
            return self.add("Cast", [self.add(operation, inputs)], name, to=to)
        if op == "where":
            mask = self.add("Cast", inputs[:1], to=TensorProto.BOOL)
            return self.add(operation, [mask, *inputs[1:]], name)
        if op == "sum":  # its axes are an input since opset 13
            return self.add(operation, [*inputs, self.constant([1])], name, keepdims=1)
        attributes: dict[str, dict[str, Any]] = {
            "max": {"axes": [1], "keepdims": 1},
            "take": {"axis": 1},
            "concat": {"axis": 1},
            "cast": {"to": to},
        }
        return self.add(operation, inputs, name, **attributes.get(op, {}))

    def labels(self, predictor: Predictor, probabilities: str, rows: str) -> Any:
        """Add the output "label" and return its description."""
        classes = np.asarray(predictor.classes)
        if has_several_labels(predictor):
            half = self.add("Greater", [probabilities, self.constant(np.float32(0.5))])
            self.add("Cast", [half], "label", to=TensorProto.INT64)
            return helper.make_tensor_value_info("label", TensorProto.INT64, [rows, len(classes)])
        kind = {"f": np.float32, "i": np.int64, "b": np.int64}.get(classes.dtype.kind)
        stored = classes.astype(str).astype(object) if kind is None else classes.astype(kind)
        self.constant(stored, "labels")
        best = self.add("ArgMax", [probabilities], axis=1, keepdims=0)
        self.add("Gather", ["labels", best], "label", axis=0)
        return helper.make_tensor_value_info("label", self.constants[-1].data_type, [rows])

    def _raw(self, name: str) -> str:
        """Add the inputs of the model; return the raw features in float64."""
        columns = columns_of(self.predictor)
        if all(column.kind == "number" for column in columns):
            self._input("X", TensorProto.FLOAT, len(columns))
            return self.add("Cast", ["X"], name, to=TensorProto.DOUBLE)
        numbers = []
        for given, column in zip(input_names(self.predictor), columns, strict=True):
            kinds = {"category": TensorProto.STRING, "date": TensorProto.DOUBLE}
            self._input(given, kinds.get(column.kind, TensorProto.FLOAT), 1)
            if column.kind == "category":
                codes = [float(code) for code in range(len(column.labels))]
                options: dict[str, Any] = {
                    "keys_strings": list(column.labels),
                    "values_floats": codes,
                }
                given = self.add("LabelEncoder", [given], default_float=float("nan"), **options)
            numbers.append(self.add("Cast", [given], to=TensorProto.DOUBLE))
        return self.add("Concat", numbers, name, axis=1)

    def _input(self, name: str, kind: int, width: int) -> None:
        self.inputs.append(helper.make_tensor_value_info(name, kind, ["rows", width]))
