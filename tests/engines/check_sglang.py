"""Has SGLang load packed models, by hand: `python tests/engines/check_sglang.py [WORK_DIR]`.

In an environment of its own (`docs/serving.md` has the steps); needs no network and no GPU. SGLang
runs on the CPU; compiled packages of it that are not to be had for CPUs are stubs here. Its engine
must give the tokens of the plain folder; in all other cases its loader makes a model, all of whose
parameters must be those that the plain folder gives, bit for bit. Damaged folders must end in an
error of Densor that names file and tensor. Folders are those of `check_vllm.py`.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import check_vllm

COMPILED = ("torchvision", "sgl_kernel")  # stubs where they are missing
STUBS = "CHECK_SGLANG_STUBS"  # in the environment: processes that are started from this file
RANKS = 2
SAME: dict[str, tuple[str, str, dict[str, Any]]] = {  # folder, the plain one, extra configuration
    "packed": ("packed", "plain", {}),
    "level 6": ("level6", "plain", {"threads": 1}),
    "emulated backend": ("packed", "plain", {"backend": "emulate"}),
    "against a base": ("delta", "tuned", {}),
    "a base that is named": ("delta", "tuned", {"base": "plain"}),
    "archives": ("archives", "plain", {}),
    "experts": ("experts-packed", "experts", {}),
    "plain": ("plain", "plain", {}),
}


class _Anything(type):
    """A class that has all attributes, which are such classes too."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {"__init__": lambda self, *a, **k: None})


class _Stub(types.ModuleType):
    """A module in which there is anything, of no use."""

    __getattr__ = _Anything.__getattr__


class _Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds stubs for compiled packages that are not there."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """A package, so that anything may be imported from below it."""
        if name.split(".")[0] not in self.names:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> Any:
        """Nothing but a name."""
        return _Stub(spec.name)

    def exec_module(self, module: Any) -> None:
        """Nothing to run."""


def install_stubs() -> None:
    """Has stubs found from now on."""
    missing = [name for name in COMPILED if importlib.util.find_spec(name) is None]
    from transformers import AutoProcessor  # noqa: F401, looks for torchvision itself

    sys.meta_path.insert(0, _Stubs(missing))


if STUBS in os.environ:
    install_stubs()


def started(rank: int = 0, ranks: int = 1, port: int = 0) -> None:
    """SGLang in this process, plugins loaded as it loads them."""
    from sglang.srt.plugins import load_plugins

    load_plugins()
    import torch.distributed

    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", world_size=ranks, rank=rank
    )


def loaded(folder: Path, extra: dict[str, Any] | None = None, rank: int = 0, ranks: int = 1) -> Any:
    """A folder's model, as SGLang loads it for one of its ranks."""
    from sglang.srt import runtime_context
    from sglang.srt.configs.device_config import DeviceConfig
    from sglang.srt.configs.load_config import LoadConfig
    from sglang.srt.configs.model_config import ModelConfig
    from sglang.srt.distributed import parallel_state
    from sglang.srt.layers.dp_attention import initialize_dp_attention
    from sglang.srt.model_loader import get_model
    from sglang.srt.server_args import ServerArgs

    args = ServerArgs(model_path=str(folder), device="cpu", tp_size=ranks, skip_tokenizer_init=True)
    runtime_context.publish(
        args, role="scheduler", ranks=runtime_context.SpawnRanks(world_rank=rank)
    )
    if not parallel_state.model_parallel_is_initialized():
        parallel_state.init_distributed_environment(
            world_size=ranks, rank=rank, local_rank=rank, backend="gloo"
        )
        parallel_state.initialize_model_parallel(backend="gloo")
    initialize_dp_attention(args)
    return get_model(
        model_config=ModelConfig.from_server_args(args),
        load_config=LoadConfig(model_loader_extra_config=extra or {}),
        device_config=DeviceConfig("cpu", gpu_id=0),
    )


def differing(one: Any, other: Any) -> list[str]:
    """Names of parameters and buffers of which not all bits are the same."""
    import torch

    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys() and len(first) > 10

    def bits(tensor: Any) -> Any:
        return tensor.detach().contiguous().reshape(-1).view(torch.uint8)

    return [n for n in first if not torch.equal(bits(first[n]), bits(second[n]))]


