"""Twenty steps of Python MLX's optimizers, and its schedules at every step.

Arguments: the file to write. Keys: `p{i}` and `g{step}.{i}` are inputs; `{optimizer}.{i}` are the
parameters after the last step; `{schedule}` are learning rates at steps 0, 1, ….
"""

import sys

import mlx.core as mx
import mlx.optimizers as optim

STEPS = 20
SHAPES = [(7, 5), (3, 4, 2), (11,)]

mx.random.seed(20)
arrays = {}
parameters = [mx.random.normal(shape) for shape in SHAPES]
gradients = [[mx.random.normal(shape) * 0.3 for shape in SHAPES] for _ in range(STEPS)]
for i, parameter in enumerate(parameters):
    arrays[f"p{i}"] = parameter
    for step in range(STEPS):
        arrays[f"g{step}.{i}"] = gradients[step][i]

rate = optim.join_schedules(
    [optim.linear_schedule(0.0, 0.05, 5), optim.cosine_decay(0.05, 15, 0.005)], [5]
)
optimizers = {
    "adamw": lambda: optim.AdamW(rate, betas=[0.9, 0.95], eps=1e-6, weight_decay=0.1, bias_correction=True),
    "sgd": lambda: optim.SGD(rate),
    "momentum": lambda: optim.SGD(rate, momentum=0.9, weight_decay=0.05),
    "nesterov": lambda: optim.SGD(rate, momentum=0.8, nesterov=True),
}
for name, make in optimizers.items():
    optimizer = make()
    present = {str(i): parameter for i, parameter in enumerate(parameters)}
    for step in range(STEPS):
        # Copies: SGD with weight decay adds to the gradient that it is given, in place.
        copies = {str(i): mx.array(gradient) for i, gradient in enumerate(gradients[step])}
        present = optimizer.apply_gradients(copies, present)
        mx.eval(present, optimizer.state)
    for i in range(len(SHAPES)):
        arrays[f"{name}.{i}"] = present[str(i)]

schedules = {
    "linear": optim.linear_schedule(0.3, 0.05, 7),
    "cosine": optim.cosine_decay(0.2, 9, 0.01),
    "warmup_cosine": rate,
    "warmup_linear": optim.join_schedules(
        [optim.linear_schedule(0.0, 0.1, 4), optim.linear_schedule(0.1, 0.02, 8)], [4]
    ),
    "warmup_constant": optim.join_schedules([optim.linear_schedule(0.0, 0.1, 3), lambda _: 0.1], [3]),
}
for name, schedule in schedules.items():
    arrays[name] = mx.array([float(schedule(mx.array(step))) for step in range(30)])

mx.save_safetensors(sys.argv[1], arrays)
