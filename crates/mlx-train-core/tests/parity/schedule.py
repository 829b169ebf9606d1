"""Python MLX's schedules at steps 0 to 29. Arguments: the file to write. Keys: the schedules, `(30,)`."""

import sys

import mlx.core as mx
import mlx.optimizers as optim


def constant(rate):
    return lambda _: mx.array(rate)


def warmup(peak, steps, schedule):
    return optim.join_schedules([optim.linear_schedule(0.0, peak, steps), schedule], [steps])


schedules = {
    "linear": optim.linear_schedule(0.3, 0.05, 7),
    "cosine": optim.cosine_decay(0.2, 9, 0.01),
    "step": optim.step_decay(0.3, 0.5, 7),
    "exponential": optim.exponential_decay(0.3, 0.9),
    "warmup_cosine": warmup(0.05, 5, optim.cosine_decay(0.05, 15, 0.005)),
    "warmup_linear": warmup(0.1, 4, optim.linear_schedule(0.1, 0.02, 8)),
    "warmup_constant": warmup(0.1, 3, constant(0.1)),
    "warmup_step": warmup(0.4, 3, optim.step_decay(0.4, 0.5, 5)),
    "warmup_exponential": warmup(0.4, 3, optim.exponential_decay(0.4, 0.8)),
    "wsd": optim.join_schedules(
        [optim.linear_schedule(0.0, 0.1, 4), constant(0.1), optim.linear_schedule(0.1, 0.01, 6)], [4, 18]
    ),
    # Two joins inside of one another, whose steps each count from their own boundary.
    "nested": optim.join_schedules(
        [optim.cosine_decay(0.2, 6, 0.1), warmup(0.3, 4, optim.step_decay(0.3, 0.1, 3))], [8]
    ),
    # A warm-up of one step is over before the second.
    "warmup_of_one": warmup(0.1, 1, optim.linear_schedule(0.1, 0.0, 1)),
}
arrays = {
    name: mx.array([float(schedule(mx.array(step))) for step in range(30)])
    for name, schedule in schedules.items()
}
mx.save_safetensors(sys.argv[1], arrays)
