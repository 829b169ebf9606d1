"""The transformer in plain Python MLX: weights, logits, loss and gradients for each config.

Usage: transformer.py OUT CONFIGS FOLDER, with CONFIGS as JSON, {case: config}. Weights go to
FOLDER/{case}.safetensors under the names of the model, all else to OUT.

Attention is written out and positions are turned as in Hugging Face's `rotate_half`, so that the
fused kernels of the Rust model are compared with something else than themselves.
"""

import json
import sys

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map_with_path

mx.disable_compile()  # on a CPU it would start a C++ compiler
mx.set_default_device(mx.cpu)

BATCH, TOKENS = 2, 7


def rotate(x, theta):
    """x: (B, H, T, D)"""
    num_tokens, size = x.shape[-2:]
    frequencies = theta ** (-mx.arange(0, size, 2) / size)
    angles = mx.arange(num_tokens)[:, None] * frequencies[None]
    cos, sin = (mx.concatenate([f(angles)] * 2, axis=-1) for f in (mx.cos, mx.sin))
    rotated = mx.concatenate([-x[..., size // 2 :], x[..., : size // 2]], axis=-1)
    return (x * cos + rotated * sin).astype(x.dtype)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        width = c["hidden_size"] // c["num_heads"]
        self.num_kv_heads = c["num_kv_heads"] or c["num_heads"]
        for name, size in [("q", c["hidden_size"])] + [(n, width * self.num_kv_heads) for n in "kv"]:
            setattr(self, f"{name}_proj", nn.Linear(c["hidden_size"], size, bias=False))
        self.o_proj = nn.Linear(c["hidden_size"], c["hidden_size"], bias=False)

    def __call__(self, x):
        b, t, _ = x.shape
        heads = lambda x, n: x.reshape(b, t, n, -1).transpose(0, 2, 1, 3)
        q = rotate(heads(self.q_proj(x), self.c["num_heads"]), self.c["rope_theta"])
        k = rotate(heads(self.k_proj(x), self.num_kv_heads), self.c["rope_theta"])
        v = heads(self.v_proj(x), self.num_kv_heads)
        k, v = (mx.repeat(a, self.c["num_heads"] // self.num_kv_heads, axis=1) for a in (k, v))
        scores = q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5
        scores = scores + nn.MultiHeadAttention.create_additive_causal_mask(t)
        mixed = mx.softmax(scores, axis=-1) @ v
        return self.o_proj(mixed.transpose(0, 2, 1, 3).reshape(b, t, -1))


class FeedForward(nn.Module):
    def __init__(self, c):
        super().__init__()
        sizes = c["hidden_size"], c["intermediate_size"]
        self.gate_proj = nn.Linear(*sizes, bias=False)
        self.up_proj = nn.Linear(*sizes, bias=False)
        self.down_proj = nn.Linear(*reversed(sizes), bias=False)

    def __call__(self, x):
        return self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.self_attn = Attention(c)
        self.mlp = FeedForward(c)
        self.input_layernorm = nn.RMSNorm(c["hidden_size"], eps=c["rms_norm_eps"])
        self.post_attention_layernorm = nn.RMSNorm(c["hidden_size"], eps=c["rms_norm_eps"])

    def __call__(self, x):
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = [Block(c) for _ in range(c["num_layers"])]
        self.norm = nn.RMSNorm(c["hidden_size"], eps=c["rms_norm_eps"])

    def __call__(self, tokens):
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class Transformer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.model = Decoder(c)
        self.tied = c["tie_word_embeddings"]
        if not self.tied:
            self.lm_head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)

    def __call__(self, tokens):
        x = self.model(tokens)
        return self.model.embed_tokens.as_linear(x) if self.tied else self.lm_head(x)


def loss_fn(model, tokens, targets, smoothing):
    kept = targets != -100
    each = nn.losses.cross_entropy(
        model(tokens), mx.where(kept, targets, 0), label_smoothing=smoothing
    )
    return (each * kept).sum() / kept.sum()


def main(out, configs, folder):
    mx.random.seed(0)
    arrays = {}
    for case, config in json.loads(configs).items():
        model = Transformer(config)
        # Wide enough that every part of the model shows in every gradient.
        draw = lambda name, w: mx.random.normal(w.shape) * 0.3 + (1.0 if "norm" in name else 0.0)
        model.update(tree_map_with_path(draw, model.parameters()))
        mx.save_safetensors(f"{folder}/{case}.safetensors", dict(tree_flatten(model.parameters())))
        tokens = mx.random.randint(0, config["vocab_size"], (BATCH, TOKENS))
        targets = mx.random.randint(0, config["vocab_size"], (BATCH, TOKENS))
        targets[0, 2:4] = -100
        value_and_grad = nn.value_and_grad(model, loss_fn)
        loss, grads = value_and_grad(model, tokens, targets, config["label_smoothing"])
        arrays |= {f"{case}/tokens": tokens, f"{case}/targets": targets, f"{case}/loss": loss}
        arrays[f"{case}/output"] = model(tokens)
        arrays |= {f"{case}/grad/{name}": grad for name, grad in tree_flatten(grads)}
        model.set_dtype(mx.bfloat16)
        arrays[f"{case}/output_bf16"] = model(tokens)
    mx.save_safetensors(out, arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
