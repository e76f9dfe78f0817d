"""Runs vLLM with Densor installed, by hand: `python tests/engines/check_vllm.py [WORK_DIR]`.

In an environment of its own (`docs/serving.md` has the steps); needs no network and no GPU. A tiny
random Llama, plain and quantised, is packed in all ways, and each is served without any flags; its
tokens must be those of the plain folder. Then come damaged folders, each of which must end in an
error of Densor that names file and tensor. Cases run in processes of their own.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLAIN = "plain folder "
UPDATED = "weights that follow"
SEVERAL = "several engines in a process"
UNUSED = "tensors that the model does not use"
RELOADED = "loading again"
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
PROMPTS = [[1, 5, 9, 77, 3], list(range(40)), [7] * 9]


def served(folder: Path, **options: Any) -> Any:
    """An engine for a folder, and the tokens that it gives."""
    from vllm import LLM, SamplingParams

    engine = LLM(
        str(folder), skip_tokenizer_init=True, enforce_eager=True, max_model_len=128, **options
    )
    sampling = SamplingParams(temperature=0, max_tokens=16, detokenize=False, ignore_eos=True)
    done = engine.generate([{"prompt_token_ids": p} for p in PROMPTS], sampling)
    return engine, [list(one.outputs[0].token_ids) for one in done]


def make_models(work: Path) -> None:
    """The models that cases need, plain, quantised, packed and damaged."""
    import torch
    import transformers

    from densor.files.model_folder import pack_model

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
    )
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(work / "plain", max_shard_size="1MB")
    pack_model(work / "plain", work / "packed")
    pack_model(work / "plain", work / "level6", 6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[..., ::7] *= 1.0078125
    model.save_pretrained(work / "tuned")
    pack_model(work / "tuned", work / "delta", base=work / "plain")
    archived(work / "plain", work / "archives")
    quantised(work / "plain", work / "fp8", fp8_tensors, FP8)
    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
    quantised(work / "plain", work / "gptq", gptq_tensors, gptq)
    awq = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 128,
        "zero_point": True,
        "version": "gemm",
    }
    quantised(work / "plain", work / "awq", awq_tensors, awq)
    for name in ("fp8", "gptq", "awq"):
        pack_model(work / name, work / f"{name}-packed")
    experts = transformers.Qwen3MoeConfig(
        vocab_size=512,
        hidden_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=128,
        max_position_embeddings=256,
        initializer_range=0.2,
    )
    model = transformers.Qwen3MoeForCausalLM(experts).to(torch.bfloat16)
    model.save_pretrained(work / "experts")
    pack_model(work / "experts", work / "experts-packed")


def archived(source: Path, target: Path) -> None:
    """A folder whose weights are archives of their files."""
    import densor

    shutil.copytree(source, target)
    for path in target.glob("*.safetensors"):
        densor.compress_file(path, path.with_name(path.name + ".densor"))
        path.unlink()


def quantised(source: Path, target: Path, tensors_of: Any, method: dict[str, Any]) -> None:
    """A folder with the linear layers of another one quantised."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors*"))
    tensors = {}
    for path in sorted(source.glob("*.safetensors")):
        for name, weight in load_file(path).items():
            linear = name.endswith("proj.weight")
            tensors |= tensors_of(name, weight) if linear else {name: weight}
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "quantization_config": method}))


def fp8_tensors(name: str, weight: Any) -> dict[str, Any]:
    """A weight in FP8 with one scale."""
    import torch

    scale = weight.abs().max().float() / 448
    return {
        name: (weight.float() / scale).to(torch.float8_e4m3fn),
        f"{name}_scale": scale,
    }


