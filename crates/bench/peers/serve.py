"""What the peers in Python have in common: steps that are taken when `step N` is read; see training/worker.rs.

Their programs begin with this file.
"""

import json
import resource
import sys
import time

task = json.loads(sys.argv[1])
sizes = task["sizes"]


def serve(hello, data, step, peak_bytes):
    """Takes steps on these batches until nobody asks for more; `step` returns its loss, whose `item` waits."""
    print(json.dumps(hello), flush=True)
    taken = 0
    # Those at both ends of a turn ahead do not count.
    ends = int(task["ahead"])
    for line in sys.stdin:
        seconds, losses = [], []
        began = time.perf_counter()

        def end():
            nonlocal began
            value = losses.pop(0).item()
            now = time.perf_counter()
            seconds.append(now - began)
            began = now
            return value

        for _ in range(int(line.split()[1]) + 2 * ends):
            x, y = data[taken % len(data)]
            taken += 1
            losses.append(step(x, y))
            if len(losses) > ends:
                value = end()
        while losses:
            value = end()
        unit = 1 if sys.platform == "darwin" else 1024
        resident = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = seconds[ends : len(seconds) - ends]
        reply = {"seconds": seconds, "loss": value, "peak_bytes": peak_bytes(), "resident_peak_bytes": resident}
        print(json.dumps(reply), flush=True)
