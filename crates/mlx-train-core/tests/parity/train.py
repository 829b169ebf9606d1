"""Twenty training steps of a small MLP in Python MLX: AdamW, clipping, cosine after warm-up.

Arguments: the file to write. Keys: `start.{name}` and `end.{name}` are parameters, `x` (20, 16, 4)
and `y` (20, 16, 2) the batches, `losses` (20,) and `norms` (20,) what each step measured.
"""

import sys

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten

STEPS = 20


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 32)
        self.second = nn.Linear(32, 2)

    def __call__(self, x):
        return self.second(mx.tanh(self.first(x)))


def loss_fn(model, x, y):
    return nn.losses.mse_loss(model(x), y, reduction="mean")


mx.random.seed(7)
model = Mlp()
x = mx.random.normal((STEPS, 16, 4))
y = mx.stack([mx.sin(3 * x[..., 0]) * 4, x[..., 1] * x[..., 2]], axis=-1)
arrays = {"x": x, "y": y}
arrays.update({f"start.{name}": mx.array(value) for name, value in tree_flatten(model.parameters())})

rate = optim.join_schedules(
    [optim.linear_schedule(0.0, 0.02, 4), optim.cosine_decay(0.02, 16, 0.002)], [4]
)
optimizer = optim.AdamW(rate, betas=[0.9, 0.99], weight_decay=0.1, bias_correction=True)
value_and_grad = nn.value_and_grad(model, loss_fn)
losses, norms = [], []
for step in range(STEPS):
    loss, gradients = value_and_grad(model, x[step], y[step])
    gradients, norm = optim.clip_grad_norm(gradients, 1.0)
    optimizer.update(model, gradients)
    mx.eval(loss, norm, model.parameters(), optimizer.state)
    losses.append(loss)
    norms.append(norm)

arrays["losses"] = mx.stack(losses)
arrays["norms"] = mx.stack(norms)
arrays.update({f"end.{name}": value for name, value in tree_flatten(model.parameters())})
mx.save_safetensors(sys.argv[1], arrays)
