"""Losses of Python MLX, or by hand where it has none, with their gradients."""

import sys

import mlx.core as mx
import mlx.nn as nn

mx.random.seed(7)
arrays = {}


def record(name, loss, x, *targets):
    value, grad = mx.value_and_grad(loss)(x, *targets)
    arrays[f"{name}.value"] = value
    arrays[f"{name}.grad"] = grad


def mean(loss):
    return lambda x, y: loss(x, y, reduction="mean")


logits = 4 * mx.random.normal((4, 7, 11))
targets = mx.random.randint(0, 11, (4, 7))
keep = mx.random.bernoulli(0.6, (4, 7))
arrays |= {"logits": logits, "targets": targets, "keep": keep}

cross_entropy = nn.losses.cross_entropy
record("plain", mean(cross_entropy), logits, targets)
record("smooth", lambda x, y: cross_entropy(x, y, label_smoothing=0.1, reduction="mean"), logits, targets)


def by_hand(x, y, smoothing, z_loss):
    """Masked, smoothed and with z-loss, from the definition: cross-entropy against a distribution."""
    log_z = mx.log(mx.exp(x).sum(-1))
    one_hot = (y[..., None] == mx.arange(x.shape[-1])).astype(mx.float32)
    wanted = (1 - smoothing) * one_hot + smoothing / x.shape[-1]
    each = -(wanted * (x - log_z[..., None])).sum(-1) + z_loss * log_z * log_z
    return (each * keep).sum() / keep.sum()


record("masked", lambda x, y: by_hand(x, y, 0.0, 0.0), logits, targets)
record("all_options", lambda x, y: by_hand(x, y, 0.2, 1e-2), logits, targets)

# In bf16 the loss is that of the rounded logits; its gradient is rounded once.
rounded = logits.astype(mx.bfloat16)
arrays["logits_bf16"] = rounded
record("bf16", lambda x, y: mean(cross_entropy)(x.astype(mx.float32), y), rounded, targets)

x, y = 2 * mx.random.normal((5, 9)), mx.random.normal((5, 9))
labels = mx.random.bernoulli(0.5, (5, 9)).astype(mx.float32)
arrays |= {"x": x, "y": y, "labels": labels}
record("mse", mean(nn.losses.mse_loss), x, y)
record("l1", mean(nn.losses.l1_loss), x, y)
record("huber", lambda x, y: nn.losses.huber_loss(x, y, delta=0.7, reduction="mean"), x, y)
record("smooth_l1", lambda x, y: nn.losses.smooth_l1_loss(x, y, beta=0.7, reduction="mean"), x, y)
record("binary", lambda x, y: nn.losses.binary_cross_entropy(x, y, with_logits=True), x, labels)

mx.save_safetensors(sys.argv[1], arrays)
