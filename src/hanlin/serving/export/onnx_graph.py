"""The decoder as an ONNX graph of standard operators, with its key-value cache as inputs and outputs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hanlin.models import ModelConfig
from hanlin.models.hub import slots
from hanlin.models.rotary import frequencies

OPSET, IR_VERSION = 18, 9
"""What onnxruntime reads from 1.16 on"""
HIDDEN_BY_MASK = float(np.finfo(np.float32).min)


class GraphBuilder:
    """Nodes of `decoder`, in the order in which they are computed; every method returns the name of its result.

    The residual stream, norms, rotations and softmax are float32; products of matrices and the cache are float32 or,
    with `half`, float16. Positions of the whole batch are one dimension, N = B · T, outside attention.
    """

    def __init__(self, config: ModelConfig, half: bool) -> None:
        self.config = config
        self.half = half
        self.kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[tuple[str, tuple[int, ...], bytes], onnx.TensorProto] = {}
        # The file's names of the weights: the graph's initialisers are called as they are there.
        self.weights = {(slot.parameter, slot.part): slot.name for slot in slots(config)}

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [*inputs], [name], name=f"node_{name}", **attributes))
        return name

    def constant(self, value: NDArray[Any]) -> str:
        """The name of an initialiser with this value, made when it is asked for first."""
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(value, f"constant_{len(self.constants)}")
        return self.constants[key].name

    def number(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def weight(self, parameter: str, part: int | None = None) -> str | None:
        return self.weights.get((parameter, part))

    def narrow(self, x: str) -> str:
        return self.op("Cast", x, to=TensorProto.FLOAT16) if self.half else x

    def wide(self, x: str, output: str = "") -> str:
        if self.half:
            return self.op("Cast", x, to=TensorProto.FLOAT, output=output)
        return self.op("Identity", x, output=output) if output else x

    def wide_weight(self, parameter: str) -> str:
        name = self.weight(parameter)
        assert name is not None, parameter
        return self.wide(name)

    def linear(self, x: str, parameter: str, part: int | None = None) -> str:
        """[N, inputs] to [N, outputs], with the bias where the model has one."""
        weight, bias = self.weight(f"{parameter}.weight", part), self.weight(f"{parameter}.bias", part)
        assert weight is not None, parameter
        return self.op("Gemm", x, weight, *([bias] if bias else []), transB=1)

    def norm(self, x: str, parameter: str) -> str:
        """RMSNorm or LayerNorm over the last dimension, float32."""
        weight = self.wide_weight(f"{parameter}.weight")
        epsilon = self.config.norm_epsilon
        if self.weight(f"{parameter}.bias") is not None:
            bias = self.wide_weight(f"{parameter}.bias")
            return self.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=epsilon)
        square = self.op("ReduceMean", self.op("Mul", x, x), self.integers(-1), keepdims=1)
        root = self.op("Sqrt", self.op("Add", square, self.number(epsilon)))
        return self.op("Mul", self.op("Div", x, root), weight)

    def activation(self, x: str) -> str:
        match self.config.activation:
            case "silu":
                return self.op("Mul", x, self.op("Sigmoid", x))
            case "relu":
                return self.op("Relu", x)
            case "gelu":
                turned = self.op("Erf", self.op("Mul", x, self.typed(math.sqrt(0.5))))
            case "gelu_new" | "gelu_pytorch_tanh":
                cube = self.op("Mul", self.op("Mul", self.op("Mul", x, x), x), self.typed(0.044715))
                turned = self.op("Tanh", self.op("Mul", self.op("Add", x, cube), self.typed(math.sqrt(2 / math.pi))))
        return self.op("Mul", self.op("Mul", x, self.typed(0.5)), self.op("Add", turned, self.typed(1.0)))

    def typed(self, value: float) -> str:
        return self.constant(np.array(value, np.float16 if self.half else np.float32))

    def mlp(self, x: str, at: str) -> str:
        if not self.config.gated:
            return self.linear(self.activation(self.linear(x, f"{at}.up")), f"{at}.down")
        gate, up = self.linear(x, f"{at}.up", 0), self.linear(x, f"{at}.up", 1)
        return self.linear(self.op("Mul", self.activation(gate), up), f"{at}.down")

    def shape(self, x: str, start: int, end: int) -> str:
        return self.op("Shape", x, start=start, end=end)

    def masks(self) -> dict[int | None, str]:
        """For each window of the model what is added to the scores, [B, 1, T, P + T]: 0 where a position may look.

        A position looks at itself and what stands before it in the cache, as far as `attention_mask` is 1 there. The
        padding lies before a text, so that distances in the cache are distances in the text.
        """
        past = self.op("Squeeze", self.shape("past_key_values.0.key", 2, 3))
        end = self.op("Add", past, self.op("Squeeze", self.shape("input_ids", 1, 2)))
        zero, one = self.constant(np.array(0, np.int64)), self.constant(np.array(1, np.int64))
        rows = self.op("Unsqueeze", self.op("Range", past, end, one), self.integers(1))
        columns = self.op("Unsqueeze", self.op("Range", zero, end, one), self.integers(0))
        distance = self.op("Sub", rows, columns)
        filled = self.op("Cast", self.op("Unsqueeze", "attention_mask", self.integers(1, 2)), to=TensorProto.BOOL)
        causal = self.op("And", filled, self.op("GreaterOrEqual", distance, zero))
        made: dict[int | None, str] = {}
        for window in {self.config.window(layer) for layer in range(self.config.layers)}:
            seen = causal
            if window is not None:
                near = self.op("Less", distance, self.constant(np.array(window, np.int64)))
                seen = self.op("And", causal, near)
            made[window] = self.op("Where", seen, self.number(0.0), self.number(HIDDEN_BY_MASK))
        return made

    def rotation(self) -> tuple[str, str]:
        """Cosines and sines of the positions, [B, 1, T, head_dim / 2] each."""
        rate, factor = frequencies(self.config)
        where = self.op("Cast", self.op("Unsqueeze", "position_ids", self.integers(1, 3)), to=TensorProto.FLOAT)
        angle = self.op("Mul", where, self.constant(rate.numpy().astype(np.float32)))
        parts = self.op("Cos", angle), self.op("Sin", angle)
        if factor == 1.0:
            return parts
        return self.op("Mul", parts[0], self.number(factor)), self.op("Mul", parts[1], self.number(factor))

    def rotate(self, x: str, rotation: tuple[str, str]) -> str:
        cos, sin = rotation
        half = self.config.head_dim // 2
        first = self.op("Slice", x, self.integers(0), self.integers(half), self.integers(-1))
        second = self.op("Slice", x, self.integers(half), self.integers(2 * half), self.integers(-1))
        left = self.op("Sub", self.op("Mul", first, cos), self.op("Mul", second, sin))
        right = self.op("Add", self.op("Mul", second, cos), self.op("Mul", first, sin))
        return self.op("Concat", left, right, axis=-1)

    def attention(self, x: str, layer: int, mask: str, rotation: tuple[str, str] | None) -> str:
        """[N, hidden] to [N, hidden]; appends to the cache of its layer."""
        config, at = self.config, f"blocks.{layer}.attention"
        counts = (config.heads, config.kv_heads, config.kv_heads)
        width = config.head_dim
        if self.weight(f"{at}.qkv.weight") is not None:  # one matrix for the three, in a GPT-2 file
            sizes = self.integers(*(count * width for count in counts))
            names = [f"{at}.{part}" for part in ("query", "key", "value")]
            whole = self.linear(x, f"{at}.qkv")
            self.nodes.append(helper.make_node("Split", [whole, sizes], names, name=f"node_{at}.split", axis=-1))
        else:
            names = [self.linear(x, f"{at}.qkv", part) for part in range(3)]
        parts: list[str] = []
        batch_and_length = self.op("Shape", "input_ids")
        for part, (name, count) in enumerate(zip(names, counts)):
            shape = self.op("Concat", batch_and_length, self.integers(count, width), axis=0)
            name = self.op("Reshape", name, shape)
            if part < 2:
                name = self.wide(name)
                if config.qk_norm:
                    name = self.norm(name, f"{at}.{('query', 'key')[part]}_norm")
            name = self.op("Transpose", name, perm=[0, 2, 1, 3])
            if part < 2:
                name = self.narrow(self.rotate(name, rotation) if rotation is not None else name)
            parts.append(name)
        query, key, value = parts
        key = self.op("Concat", f"past_key_values.{layer}.key", key, axis=2, output=f"present.{layer}.key")
        value = self.op("Concat", f"past_key_values.{layer}.value", value, axis=2, output=f"present.{layer}.value")
        # The queries that share a key head stand below one another, [B, kv_heads, group · T, head_dim]: no key is
        # repeated.
        grouped = self.op("Reshape", query, self.integers(0, config.kv_heads, -1, width))
        scores = self.op("MatMul", grouped, self.op("Transpose", key, perm=[0, 1, 3, 2]))
        scores = self.op("Mul", self.wide(scores), self.number(width**-0.5))
        apart = self.op("Concat", self.shape(query, 0, 3), self.shape(key, 2, 3), axis=0)
        shares = self.op("Softmax", self.op("Add", self.op("Reshape", scores, apart), mask), axis=-1)
        together = self.op("Concat", self.shape(grouped, 0, 3), self.shape(key, 2, 3), axis=0)
        mixed = self.op("MatMul", self.narrow(self.op("Reshape", shares, together)), value)
        mixed = self.op("Transpose", self.op("Reshape", mixed, self.op("Shape", query)), perm=[0, 2, 1, 3])
        return self.linear(self.op("Reshape", mixed, self.integers(-1, config.heads * width)), f"{at}.out")


def decoder(config: ModelConfig, half: bool) -> onnx.GraphProto:
    """The graph without its weights, which it knows by the names that they have in a Hugging Face file.

    Inputs: `input_ids` and `position_ids` [B, T], `attention_mask` [B, P + T], and for each layer
    `past_key_values.I.key` and `.value` [B, kv_heads, P, head_dim], P = 0 at first. Outputs: `logits` [B, T,
    vocabulary], float32, and `present.I.key` and `.value` [B, kv_heads, P + T, head_dim].
    """
    build = GraphBuilder(config, half)
    flat = build.op("Reshape", "input_ids", build.integers(-1))
    embedding = build.weight("embedding.weight")
    assert embedding is not None
    x = build.wide(build.op("Gather", embedding, flat))
    rotation = None
    positions = build.weight("positions.weight")
    if positions is None:
        rotation = build.rotation()
    else:
        where = build.op("Reshape", "position_ids", build.integers(-1))
        x = build.op("Add", x, build.wide(build.op("Gather", positions, where)))
    masks = build.masks()
    for layer in range(config.layers):
        at = f"blocks.{layer}"
        read = build.narrow(build.norm(x, f"{at}.attention_norm"))
        x = build.op("Add", x, build.wide(build.attention(read, layer, masks[config.window(layer)], rotation)))
        read = build.narrow(build.norm(x, f"{at}.mlp_norm"))
        x = build.op("Add", x, build.wide(build.mlp(read, f"{at}.mlp")))
    head = build.weight("head.weight") or embedding
    scores = build.op("Gemm", build.narrow(build.norm(x, "final_norm")), head, transB=1)
    shape = build.op("Concat", build.op("Shape", "input_ids"), build.integers(config.vocabulary_size), axis=0)
    build.wide(build.op("Reshape", scores, shape), output="logits")
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"]),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "past_and_length"]),
        helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["batch", "length"]),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "length", config.vocabulary_size])]
    for layer in range(config.layers):
        for one in ("key", "value"):
            for name, length, into in (
                (f"past_key_values.{layer}.{one}", "past", inputs),
                (f"present.{layer}.{one}", "past_and_length", outputs),
            ):
                shape = ["batch", config.kv_heads, length, config.head_dim]
                into.append(helper.make_tensor_value_info(name, build.kind, shape))
    return helper.make_graph(build.nodes, "decoder", inputs, outputs, [*build.constants.values()])