def check_ranks(work: Path, rank: int, port: int) -> None:
    """One of several ranks: the same bits, and no more decoded than its rows."""
    started(rank, RANKS, port)
    plain = loaded(work / "wide", {}, rank, RANKS)

    from densor.formats.container.packed_array import PackedArray
    from densor.formats.packed.reader import PackedFile

    decoded = {"rows": 0, "whole": 0}
    read, decode_part = PackedFile.read, PackedArray.decode_part

    def whole(self: Any, name: str, *args: Any) -> Any:
        decoded["whole"] += self.info(name).size
        return read(self, name, *args)

    def rows(self: Any, begin: int, out: Any, *args: Any) -> None:
        decoded["rows"] += self.cost(begin, begin + out.size)
        decode_part(self, begin, out, *args)

    PackedFile.read, PackedArray.decode_part = whole, rows  # type: ignore[method-assign]
    packed = loaded(work / "wide-packed", {}, rank, RANKS)
    assert not differing(plain, packed), f"rank {rank} has other weights"
    size = sum(path.stat().st_size for path in (work / "wide").glob("*.safetensors"))
    share = (decoded["rows"] + decoded["whole"]) / size
    assert decoded["rows"] and share < 0.8, decoded
    held = sum(p.nbytes for p in plain.parameters()) / size
    print(f"RESULT the same bits; holds {held:.2f} of the weights, decoded {share:.2f}")


def make_wide(work: Path) -> None:
    """A model with tensors of several chunks, plain and packed."""
    import torch
    import transformers

    from densor.files.model_folder import pack_model

    config = transformers.LlamaConfig(
        vocab_size=8192,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(work / "wide")
    pack_model(work / "wide", work / "wide-packed")


def print_tokens(folder: Path) -> None:
    """Those that SGLang's engine gives for a folder."""
    import sglang

    engine = sglang.Engine(
        model_path=str(folder),
        device="cpu",
        skip_tokenizer_init=True,
        attention_backend="torch_native",
        sampling_backend="pytorch",
        grammar_backend="none",
        max_total_tokens=2048,
        max_running_requests=4,
    )
    sampling = {"temperature": 0, "max_new_tokens": 16, "ignore_eos": True}
    for prompt in check_vllm.PROMPTS:
        done = engine.generate(input_ids=prompt, sampling_params=sampling)
        print(f"RESULT {done['output_ids']}", flush=True)
    engine.shutdown()


def check_tokens(work: Path) -> int:
    """Whether a packed folder gives the tokens of the plain one: 0 or 1 failures."""
    found = []
    for folder in ("plain", "packed"):
        text = in_process(work, "tokens", folder, "0").communicate()[0]
        found.append([line for line in text.splitlines() if line.startswith("RESULT ")])
    same = found[0] == found[1] and len(found[0]) == len(check_vllm.PROMPTS)
    print(f"engine: {'the same tokens' if same else f'FAILED {found}'}", flush=True)
    return int(not same)


def check_one(work: Path, port: int) -> int:
    """All cases of a single rank; the number of those that failed."""
    started(port=port)
    from densor.errors import DensorError

    failed, plains = 0, {}
    for name, (folder, plain, extra) in SAME.items():
        if plain not in plains:
            plains[plain] = loaded(work / plain)
        given = {k: str(work / v) if k == "base" else v for k, v in extra.items()}
        names = differing(plains[plain], loaded(work / folder, given))
        print(f"{name}: {'the same bits' if not names else f'FAILED {names}'}", flush=True)
        failed += bool(names)
    for name, (make, words) in check_vllm.WRONG.items():
        try:
            loaded(make(work))
        except DensorError as error:
            text = str(error).replace(str(work), "...")
            right = all(word in text for word in words)
            print(f"{name}: {'' if right else 'FAILED '}{type(error).__name__}: {text[:90]}")
            failed += not right
        else:
            print(f"{name}: FAILED was loaded")
            failed += 1
    return failed


def in_process(work: Path, *arguments: str) -> subprocess.Popen[str]:
    """This program in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, str(work), *arguments]
    cpu = {"SGLANG_USE_CPU_ENGINE": "1", "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **cpu, STUBS: "1"}
    log = (work / f"sglang-{'-'.join(arguments[:2])}.log").open("w")
    return subprocess.Popen(  # a session of its own, as an engine that ends may end more
        command,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=environment,
        cwd=work,
        start_new_session=True,
    )


def free_port() -> str:
    """A port that nobody listens at."""
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def main() -> int:
    """Runs all cases."""
    work = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()).resolve()
    if len(sys.argv) > 2:
        kind, number, port = sys.argv[2:]
        if kind == "rank":
            check_ranks(work, int(number), int(port))
            return 0
        if kind == "tokens":
            print_tokens(work / number)
            return 0
        return check_one(work, int(port))
    if not (work / "experts-packed").exists():
        check_vllm.make_models(work)
    if not (work / "wide-packed").exists():
        make_wide(work)
    failed = check_tokens(work)
    one = in_process(work, "one", "0", free_port())
    assert one.stdout is not None
    for line in one.stdout:
        print(line, end="", flush=True)
    failed += one.wait()
    port = free_port()
    for rank, process in enumerate([in_process(work, "rank", str(r), port) for r in range(RANKS)]):
        text = process.communicate()[0]
        lines = [line for line in text.splitlines() if line.startswith("RESULT ")]
        result = lines[-1].removeprefix("RESULT ") if lines else "FAILED, see its log"
        print(f"rank {rank} of {RANKS}: {result}")
        failed += process.returncode != 0
    print(f"{failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
