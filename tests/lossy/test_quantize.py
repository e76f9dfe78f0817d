"""Lossy quantisation: goals are reached, what is in the archive is what was measured, bad input."""

import numpy as np
import pytest

import densor
from densor.lossy import quantize
from densor.lossy.scalar import clustered, sample_of, uniform


def weights(*shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    found = {
        f"layer{i}": rng.laplace(0, 0.1 * 2**-i, shape).astype("f4")
        for i, shape in enumerate(shapes)
    }
    return found | {"bias": rng.normal(size=40).astype("f4"), "steps": np.arange(9)}


MODEL = weights((60, 80), (32, 3, 5, 5), (50, 60))


@pytest.mark.parametrize("size", [0.2, 0.1])
def test_size_is_kept(size: float) -> None:
    found = quantize(MODEL, size=size)
    assert 0.85 * size < found.size <= size
    assert len(found.archive) == round(found.size * sum(t.nbytes for t in MODEL.values()))
    read = densor.load(found.archive)
    assert set(read) == set(MODEL)
    for name, tensor in found.tensors.items():
        assert read[name].dtype == MODEL[name].dtype
        assert read[name].shape == MODEL[name].shape
        assert read[name].tobytes() == tensor.tobytes()
    for name in ("bias", "steps"):
        assert read[name].tobytes() == MODEL[name].tobytes()
    for layer in found.layers:
        error = np.square(MODEL[layer.name] - read[layer.name]).sum()
        assert layer.error == pytest.approx(error / np.square(MODEL[layer.name]).sum(), rel=1e-3)
        assert len(np.unique(read[layer.name])) <= layer.levels


def test_less_space_is_more_error() -> None:
    errors = [sum(x.error for x in quantize(MODEL, size=size).layers) for size in (0.3, 0.1)]
    assert errors == sorted(errors)


def test_accuracy_is_kept() -> None:
    def calibrate(state: dict[str, np.ndarray]) -> float:
        return -sum(float(np.square(state[name] - MODEL[name]).sum()) for name in MODEL)

    found = quantize(MODEL, accuracy=-8.0, calibrate=calibrate)
    assert found.accuracy is not None and -8.0 <= found.accuracy < -4.0
    assert found.size < quantize(MODEL, accuracy=-0.8, calibrate=calibrate).size


def test_what_is_kept_stays() -> None:
    found = quantize(MODEL, size=0.5, keep=["layer1"])
    assert found.tensors["layer1"] is MODEL["layer1"]
    metadata = densor.open(found.archive).metadata()
    original = sum(tensor.nbytes for tensor in MODEL.values())
    assert metadata == {"lossy": "true", "lossy.original_bytes": str(original)}


def test_a_multiplier_needs_no_search() -> None:
    found = quantize(MODEL, size=0.1)
    again = quantize(MODEL, multiplier=found.multiplier)
    assert again.archive == found.archive


def test_quantisers() -> None:
    sample = sample_of(MODEL["layer0"])
    free = uniform(sample, 0.05, 0.0)
    assert free is not None
    replaced = free.replaced(MODEL["layer0"])
    assert np.abs(replaced - MODEL["layer0"]).max() <= 0.025001
    priced = uniform(sample, 0.05, 1e-3)
    assert priced is not None
    zeros = [np.count_nonzero(book.replaced(sample) == 0) for book in (free, priced)]
    assert zeros[1] > 1.2 * zeros[0]  # the dead zone
    moved = clustered(sample, priced, 1e-3)
    errors = [np.square(sample - book.replaced(sample)).sum() for book in (priced, moved)]
    assert errors[1] < errors[0]


def test_zones_are_the_best_choice() -> None:
    rng = np.random.default_rng(3)
    sample = rng.normal(size=4000).astype("f4")
    book = uniform(sample, 0.4, 0.02)
    assert book is not None and uniform(sample, 1e-4, 0.02) is None
    counts = np.bincount(book.indices(sample.astype(float)), minlength=book.values.size)
    assert np.all(np.diff(book.bounds) > 0) and counts.sum() == sample.size
    assert 0 in book.values


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(value: float) -> None:
    model = {name: tensor.copy() for name, tensor in MODEL.items()}
    model["layer2"][3, 4] = value
    with pytest.raises(densor.ArgumentError, match="layer2: has weights that are infinite"):
        quantize(model, size=0.1)


def test_layers_of_zeros() -> None:
    model = MODEL | {"zeros": np.zeros((40, 40), "f4")}
    found = quantize(model, size=0.1)
    assert not densor.load(found.archive)["zeros"].any()
    with pytest.raises(densor.ArgumentError, match="no weights"):
        quantize({"bias": np.ones(9, "f4")}, size=0.1)


def test_goals_that_nothing_has_to_be_lost_for() -> None:
    found = quantize(MODEL, size=0.99)
    assert all(np.array_equal(found.tensors[name], MODEL[name]) for name in MODEL)
    zeros = {"zeros": np.zeros((40, 40), "f4")}
    for goal in ({"size": 0.5}, {"accuracy": 0.0, "calibrate": lambda state: 0.0}):
        assert not quantize(zeros, **goal).tensors["zeros"].any()
    ones = {"ones": np.ones((99, 99), "f4")}
    assert (quantize(ones, size=0.2).tensors["ones"] == 1).all()


def test_no_weight_becomes_infinite() -> None:
    rng = np.random.default_rng(1)
    for dtype, most in (("f2", 65504), ("f4", 3.4e38)):
        values = rng.uniform(-1, 1, (80, 80)) * most
        found = quantize({"w": values.astype(dtype)}, size=0.5)
        assert np.isfinite(found.tensors["w"]).all()
        with np.errstate(over="ignore"):
            lost = (values.astype(dtype) / most).astype("f8") - found.tensors["w"] / most
        assert found.layers[0].error == pytest.approx(
            np.square(lost).sum() / np.square(values / most).sum(), rel=1e-2
        )


def test_numbers_that_fp32_has_not_are_kept() -> None:
    tiny = MODEL | {"tiny": np.full((40, 40), 1e-200)}
    assert (quantize(tiny, size=0.3).tensors["tiny"] == 1e-200).all()


def test_what_is_kept_may_be_infinite() -> None:
    mask = np.where(np.tri(40, dtype=bool), 0, -np.inf).astype("f4")
    bias = np.array([np.nan, 1e30], "f4")
    found = quantize(MODEL | {"mask": mask, "b": bias}, size=0.2, keep=["mask"])
    assert found.tensors["mask"] is mask and found.tensors["b"] is bias


def test_tied_tensors_stay_tied() -> None:
    shared = MODEL["layer0"]
    found = quantize({"embed": shared, "head": shared, "turned": shared.T}, size=0.2)
    assert found.original == 2 * shared.nbytes
    assert found.tensors["embed"] is found.tensors["head"]
    assert [layer.name for layer in found.layers] == ["embed", "turned"]


def failing(_: object) -> float:
    raise ZeroDivisionError("no data")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "one goal"),
        ({"size": 0.1, "accuracy": 1.0}, "one goal"),
        ({"size": 0.1, "multiplier": 1.0}, "one goal"),
        ({"multiplier": 0.0}, "between"),
        ({"multiplier": float("nan")}, "between"),
        ({"size": 0.0}, "between 0 and 1"),
        ({"size": 2.0}, "between 0 and 1"),
        ({"size": float("nan")}, "between 0 and 1"),
        ({"size": 1e-4}, "without any weights"),
        ({"accuracy": 1.0}, "calibrate"),
        ({"accuracy": float("inf"), "calibrate": lambda _: 1.0}, "finite"),
        ({"accuracy": 1.0, "calibrate": lambda _: 0.5}, "the model itself has 0.5"),
        ({"accuracy": 1.0, "calibrate": lambda _: float("nan")}, "no number"),
        ({"accuracy": 1.0, "calibrate": lambda _: "good"}, "calibrate failed"),
        ({"accuracy": 1.0, "calibrate": failing}, "ZeroDivisionError: no data"),
        ({"size": 0.1, "calibrate": failing}, "ZeroDivisionError: no data"),
        ({"size": 0.1, "keep": ["layer9"]}, "layer9"),
        ({"size": "small"}, "a number"),
    ],
)
def test_bad_arguments(arguments: dict, text: str) -> None:
    with pytest.raises(densor.ArgumentError, match=text):
        quantize(MODEL, **arguments)


