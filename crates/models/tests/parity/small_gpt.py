"""Training steps of a small GPT in Python MLX: AdamW, clipping by norm, cosine after warm-up.

Usage: small_gpt.py OUT MODEL TRAIN FOLDER, with the settings of the model and of the training as
JSON. FOLDER has `weights.safetensors`, those before the first step, and `data.safetensors` with the
rows `x` and `y` (steps * batch_size, T) in the order of training. OUT gets `losses` and `norms`
(steps,), what each step measured before its update.
"""

import json
import sys

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten

from transformer import Transformer, loss_fn


def adamw(train, weight_decay):
    peak, warmup_steps = train["learning_rate"], train["warmup_steps"]
    decay = optim.cosine_decay(peak, train["steps"] - warmup_steps)
    rate = optim.join_schedules([optim.linear_schedule(0.0, peak, warmup_steps), decay], [warmup_steps])
    return optim.AdamW(rate, weight_decay=weight_decay, bias_correction=True)


def square_sum(gradient):
    """Rows first: MLX's sum over a whole array is wrong in the fourth digit on a CPU."""
    return gradient.square().sum(axis=-1).sum()


def main(out, config, train, folder):
    train = json.loads(train)
    model = Transformer(json.loads(config))
    model.load_weights(f"{folder}/weights.safetensors")
    data = mx.load(f"{folder}/data.safetensors")

    # Norms do not decay.
    decayed, kept = adamw(train, train["optimizer"]["weight_decay"]), adamw(train, 0.0)
    optimizer = optim.MultiOptimizer([decayed, kept], [lambda _, gradient: gradient.ndim > 1])
    value_and_grad = nn.value_and_grad(model, loss_fn)
    losses, norms = [], []
    for x, y in zip(*(mx.split(data[name], train["steps"]) for name in "xy")):
        loss, gradients = value_and_grad(model, x, y, 0.0)
        norm = mx.sqrt(sum(square_sum(gradient) for _, gradient in tree_flatten(gradients)))
        gradients, _ = optim.clip_grad_norm(gradients, train["max_grad_norm"])
        optimizer.update(model, gradients)
        mx.eval(loss, norm, model.parameters(), optimizer.state)
        losses.append(loss)
        norms.append(norm)
    mx.save_safetensors(out, {"losses": mx.stack(losses), "norms": mx.stack(norms)})


main(*sys.argv[1:])
