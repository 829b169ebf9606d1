"""The multilayer perceptron in plain Python MLX: weights, outputs, loss and gradients.

Usage: mlp.py OUT CONFIGS FOLDER, with CONFIGS as JSON, {case: config}. Weights go to
FOLDER/{case}.safetensors under the names of the model, all else to OUT.
"""

import json
import sys

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

mx.disable_compile()  # on a CPU it would start a C++ compiler
mx.set_default_device(mx.cpu)

BATCH = 5


class HiddenLayer(nn.Module):
    def __init__(self, inputs, width, c):
        super().__init__()
        self.linear = nn.Linear(inputs, width, bias=c["bias"])
        norms = {"none": None, "layer_norm": nn.LayerNorm, "rms_norm": nn.RMSNorm}
        if norms[c["norm"]]:
            self.norm = norms[c["norm"]](width)
        self.activation = {"tanh": mx.tanh}.get(c["activation"]) or getattr(nn, c["activation"])

    def __call__(self, x):
        x = self.linear(x)
        return self.activation(self.norm(x) if "norm" in self else x)


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        widths = [c["input_size"], *c["hidden_sizes"]]
        self.layers = [HiddenLayer(i, o, c) for i, o in zip(widths, widths[1:])]
        self.output = nn.Linear(widths[-1], c["output_size"], bias=c["bias"])

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.output(x)


def main(out, configs, folder):
    mx.random.seed(0)
    arrays = {}
    for case, config in json.loads(configs).items():
        model = Mlp(config)
        model.update(tree_map(lambda w: w + mx.random.normal(w.shape) * 0.3, model.parameters()))
        mx.save_safetensors(f"{folder}/{case}.safetensors", dict(tree_flatten(model.parameters())))
        inputs = mx.random.normal((BATCH, config["input_size"]))
        if config["task"] == "classification":
            targets = mx.random.randint(0, config["output_size"], (BATCH,))
            smoothing = config["label_smoothing"]
            loss_fn = lambda model, x, y: nn.losses.cross_entropy(
                model(x), y, label_smoothing=smoothing, reduction="mean"
            )
        else:
            targets = mx.random.normal((BATCH, config["output_size"]))
            loss_fn = lambda model, x, y: nn.losses.mse_loss(model(x), y)
        loss, grads = nn.value_and_grad(model, loss_fn)(model, inputs, targets)
        arrays |= {f"{case}/inputs": inputs, f"{case}/targets": targets, f"{case}/loss": loss}
        arrays[f"{case}/output"] = model(inputs)
        arrays |= {f"{case}/grad/{name}": grad for name, grad in tree_flatten(grads)}
        model.set_dtype(mx.bfloat16)
        arrays[f"{case}/output_bf16"] = model(inputs.astype(mx.bfloat16))
    mx.save_safetensors(out, arrays)


main(*sys.argv[1:])
