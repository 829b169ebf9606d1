"""Steps of training in Python MLX; `serve.py` comes before this."""

from functools import partial

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_map

dtype = getattr(mx, task["dtype"])


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        width, inner = sizes["hidden_size"], sizes["intermediate_size"]
        self.num_heads = sizes["num_heads"]
        head_dim = width // self.num_heads
        self.scale = head_dim**-0.5
        self.rope = nn.RoPE(head_dim)
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        linear = partial(nn.Linear, bias=False)
        self.q, self.k, self.v, self.o = (linear(width, width) for _ in range(4))
        self.gate, self.up, self.down = linear(width, inner), linear(width, inner), linear(inner, width)

    def __call__(self, x):
        batch, tokens, _ = x.shape
        normed = self.norm1(x)
        heads = lambda y: y.reshape(batch, tokens, self.num_heads, -1).transpose(0, 2, 1, 3)
        q, k, v = self.rope(heads(self.q(normed))), self.rope(heads(self.k(normed))), heads(self.v(normed))
        mixed = mx.fast.scaled_dot_product_attention(q, k, v, scale=self.scale, mask="causal")
        x = x + self.o(mixed.transpose(0, 2, 1, 3).reshape(x.shape))
        normed = self.norm2(x)
        return x + self.down(nn.silu(self.gate(normed)) * self.up(normed))


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(sizes["vocab_size"], sizes["hidden_size"])
        self.blocks = [Block() for _ in range(sizes["num_layers"])]
        self.norm = nn.RMSNorm(sizes["hidden_size"])

    def __call__(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.embedding.as_linear(self.norm(x))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        widths = [sizes["input_size"], *sizes["hidden_sizes"], sizes["output_size"]]
        self.layers = [nn.Linear(a, b) for a, b in zip(widths, widths[1:])]

    def __call__(self, x):
        for layer in self.layers[:-1]:
            x = nn.relu(layer(x))
        return self.layers[-1](x)


def batches():
    batch_size = sizes["batch_size"]
    for index in range(4):
        rows = mx.arange(index * batch_size, (index + 1) * batch_size)[:, None]
        if sizes["kind"] == "gpt":
            at = mx.arange(sizes["seq_len"] + 1)[None]
            tokens = (31 * rows + (1 + rows % 3) * at) % sizes["vocab_size"]
            yield tokens[:, :-1], tokens[:, 1:]
        else:
            width = sizes["input_size"]
            x = mx.sin(0.37 * (rows * width + mx.arange(width)[None]).astype(mx.float32))
            yield x, (mx.arange(batch_size) + index) % sizes["output_size"]


mx.random.seed(0)
model = Gpt() if sizes["kind"] == "gpt" else Mlp()
if sizes["kind"] == "gpt":
    model.apply(lambda p: 0.02 * mx.random.normal(p.shape) if p.ndim > 1 else p)
optimizer = optim.AdamW(learning_rate=1e-4, betas=[0.9, 0.999], weight_decay=0.01, bias_correction=True)
held = {"parameters": model.trainable_parameters()}
optimizer.init(held["parameters"])
mx.eval(held, optimizer.state)


def loss_of(parameters, x, y):
    # Masters stay f32; the gradient of the cast is f32 again.
    model.update(tree_map(lambda p: p.astype(dtype), parameters))
    logits = model(x).astype(mx.float32)
    return nn.losses.cross_entropy(logits, y, reduction="mean")


def step(x, y):
    loss, gradients = mx.value_and_grad(loss_of)(held["parameters"], x, y)
    if task["max_grad_norm"] is not None:
        gradients, _ = optim.clip_grad_norm(gradients, task["max_grad_norm"])
    held["parameters"] = optimizer.apply_gradients(gradients, held["parameters"])
    return loss


if task["compile"]:
    step = mx.compile(step, inputs=[held, optimizer.state], outputs=[held, optimizer.state])

data = list(batches())
mx.eval(data)
threads = len(__import__("os").sched_getaffinity(0)) if sys.platform == "linux" else __import__("os").cpu_count()
hello = {"framework": "Python MLX", "version": mx.__version__, "device": str(mx.default_device()), "threads": threads}


def evaluated(x, y):
    loss = step(x, y)
    (mx.async_eval if task["ahead"] else mx.eval)(loss, held, optimizer.state)
    return loss


serve(hello, data, evaluated, mx.get_peak_memory)
