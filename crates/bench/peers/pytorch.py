"""Steps of training in PyTorch; `serve.py` comes before this."""

import warnings
from contextlib import nullcontext

# It is not needed here.
warnings.filterwarnings("ignore", message="Failed to initialize NumPy")

import torch
import torch.nn.functional as F
from torch import nn

device = "cuda" if torch.cuda.is_available() else "cpu"
torch.set_float32_matmul_precision("high" if device == "cuda" else "highest")


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        width, inner = sizes["hidden_size"], sizes["intermediate_size"]
        self.num_heads = sizes["num_heads"]
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x, cos, sin):
        batch, tokens, width = x.shape
        normed = self.norm1(x)
        heads = lambda y: y.view(batch, tokens, self.num_heads, -1).transpose(1, 2)
        q, k, v = heads(self.q(normed)), heads(self.k(normed)), heads(self.v(normed))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).reshape(batch, tokens, width))
        normed = self.norm2(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed))


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        width = sizes["hidden_size"]
        self.embedding = nn.Embedding(sizes["vocab_size"], width)
        self.blocks = nn.ModuleList(Block() for _ in range(sizes["num_layers"]))
        self.norm = nn.RMSNorm(width, eps=1e-5)
        half = width // sizes["num_heads"] // 2
        wavelengths = 10000.0 ** (-torch.arange(half) / half)
        angles = torch.arange(sizes["seq_len"])[:, None] * wavelengths[None]
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, tokens):
        x = self.embedding(tokens)
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        for block in self.blocks:
            x = block(x, cos, sin)
        return F.linear(self.norm(x), self.embedding.weight)


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        widths = [sizes["input_size"], *sizes["hidden_sizes"], sizes["output_size"]]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:]))

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def batches():
    batch_size = sizes["batch_size"]
    for index in range(4):
        rows = torch.arange(index * batch_size, (index + 1) * batch_size)[:, None]
        if sizes["kind"] == "gpt":
            at = torch.arange(sizes["seq_len"] + 1)[None]
            tokens = (31 * rows + (1 + rows % 3) * at) % sizes["vocab_size"]
            yield tokens[:, :-1].contiguous().to(device), tokens[:, 1:].contiguous().to(device)
        else:
            width = sizes["input_size"]
            x = torch.sin(0.37 * (rows * width + torch.arange(width)[None]).float())
            yield x.to(device), ((torch.arange(batch_size) + index) % sizes["output_size"]).to(device)


torch.manual_seed(0)
model = (Gpt() if sizes["kind"] == "gpt" else Mlp()).to(device)
if sizes["kind"] == "gpt":
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)
optimizer = torch.optim.AdamW(
    model.parameters(), lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01, fused=device == "cuda"
)
is_mixed = task["dtype"] == "bfloat16"


def loss_of(x, y):
    with torch.autocast(device, dtype=torch.bfloat16) if is_mixed else nullcontext():
        logits = model(x)
        return F.cross_entropy(logits.float().flatten(0, -2), y.flatten())


if task["compile"]:
    loss_of = torch.compile(loss_of)


def step(x, y):
    loss = loss_of(x, y)
    loss.backward()
    if task["max_grad_norm"] is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), task["max_grad_norm"])
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss


data = list(batches())
name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
hello = {"framework": "PyTorch", "version": torch.__version__, "device": name, "threads": torch.get_num_threads()}


def synchronized(x, y):
    loss = step(x, y).detach()
    if device == "cuda" and not task["ahead"]:
        torch.cuda.synchronize()
    return loss


serve(hello, data, synchronized, lambda: torch.cuda.max_memory_allocated() if device == "cuda" else None)
