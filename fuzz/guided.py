"""`python -m fuzz.guided TARGET [options of libFuzzer]`: guided by coverage, which Atheris sees.

Worth it for the parsers, which are Python; nothing is known of what kernels do.
"""

import sys
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["densor.formats"]):
    from fuzz.run import once
    from fuzz.targets import TARGETS


def main() -> None:
    """Runs until something is found, or for `-runs=N` or `-max_total_time=SECONDS`."""
    target = TARGETS[sys.argv[1]]
    seeds = target.seeds()
    corpus = Path("corpus") / target.name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = Random(seed)
        if rng.random() < 0.5:
            return bytes(atheris.Mutate(data, most))
        return target.mutate(data or seeds[0], rng, seeds)[:most]

    arguments = [sys.argv[0], *sys.argv[2:], "-max_len=65536", str(corpus)]
    atheris.Setup(arguments, lambda data: once(target, data), custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
