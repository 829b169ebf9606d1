"""Prints what TensorBoard's own reader finds in a folder, as JSON."""

import json
import math
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# 0 keeps every point; the default is a sample.
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "tensors": 0})
events.Reload()
tags = events.Tags()


def number(value):
    """JSON has no infinity."""
    return value if math.isfinite(value) else str(value)


def kind(metadata):
    return [metadata.plugin_data.plugin_name, metadata.data_class]


json.dump(
    {
        "scalars": {tag: [[e.step, number(e.value)] for e in events.Scalars(tag)] for tag in tags["scalars"]},
        "texts": {
            tag: [text.decode() for e in events.Tensors(tag) for text in e.tensor_proto.string_val]
            for tag in tags["tensors"]
        },
        "kinds": {tag: kind(events.SummaryMetadata(tag)) for tag in tags["tensors"]},
    },
    sys.stdout,
)
