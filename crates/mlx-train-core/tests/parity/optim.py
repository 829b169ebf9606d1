"""Twenty steps of Python MLX's optimizers, at a learning rate that warms up and decays.

Arguments: the file to write. Keys: `p{i}` and `g{step}.{i}` are inputs; `{optimizer}.{i}` are the
parameters after the last step.
"""

import sys

import mlx.core as mx
import mlx.optimizers as optim

STEPS = 20
SHAPES = [(7, 5), (5, 7), (48, 64), (3, 4, 2), (4, 3, 2, 5), (11,), ()]

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


def adafactor(**settings):
    return optim.Adafactor(rate, **{"relative_step": False, **settings})


optimizers = {
    "adamw": optim.AdamW(rate, bias_correction=True, weight_decay=0.0),
    "adamw_decay": optim.AdamW(rate, betas=[0.9, 0.95], eps=1e-6, weight_decay=0.1, bias_correction=True),
    "sgd": optim.SGD(rate),
    "sgd_decay": optim.SGD(rate, weight_decay=0.1),
    "sgd_momentum": optim.SGD(rate, momentum=0.9, weight_decay=0.05),
    "sgd_dampening": optim.SGD(rate, momentum=0.8, dampening=0.3),
    "sgd_nesterov": optim.SGD(rate, momentum=0.8, nesterov=True),
    "lion": optim.Lion(rate),
    "lion_decay": optim.Lion(rate, betas=[0.8, 0.95], weight_decay=0.2),
    "adafactor": adafactor(),
    "adafactor_unscaled": adafactor(scale_parameter=False, weight_decay=0.1, eps=(1e-12, 1e-3)),
    "adafactor_momentum": adafactor(beta_1=0.9, weight_decay=0.1, decay_rate=-0.5, clip_threshold=0.3),
    # The floor of the scale is above every parameter's own.
    "adafactor_floor": adafactor(eps=(1e-30, 2.0)),
    "adafactor_relative": optim.Adafactor(),
    "adafactor_warmup": optim.Adafactor(warmup_init=True, beta_1=0.5),
    "muon": optim.Muon(rate),
    "muon_no_decay": optim.Muon(rate, weight_decay=0.0, momentum=0.8),
    "muon_plain": optim.Muon(rate, nesterov=False, weight_decay=0.1, ns_steps=3),
}
for name, optimizer in optimizers.items():
    present = {str(i): parameter for i, parameter in enumerate(parameters)}
    for step in range(STEPS):
        # Copies: SGD with weight decay adds to the gradient that it is given, in place.
        copies = {str(i): mx.array(gradient) for i, gradient in enumerate(gradients[step])}
        present = optimizer.apply_gradients(copies, present)
        mx.eval(present, optimizer.state)
    for i in range(len(SHAPES)):
        arrays[f"{name}.{i}"] = present[str(i)]

mx.save_safetensors(sys.argv[1], arrays)