def test_bad_models() -> None:
    for model in (7, {"a": 1.0}, {1: np.ones((40, 40))}):
        with pytest.raises(densor.ArgumentError):
            quantize(model, size=0.1)


def test_bad_torch_modules() -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    for model in (
        nn.Linear(40, 40, device="meta"),
        nn.LazyLinear(40),
        {"a": torch.eye(40).to_sparse()},
    ):
        with pytest.raises(densor.ArgumentError):
            quantize(model, size=0.1)
    module = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 0))

    def resized(given: object) -> float:
        given[0].weight = nn.Parameter(torch.zeros(3, 3))
        return 1.0

    with pytest.raises(densor.ArgumentError, match="shapes"):
        quantize(module, size=0.5, calibrate=resized)
    module = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 0))

    def named(given: object) -> float:
        return float(given[0](input=torch.ones(40)).detach().sum())

    found = quantize(module, size=0.5, calibrate=named)
    assert found.size <= 0.5


def test_torch_modules() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    module = torch.nn.Sequential(
        torch.nn.Linear(64, 64), torch.nn.Linear(64, 64, dtype=torch.bfloat16)
    )
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    seen = []

    def calibrate(given: object) -> float:
        assert given is module
        seen.append(module[0].weight.detach().clone())
        module[0](torch.randn(300, 64))
        return 0.75

    found = quantize(module, size=0.15, calibrate=calibrate)
    assert found.accuracy == 0.75
    with densor.open(found.archive) as file:
        assert (file.metadata() or {})["format"] == "pt"
    assert torch.equal(seen[-1], found.tensors["0.weight"])
    assert not torch.equal(seen[-1], before["0.weight"])
    assert found.tensors["1.weight"].dtype == torch.bfloat16
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
