"""A search on two machines with Ray, with the same result as on one.

On both machines, with the same token (see docs/scaling.md), the same model and versions:

    ray start --head --node-ip-address 10.0.0.1 --port 6379        # on the first
    ray start --address 10.0.0.1:6379 --node-ip-address 10.0.0.2   # on the second

Then on the first, which reads the data and writes the run folder:

    python examples/two_machines.py --ray-address auto --model llava-hf/llava-v1.6-vicuna-7b-hf \\
        --data calib.jsonl --device cuda --dtype bfloat16
    python examples/two_machines.py --workers 2     # without a cluster: two processes
"""

import argparse
from pathlib import Path

import opsearch


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--ray-address")
    parser.add_argument("--workers", type=int, help="default: one for each GPU or core")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--n-v", default="16")
    parser.add_argument("--out", type=Path, default=Path("runs/two-machines"))
    given = parser.parse_args()

    config = opsearch.RunConfig(
        model=given.model,
        data=given.data,
        device=given.device,
        dtype=given.dtype,
        samples=given.samples,
        n_v=given.n_v if given.n_v == "16" else tuple(given.n_v.split(",")),
        objective="joint",
        heldout=0,
        out=given.out,
    )
    # Each chunk of samples goes to the next free worker; a lost worker's chunk goes to another.
    workers = opsearch.Workers(given.workers, given.ray_address)
    result = opsearch.run(config, workers=workers)
    print(result.policy.name, f"{result.value:.6f} {result.solution.unit}")


if __name__ == "__main__":
    main()
