"""`python -m fuzz`: runs targets for a number of executions or a time, by hand."""

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from densor.entropy.jit import BOUNDSCHECK
from fuzz.run import Stats, once, run
from fuzz.target import Target
from fuzz.targets import TARGETS


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m fuzz", description=__doc__)
    parser.add_argument("--target", action="append", help="by default all, one after the other")
    parser.add_argument("--executions", type=int, help="per target")
    parser.add_argument("--seconds", type=float, help="per target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes per target")
    parser.add_argument("--memory", action="store_true", help="measure memory per input; slow")
    parser.add_argument("--crashes", type=Path, default=Path("crashes"), help="folder for inputs")
    parser.add_argument("--report", type=Path, help="file that a line of JSON per run is added to")
    parser.add_argument("--replay", type=Path, nargs="+", help="inputs to be run once, no others")
    args = parser.parse_args()
    unknown = set(args.target or ()) - set(TARGETS)
    if unknown:
        parser.error(f"unknown target {', '.join(unknown)}; known are {', '.join(TARGETS)}")
    if args.replay and len(args.target or ()) != 1:
        parser.error("--replay needs one --target")
    if args.executions is None and args.seconds is None:
        args.executions = 100_000
    return args


def main() -> int:
    """Prints a line per target; 1 if there was a bug."""
    args = _parse()
    chosen = [TARGETS[name] for name in args.target or TARGETS]
    if args.replay:
        for path in args.replay:
            print(f"{path}: {once(chosen[0], path.read_bytes()) or 'accepted'}")
        return 0
    bugs = 0
    for target in chosen:
        for seed in target.seeds():  # compiles the kernels, which processes then share
            once(target, seed)
        stats = _run(target, args)
        print(stats.line(), flush=True)
        bugs += stats.bugs.total()
        if args.report:
            record = {**stats.to_json(), "boundscheck": BOUNDSCHECK, "seed": args.seed}
            record |= {"when": int(time.time()), "memory": args.memory}
            with args.report.open("a") as file:
                file.write(json.dumps(record) + "\n")
    return int(bugs > 0)


def _run(target: Target, args: argparse.Namespace) -> Stats:
    share = None if args.executions is None else -(-args.executions // args.jobs)

    def job(number: int) -> Stats:
        seed = args.seed + 1_000_000 * number
        return run(target, seed, share, args.seconds, args.crashes, args.memory)

    total = Stats(target.name)
    if args.jobs == 1:
        total.add(job(0))
        return total
    with ThreadPoolExecutor(args.jobs) as pool:
        for stats in pool.map(job, range(args.jobs)):
            total.add(stats)
    return total


if __name__ == "__main__":
    sys.exit(main())
