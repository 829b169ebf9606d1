"""Reads an export, and the shards of a checkpoint by their index, as other tools do.

Arguments: the file to write, the folder of an export, the folder of a step. Keys: `export.{name}` and
`shards.{name}`, the arrays of each.
"""

import json
import sys
from pathlib import Path

import mlx.core as mx

output, export, step = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
arrays = {f"export.{name}": array for name, array in mx.load(str(export / "model.safetensors")).items()}
config = json.loads((export / "config.json").read_text())
assert config["model_type"] == "mlp" and config["torch_dtype"] == "bfloat16", config

index = json.loads((step / "model.safetensors.index.json").read_text())
for name, shard in index["weight_map"].items():
    arrays[f"shards.{name}"] = mx.load(str(step / shard))[name]
total_size = sum(array.nbytes for name, array in arrays.items() if name.startswith("shards."))
assert index["metadata"]["total_size"] == total_size, index
mx.save_safetensors(output, arrays)
