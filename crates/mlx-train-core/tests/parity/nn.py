"""Layers of Python MLX: outputs, and gradients of their weighted sum, in f32 and bf16."""

import sys

import mlx.core as mx
import mlx.nn as nn

mx.random.seed(7)
arrays = {}


def record(name, layer, x, differentiate_input=True):
    """Writes inputs, parameters, the output of `layer` and the gradients of `sum(output * cotangent)`."""
    cotangent = mx.random.normal(layer(x).shape)
    parameters = dict(layer.parameters()) if isinstance(layer, nn.Module) else {}

    def loss(x, parameters):
        if parameters:
            layer.update(parameters)
        return (layer(x).astype(mx.float32) * cotangent).sum()

    argnums = [i for i, used in enumerate([differentiate_input, bool(parameters)]) if used]
    grads = mx.grad(loss, argnums=argnums)(x, parameters)
    if len(argnums) == 1:
        grads = [grads]
    named = dict(zip(argnums, grads))
    arrays[f"{name}.x"] = x
    arrays[f"{name}.y"] = layer(x)
    arrays[f"{name}.cotangent"] = cotangent
    for key, value in parameters.items():
        arrays[f"{name}.{key}"] = value
        arrays[f"{name}.grad.{key}"] = named[1][key]
    if differentiate_input:
        arrays[f"{name}.grad.x"] = named[0]


def perturbed(layer):
    """Norms start from ones and zeros, which hide mistakes."""
    layer.update({key: mx.random.normal(value.shape) for key, value in layer.parameters().items()})
    return layer


x = mx.random.normal((3, 5, 8))
record("linear", nn.Linear(8, 6), x)
record("linear_no_bias", nn.Linear(8, 6, bias=False), x)
record("embedding", nn.Embedding(11, 8), mx.array([[1, 10, 1], [0, 3, 7]]), differentiate_input=False)
record("rms_norm", perturbed(nn.RMSNorm(8)), x)
record("layer_norm", perturbed(nn.LayerNorm(8)), x)

heads = mx.random.normal((2, 3, 5, 8))
record("rope", nn.RoPE(8), heads)
record("rope_traditional", nn.RoPE(8, traditional=True, base=500.0), heads)
record("rope_offset", lambda x: nn.RoPE(8)(x, offset=17), heads)

wide = 3 * mx.random.normal((4, 33))
for dtype in (mx.float32, mx.bfloat16):
    suffix = "" if dtype == mx.float32 else "_bf16"
    x = wide.astype(dtype)
    record("relu" + suffix, nn.relu, x)
    record("silu" + suffix, nn.silu, x)
    record("gelu" + suffix, nn.gelu, x)
    record("gelu_approximate" + suffix, nn.gelu_approx, x)

# The tied output layer, and the fans of a convolution's weight.
embedding = nn.Embedding(11, 8)
record("as_linear", lambda x: embedding.as_linear(x), mx.random.normal((3, 8)))
arrays["as_linear.weight"] = embedding.weight

mx.save_safetensors(sys.argv[1], arrays)
