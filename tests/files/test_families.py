"""Models that were made from each other: found, planned and packed as families."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from helpers import random_state

import densor
from densor.cli.main import main
from densor.errors import ArgumentError, MissingFileError
from densor.files.families import find_families, find_models, pack_families
from densor.files.model_folder import unpack_model
from densor.options import WriteOptions

Bits = dict[str, np.ndarray]
SHAPES = {
    "embed": (300, 64),
    "layer.0.weight": (256, 256),
    "layer.1.weight": (256, 256),
    "b": (64,),
}


def weights(seed: str) -> Bits:
    """BF16 weights, drawn at random."""
    rng = random_state("families", seed)
    drawn = {name: rng.normal(0, 0.02, shape).astype(np.float32) for name, shape in SHAPES.items()}
    return {name: (each.view(np.uint32) >> 16).astype(np.uint16) for name, each in drawn.items()}


def tuned(bits: Bits, seed: str, share: float) -> Bits:
    """As after training at a small learning rate: a share of all weights a step up or down."""
    rng = random_state("tuned", seed)
    return {
        name: (each + (rng.random(each.shape) < share) * rng.choice([1, -1], each.shape)).astype(
            np.uint16
        )
        for name, each in bits.items()
    }


def write_model(folder: Path, bits: Bits) -> None:
    header, at = {}, 0
    for name, each in bits.items():
        end = at + each.nbytes
        header[name] = {"dtype": "BF16", "shape": each.shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    folder.mkdir(parents=True)
    content = struct.pack("<Q", len(text)) + text + b"".join(e.tobytes() for e in bits.values())
    (folder / "model.safetensors").write_bytes(content)
    (folder / "config.json").write_text('{"model_type": "llama"}')


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two families, of four models and of two, and one of another shape."""
    store = tmp_path / "store"
    first, second = weights("first"), weights("second")
    write_model(store / "org" / "first", first)
    for number, share in enumerate((0.01, 0.03, 0.05)):
        write_model(store / "users" / f"tune{number}", tuned(first, str(number), share))
    write_model(store / "second", second)
    write_model(store / "second-tuned", tuned(second, "second", 0.02))
    write_model(store / "other", {"w": weights("other")["layer.0.weight"]})
    (store / "no-model").mkdir()
    (store / "no-model" / "config.json").write_text("{}")
    return store


def names(store: Path) -> list[list[str]]:
    families = find_families(find_models([store]), WriteOptions(threads=1))
    return sorted(sorted(m.model.path.name for m in family.members) for family in families)


def test_families_are_found(store: Path) -> None:
    assert names(store) == [
        ["first", "tune0", "tune1", "tune2"],
        ["other"],
        ["second", "second-tuned"],
    ]
    families = find_families(find_models([store]), WriteOptions(threads=1))
    (family,) = [family for family in families if len(family.members) == 4]
    assert family.base.path.name == "first"  # which is nearest to all others
    for member in family.members[1:]:
        assert member.packed < 0.4 * member.alone


def test_packing_a_family_saves_most_of_it(store: Path, tmp_path: Path) -> None:
    (family,) = [f for f in find_families(find_models([store])) if len(f.members) == 4]
    done = pack_families([family], tmp_path / "out", WriteOptions(threads=1))
    plain = sum(packed.sizes.original for _, packed in done)
    stored = sum(packed.sizes.stored for _, packed in done)
    assert stored < 0.4 * plain
    (tmp_path / "back").mkdir()
    planned = sum(member.packed for member in family.members)
    assert abs(stored - planned) < 0.1 * plain
    for target, _ in done:
        unpack_model(target, tmp_path / "back" / target.name)
        (source,) = [m.model.path for m in family.members if m.model.path.name == target.name]
        for name in ("model.safetensors", "config.json"):
            back = (tmp_path / "back" / target.name / name).read_bytes()
            assert back == (source / name).read_bytes()


def test_the_command(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["hub", "plan", str(store), "--apply", str(out), "-q"]) == 0
    shown = capsys.readouterr().out
    assert "\n  tune1" in shown and "7 models, 3 without a base" in shown
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["first", "tune0", "tune1", "tune2", "second", "second-tuned", "other"]
    )
    assert main(["hub", "plan", str(store), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(len(family["models"]) for family in found) == [1, 2, 4]
    assert main(["hub", "plan", str(out)]) == 1
    assert "is packed already" in capsys.readouterr().err


def test_faults(store: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        find_models([tmp_path / "nowhere"])
    assert main(["hub", "plan", str(store / "no-model")]) == 1
    write_model(store / "elsewhere" / "other", weights("third"))
    families = find_families(find_models([store]))
    with pytest.raises(ArgumentError, match="two models are called 'other'"):
        pack_families(families, tmp_path / "out", WriteOptions())
    assert not (tmp_path / "out").exists()
    (store / "first.safetensors").write_bytes(b"x")
    (store / "second" / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(densor.DensorError):
        find_models([store])


def test_a_model_is_found_once(store: Path) -> None:
    models = find_models([store, store / "org"])
    assert len(models) == 7


def test_empty_tensors_and_odd_sizes(tmp_path: Path) -> None:
    odd = {"w": weights("odd")["embed"][:37, :3].copy(), "none": np.empty((0, 4), np.uint16)}
    write_model(tmp_path / "a", odd)
    write_model(tmp_path / "b", odd)
    assert [len(family.members) for family in find_families(find_models([tmp_path]))] in (
        [2],
        [1, 1],
    )
