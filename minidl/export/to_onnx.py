"""ONNX: opset 17 and IR version 8, which older runtimes read too."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from minidl.export.graph import Value, in_order
from minidl.export.lowering import has_several_labels
from minidl.predictor import Predictor

OPSET, IR_VERSION = 17, 8

_NAMES = {"maximum": "Max", "minimum": "Min", "mean": "ReduceMean", "max": "ReduceMax"}


def onnx_model(predictor: Predictor, output: Value) -> bytes:
    """Return the model: input "X", (rows, n_features) float32; outputs as scikit-learn's models.

    A classifier has "label" and "probabilities", (rows, n_classes); a regression "variable".
    """
    writer = _Writer()
    names: dict[Value, str] = {}
    for value in in_order(output):
        names[value] = writer.node(value, [names[each] for each in value.inputs])
    rows, found = "rows", names[output]
    if output.wide:
        found = writer.add("Cast", [found], to=TensorProto.FLOAT)
    last = "variable" if predictor.classes is None else "probabilities"
    writer.nodes.append(helper.make_node("Identity", [found], [last]))
    outputs = [helper.make_tensor_value_info(last, TensorProto.FLOAT, [rows, output.width])]
    if predictor.classes is not None:
        outputs.insert(0, writer.labels(predictor, last, rows))
    graph = helper.make_graph(
        writer.nodes,
        "minidl",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [rows, predictor.n_features])],
        outputs,
        writer.constants,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="minidl",
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


class _Writer:
    """The nodes and the constants of a graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._known: dict[int, str] = {}
        self._kept: list[Any] = []

    def add(self, op: str, inputs: list[str], **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def constant(self, array: Any, dtype: Any = None) -> str:
        """The name of a constant; one that several nodes share is stored once."""
        if id(array) not in self._known:
            self._kept.append(array)
            name = self._known[id(array)] = f"c{len(self.constants)}"
            stored = np.ascontiguousarray(array, dtype)
            self.constants.append(numpy_helper.from_array(stored.reshape(np.shape(array)), name))
        return self._known[id(array)]

    def node(self, value: Value, inputs: list[str]) -> str:
        op, dtype = value.op, np.float64 if value.wide else np.float32
        to = TensorProto.DOUBLE if value.wide else TensorProto.FLOAT
        if op == "input":
            return self.add("Cast", ["X"], to=TensorProto.DOUBLE)
        if op == "cast":
            return self.add("Cast", inputs, to=to)
        if op == "constant":
            return self.constant(value.array, dtype)
        if op == "matmul":
            return self.add("MatMul", [*inputs, self.constant(value.array, dtype)])
        if op == "take":
            if (value.array < 0).any():
                zero = self.add("Mul", [self._columns(inputs[0], [0]), self.constant(dtype(0))])
                inputs = [self.add("Concat", [inputs[0], zero], axis=1)]
            return self._columns(inputs[0], value.array)
        if op == "concat":
            return self.add("Concat", inputs, axis=1)
        if op == "where":
            mask = self.add("Cast", inputs[:1], to=TensorProto.BOOL)
            return self.add("Where", [mask, *inputs[1:]])
        if op in ("equal", "isnan"):
            found = self.add("Equal" if op == "equal" else "IsNaN", inputs)
            return self.add("Cast", [found], to=to)
        if op == "expm1":
            return self.add("Sub", [self.add("Exp", inputs), self.constant(dtype(1))])
        if op == "log1p":
            return self.add("Log", [self.add("Add", [*inputs, self.constant(dtype(1))])])
        if op == "erfc":
            return self.add("Sub", [self.constant(dtype(1)), self.add("Erf", inputs)])
        if op == "sum":
            return self.add("ReduceSum", [*inputs, self.constant(np.array([1]))], keepdims=1)
        if op == "interpolate":
            return self._interpolated(value, inputs[0])
        axes = {"axes": [1], "keepdims": 1} if op in ("mean", "max") else {}
        return self.add(_NAMES.get(op, op.capitalize()), inputs, **axes)

    def labels(self, predictor: Predictor, probabilities: str, rows: str) -> Any:
        """Add the output "label" and return its description."""
        classes = np.asarray(predictor.classes)
        if has_several_labels(predictor):
            half = self.add("Greater", [probabilities, self.constant(np.float32(0.5))])
            self.nodes.append(helper.make_node("Cast", [half], ["label"], to=TensorProto.INT64))
            return helper.make_tensor_value_info("label", TensorProto.INT64, [rows, len(classes)])
        kind = {"f": np.float32, "i": np.int64, "b": np.int64}.get(classes.dtype.kind)
        stored = classes.astype(str).astype(object) if kind is None else classes.astype(kind)
        self.constants.append(known := numpy_helper.from_array(stored, "labels"))
        best = self.add("ArgMax", [probabilities], axis=1, keepdims=0)
        self.nodes.append(helper.make_node("Gather", ["labels", best], ["label"], axis=0))
        return helper.make_tensor_value_info("label", known.data_type, [rows])

    def _columns(self, x: str, columns: Any) -> str:
        """Columns by number; -1 is the last, which a caller makes zeros."""
        return self.add("Gather", [x, self.constant(np.asarray(columns, np.int64))], axis=1)

    def _interpolated(self, value: Value, x: str) -> str:
        """Half the sum of two look-ups: with the knots below x, and with those up to x."""
        knots, targets = value.array, value.table
        n, width = knots.shape
        gaps = np.diff(knots, axis=0)
        slopes = np.divide(np.diff(targets)[:, None], gaps, out=np.zeros_like(gaps), where=gaps > 0)
        # Row i of a table: what holds where i knots are below x.
        flat = np.zeros((1, width))
        table = {
            "slope": np.vstack([flat, slopes, flat]),
            "start": np.vstack([knots[:1], knots]),
            "base": np.repeat(np.concatenate([targets[:1], targets])[:, None], width, axis=1),
        }
        first = self.constant((np.arange(width) * (n + 1)).astype(np.int64))
        deep = self.add("Unsqueeze", [x, self.constant(np.array([2]))])
        halves = []
        for comparison in ("Greater", "GreaterOrEqual"):
            above = self.add(comparison, [deep, self.constant(knots.T.copy())])
            counted = self.add("Cast", [above], to=TensorProto.INT64)
            place = self.add("ReduceSum", [counted, self.constant(np.array([2]))], keepdims=0)
            place = self.add("Add", [place, first])
            slope, start, base = (
                self.add("Gather", [self.constant(np.ravel(part.T)), place], axis=0)
                for part in table.values()
            )
            change = self.add("Mul", [self.add("Sub", [x, start]), slope])
            halves.append(self.add("Add", [change, base]))
        total = self.add("Add", halves)
        return self.add("Mul", [total, self.constant(np.float64(0.5))])