def gptq_tensors(name: str, weight: Any) -> dict[str, Any]:
    """A weight in four bits, symmetrically, in groups of 128 inputs."""
    import torch

    out, inputs = weight.shape
    groups = weight.float().t().reshape(inputs // 128, 128, out)
    scales = groups.abs().amax(1) / 7
    whole = (groups / scales[:, None]).round().clamp(-8, 7).to(torch.int32).reshape(inputs, out) + 8
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    packed = (whole.reshape(inputs // 8, 8, out) << shifts[None, :, None]).sum(1).to(torch.int32)
    zeros = torch.full((inputs // 128, out // 8), 0x77777777, dtype=torch.int32)
    stem = name.removesuffix(".weight")
    return {
        f"{stem}.qweight": packed,
        f"{stem}.qzeros": zeros,
        f"{stem}.scales": scales.to(torch.bfloat16),
        f"{stem}.g_idx": torch.arange(inputs, dtype=torch.int32) // 128,
    }


def awq_tensors(name: str, weight: Any) -> dict[str, Any]:
    """A weight in four bits with zero points, in groups of 128 inputs."""
    import torch

    out, inputs = weight.shape
    groups = weight.float().t().reshape(inputs // 128, 128, out)
    scales = groups.abs().amax(1) / 7
    whole = (groups / scales[:, None]).round().clamp(-8, 7).to(torch.int32).reshape(inputs, out) + 8
    places = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7], dtype=torch.int32) * 4  # of eight outputs
    packed = (whole.reshape(inputs, out // 8, 8) << places).sum(2).to(torch.int32)
    zeros = torch.full((inputs // 128, out // 8), -0x77777778, dtype=torch.int32)
    stem = name.removesuffix(".weight")
    scales = scales.to(torch.bfloat16)
    return {f"{stem}.qweight": packed, f"{stem}.qzeros": zeros, f"{stem}.scales": scales}


def damaged(work: Path, name: str, source: str = "packed") -> tuple[Path, list[Path]]:
    """A copy of a packed folder that is to be damaged, and its files of weights."""
    shutil.rmtree(work / name, ignore_errors=True)
    shutil.copytree(work / source, work / name)
    return work / name, sorted((work / name).glob("*.safetensors"))


def flipped(work: Path) -> Path:
    """One bit within a blob."""
    folder, files = damaged(work, "flipped")
    data = bytearray(files[-1].read_bytes())
    data[-999] ^= 4
    files[-1].write_bytes(data)
    return folder


def cut(work: Path) -> Path:
    """A download that ended early."""
    folder, files = damaged(work, "cut")
    files[0].write_bytes(files[0].read_bytes()[:-1000])
    return folder


def shard_gone(work: Path) -> Path:
    """A shard that is not there."""
    folder, files = damaged(work, "gone")
    files[1].unlink()
    return folder


def shard_gone_unlisted(work: Path) -> Path:
    """Likewise, in a folder without an index."""
    folder, files = damaged(work, "gone-unlisted")
    files[1].unlink()
    (folder / "model.safetensors.index.json").unlink()
    return folder


def other_shard(work: Path) -> Path:
    """A shard under the name of another one."""
    folder, files = damaged(work, "exchanged")
    shutil.copy(files[0], files[1])
    return folder


def unnumbered(work: Path) -> Path:
    """A file that is not there, and nothing that says so but the model itself."""
    folder, files = damaged(work, "unnumbered")
    files[1].unlink()
    for number, path in enumerate([files[0], *files[2:]]):
        path.rename(folder / f"part{number}.safetensors")
    (folder / "model.safetensors.index.json").unlink()
    return folder


def archive_gone(work: Path) -> Path:
    """An archive that is not there."""
    folder, _ = damaged(work, "archive-gone", "archives")
    sorted(folder.glob("*.densor"))[0].unlink()
    return folder


def other_base(work: Path) -> Path:
    """A base of the right name with other weights."""
    (work / "elsewhere").mkdir(exist_ok=True)
    shutil.copytree(work / "delta", work / "elsewhere" / "delta", dirs_exist_ok=True)
    shutil.copytree(work / "tuned", work / "elsewhere" / "plain", dirs_exist_ok=True)
    return work / "elsewhere" / "delta"


def no_base(work: Path) -> Path:
    """No base at hand."""
    (work / "alone").mkdir(exist_ok=True)
    shutil.copytree(work / "delta", work / "alone" / "delta", dirs_exist_ok=True)
    return work / "alone" / "delta"


SAME: dict[str, tuple[str, str, dict[str, Any]]] = {  # folder, the plain one, options
    "packed": ("packed", "plain", {}),
    "level 6": ("level6", "plain", {"model_loader_extra_config": {"threads": 1}}),
    "emulated backend": ("packed", "plain", {"model_loader_extra_config": {"backend": "emulate"}}),
    "load_format=densor": ("packed", "plain", {"load_format": "densor"}),
    "against a base": ("delta", "tuned", {}),
    "archives": ("archives", "plain", {}),
    "experts": ("experts-packed", "experts", {}),
    "gptq": ("gptq-packed", "gptq", {}),
    "awq": ("awq-packed", "awq", {}),
}
WRONG: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {  # what the error names
    "flipped bit": (flipped, ("model-0000", "tensor '")),
    "cut file": (cut, ("model-00001",)),
    "missing shard": (shard_gone, ("model-00002", "tensors 'model")),
    "missing shard, no index": (shard_gone_unlisted, ("model-00002", "one of 5")),
    "exchanged shard": (other_shard, ("model-00002", "tensor 'model")),
    "missing archive": (archive_gone, ("model-00001", "tensors '")),
    "another base": (other_base, ("model.safetensors", "tensor '")),
    "no base": (no_base, ("model.safetensors", "tensor '")),
}
LACKING = {"missing weights": (unnumbered, ("unnumbered", "model.layers"))}  # vLLM looks for these


def same_fp8(work: Path) -> str:
    """vLLM has no products of FP8 on CPUs: only what the loader hands out is compared."""
    from vllm.config.load import LoadConfig
    from vllm.model_executor.model_loader import get_model_loader

    found = []
    for folder in ("fp8", "fp8-packed"):
        loader = get_model_loader(LoadConfig())
        source = loader.Source(str(work / folder), None)
        found.append(dict(loader._get_weights_iterator(source)))
    plain, packed = found
    assert plain.keys() == packed.keys() and len(plain) > 20
    for name, tensor in plain.items():
        other = packed[name]
        assert tensor.dtype == other.dtype and tensor.shape == other.shape
        flat = (t.contiguous().reshape(-1).view(torch_uint8()) for t in (tensor, other))
        assert (next(flat) == next(flat)).all(), name
    method = json.loads((work / "fp8-packed" / "config.json").read_text())["quantization_config"]
    return f"{len(plain)} tensors, the same bits; method {method['quant_method']}"


def unused(work: Path) -> str:
    """What a model says it does not use is not read; of an encoder alone, its shards are not."""
    from vllm.config.load import LoadConfig
    from vllm.model_executor.model_loader import get_model_loader

    def found(prefixes: Any = None, **rules: Any) -> set[str]:
        loader = get_model_loader(LoadConfig())
        loader._encoder_only_lm_prefixes = prefixes
        source = loader.Source(str(work / "packed"), None, **rules)
        return {name for name, _ in loader._get_weights_iterator(source)}

    every = found()
    assert found(is_unused_weight=lambda name: ".layers." in name) == {
        name for name in every if ".layers." not in name
    }
    encoder = found(("model.layers.",))
    assert "model.norm.weight" in encoder and encoder < every
    assert not found(("model.", "lm_head."))
    return f"{len(every)} tensors, {len(encoder)} of shards that hold others than layers"


def reloaded(work: Path) -> str:
    """Loading again from folders that are whole, and from such as are not.

    What is missing is found while the engine still serves; damage within a tensor is not, and it
    has to load again before it does.
    """
    from densor.errors import DensorError

    engine, tokens = served(work / "packed")
    engine.sleep(1)  # does nothing on a CPU
    engine.wake_up()
    said = []
    for make, serves in ((shard_gone, True), (cut, True), (archive_gone, True), (flipped, False)):
        try:
            engine.collective_rpc("reload_weights", kwargs={"weights_path": str(make(work))})
        except DensorError as error:
            said.append(type(error).__name__)
        else:
            raise AssertionError(f"{make.__name__}: was loaded")
        if serves:
            assert served_again(engine) == tokens, "weights did not stay"
    for name in ("packed", "plain", "archives"):
        engine.collective_rpc("reload_weights", kwargs={"weights_path": str(work / name)})
        assert served_again(engine) == tokens, f"reloaded weights differ: {name}"
    return ", ".join(said)


def torch_uint8() -> Any:
    """The type of bytes."""
    import torch

    return torch.uint8


def updated(work: Path) -> str:
    """An engine of the plain folder takes the weights of the tuned one, twice, and loses neither.

    In between come the plain ones again, and an update that cannot be had.
    """
    from safetensors.torch import load_file
    from vllm.config import WeightTransferConfig

    config = WeightTransferConfig(backend="densor")
    engine, first = served(work / "plain", weight_transfer_config=config)

    from densor.errors import DensorError
    from densor.sync import Publisher  # not before the engine is there: vLLM and numba

    weights = {}
    for name in ("plain", "tuned"):
        files = sorted((work / name).glob("*.safetensors"))
        weights[name] = {n: t for path in files for n, t in load_file(path).items()}
    store = str(work / "weights")
    shutil.rmtree(store, ignore_errors=True)
    engine.init_weight_transfer_engine({"init_info": {"store": store}})
    found = []
    with Publisher(weights["plain"], store, wait=True) as publisher:
        for step, name in enumerate(("tuned", "plain", "tuned")):
            publisher.publish(step, tensors=weights[name].items())
            publisher.wait()
            engine.start_weight_update()
            engine.update_weights({"update_info": {"number": publisher.number}})
            engine.finish_weight_update()
            found.append(served_again(engine))
        engine.start_weight_update()
        try:
            engine.update_weights({"update_info": {"number": 99, "timeout": 0.1}})
        except DensorError as error:
            print(f"REFUSED {error}")
        else:
            raise AssertionError("a message that is not there was waited for")
    assert found[0] != first, "weights were not updated"
    assert found[1] == first, "the plain weights did not come back"
    assert found[2] == found[0] == served_again(engine), "the tuned weights did not come back"
    return json.dumps(found[0])


ALONE = {
    "fp8 weights": same_fp8,
    UNUSED: unused,
    RELOADED: reloaded,
    UPDATED: updated,
}


def serve_one(work: Path, name: str) -> None:
    """A case in this process; its result goes to a file."""
    if name in ALONE:
        from vllm.plugins import load_general_plugins

        load_general_plugins()
        print(f"RESULT {ALONE[name](work)}")
        return
    if name == SEVERAL:
        found = [served(work / folder)[1] for folder in ("packed", "level6", "archives", "plain")]
        assert all(tokens == found[-1] for tokens in found), "tokens differ"
        print("RESULT " + json.dumps(found[0]))
        return
    wrong = WRONG | LACKING
    if name in wrong:
        from densor.errors import DensorError

        make, words = wrong[name]
        try:
            served(make(work))
        except DensorError as error:
            assert all(word in str(error) for word in words), f"{error}"
            print(f"RESULT {type(error).__name__}: {str(error).replace(str(work), '...')}")
            return
        raise AssertionError("was served")
    if name.startswith(PLAIN):
        folder, options = name.removeprefix(PLAIN), {}
    else:
        folder, options = SAME[name][0], SAME[name][2]
    tokens = served(work / folder, **options)[1]
    print("RESULT " + json.dumps(tokens))


def served_again(engine: Any) -> Any:
    """The tokens of an engine that has run."""
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=16, detokenize=False, ignore_eos=True)
    done = engine.generate([{"prompt_token_ids": p} for p in PROMPTS], sampling)
    return [list(one.outputs[0].token_ids) for one in done]


def ran(work: Path, name: str) -> str:
    """What a case says in a process of its own."""
    environment = {
        **os.environ,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, __file__, str(work), name]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=work)
    (work / f"{name.replace(' ', '-')}.log").write_text(done.stdout + done.stderr)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        last = (done.stderr or done.stdout).splitlines()[-1:]
        return f"FAILED {' '.join(last)}"
    return lines[-1].removeprefix("RESULT ")


def main() -> int:
    """Runs all cases, or the one that is named."""
    work = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()).resolve()
    if len(sys.argv) > 2 and sys.argv[2] == "--make":
        make_models(work)
        return 0
    if len(sys.argv) > 2:
        serve_one(work, sys.argv[2])
        return 0
    if not (work / "experts-packed").exists():
        make_models(work)
    expected: dict[str, str] = {}
    wrong = 0
    for name, (_, plain, _) in SAME.items():
        if plain not in expected:
            expected[plain] = ran(work, PLAIN + plain)
            print(f"{plain} (plain): {expected[plain]}", flush=True)
        found = ran(work, name)
        same = found == expected[plain] and not found.startswith("FAILED")
        wrong += not same
        print(f"{name}: {'the same tokens' if same else found}", flush=True)
    found = ran(work, SEVERAL)
    wrong += found != expected["plain"]
    print(f"{SEVERAL}: {'the same tokens' if found == expected['plain'] else found}", flush=True)
    found = ran(work, UPDATED)
    wrong += found != expected["tuned"]
    print(f"{UPDATED}: {'the same tokens' if found == expected['tuned'] else found}", flush=True)
    for name in ("fp8 weights", UNUSED, RELOADED, *WRONG, *LACKING):
        found = ran(work, name)
        wrong += found.startswith("FAILED")
        print(f"{name}: {found}", flush=True)
    print(f"{wrong} failed")
    return int(wrong > 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception:
        traceback.print_exc()
        sys.exit(1)
