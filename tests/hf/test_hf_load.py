"""transformers loads packed folders: every kind of model, bit for bit; bad ones not at all."""

import copy
import importlib
import json
import logging
import pickle
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.22")

from helpers import with_header  # noqa: E402
from hf_models import MODELS, bert, damaged, files, llama, mixtral, same  # noqa: E402
from torch_tools import bits  # noqa: E402

import densor.hf  # noqa: E402
import densor.torch  # noqa: E402
from densor.errors import (  # noqa: E402
    ArgumentError,
    ChecksumError,
    DensorError,
    FileError,
    FormatError,
    TruncatedError,
    UnsupportedError,
)
from densor.formats.container import tensor_blob  # noqa: E402
from densor.formats.packed.reader import PackedFile  # noqa: E402

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Makes, once for each, the plain and the packed folder of a model."""
    made = {}

    def get(name, model=None, **saving):
        if name not in made:
            place = tmp_path_factory.mktemp(name)
            (model or MODELS[name]()).save_pretrained(place / "plain", **saving)
            densor.hf.pack_model(place / "plain", place / "packed")
            made[name] = place / "plain", place / "packed"
        return made[name]

    return get


@pytest.fixture
def spoilt(folders, tmp_path):
    """A copy of a packed folder, to be damaged."""
    _, packed = folders("llama")
    shutil.copytree(packed, tmp_path / "spoilt")
    return tmp_path / "spoilt"


def blobs_of(folder):
    return [name for file in _open(folder) for name in file if file.is_blob(name)]


def _open(folder):
    return [PackedFile(path) for path in sorted(Path(folder).glob("model*.safetensors"))]


@pytest.mark.parametrize("name", MODELS)
def test_loads_bit_for_bit(folders, name):
    plain, packed = folders(name)
    assert blobs_of(packed)
    model_class = type(MODELS[name]())
    wanted, wanted_info = model_class.from_pretrained(plain, output_loading_info=True)
    found, info = model_class.from_pretrained(packed, output_loading_info=True)
    same(wanted, found)
    assert info == wanted_info
    assert not any(parameter.is_meta for parameter in found.parameters())
    assert [p.requires_grad for p in wanted.parameters()] == [
        p.requires_grad for p in found.parameters()
    ]


def test_loads_as_densor_hf_says(folders):
    plain, packed = folders("llama")
    found = densor.hf.from_pretrained(packed, dtype="auto")
    assert type(found) is transformers.LlamaForCausalLM
    same(transformers.LlamaForCausalLM.from_pretrained(plain, dtype="auto"), found)
    same(found, densor.hf.from_pretrained(plain, dtype="auto"))
    base = densor.hf.from_pretrained(packed, model_class=transformers.LlamaModel, dtype="auto")
    same(found.model, base)


def test_outputs_are_the_same(folders):
    plain, packed = folders("llama")
    wanted = transformers.AutoModelForCausalLM.from_pretrained(plain)
    found = transformers.AutoModelForCausalLM.from_pretrained(packed)
    tokens = torch.arange(1, 17).reshape(2, 8)
    with torch.no_grad():
        assert bits(wanted(tokens).logits) == bits(found(tokens).logits)
    out = found.generate(tokens, max_new_tokens=4, do_sample=False)
    assert torch.equal(out, wanted.generate(tokens, max_new_tokens=4, do_sample=False))


@pytest.mark.parametrize("places", ["disk", {"": "disk"}, {"": "cpu", "model.layers.1": "disk"}])
def test_weights_that_stay_on_disk(folders, places):
    plain, packed = folders("llama")
    wanted = transformers.AutoModelForCausalLM.from_pretrained(plain, dtype="auto")
    found = densor.hf.from_pretrained(packed, dtype="auto", device_map=places)
    sizes = densor.torch.offloaded(found)
    assert sizes.on_disk > 0 and (sizes.packed > 0) == (len(places) == 2)
    tokens = torch.arange(1, 17).reshape(2, 8)
    with torch.no_grad():
        for _ in range(2):
            assert bits(wanted(tokens).logits) == bits(found(tokens).logits)
    out = found.generate(tokens, max_new_tokens=4, do_sample=False)
    assert torch.equal(out, wanted.generate(tokens, max_new_tokens=4, do_sample=False))
    same(wanted, densor.torch.unpack_module(found))


def test_damage_of_weights_that_stay_on_disk(folders, tmp_path):
    folder = shutil.copytree(folders("llama")[1], tmp_path / "damaged")
    file = _open(folder)[0]
    name = blobs_of(folder)[-1]
    place = file.header.tensors[name].end - 12
    data = bytearray(file.path.read_bytes())
    data[place] ^= 1
    file.path.write_bytes(data)
    with pytest.raises(DensorError, match=rf"model\.safetensors: tensor '{name}'"):
        densor.hf.from_pretrained(folder, dtype="auto", device_map="disk")


@pytest.mark.parametrize("name", ["llama", "bert", "whisper"])
def test_the_base_model_of_any_head(folders, name):
    plain, packed = folders(name)
    same(
        transformers.AutoModel.from_pretrained(plain),
        transformers.AutoModel.from_pretrained(packed),
    )


def test_a_head_that_is_not_in_the_checkpoint(folders):
    plain, packed = folders("bert")
    model_class = transformers.AutoModelForSequenceClassification
    loaded = []
    for folder in (plain, packed):
        model, info = model_class.from_pretrained(folder, output_loading_info=True)
        assert info["missing_keys"] == {"classifier.weight", "classifier.bias"}
        loaded.append(model.bert)
    same(*loaded)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, "auto"])
@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_dtype_is_a_cast(folders, name, dtype):
    plain, packed = folders(name)
    load = transformers.AutoModelForCausalLM.from_pretrained
    same(load(plain, dtype=dtype), load(packed, dtype=dtype))


def test_dtype_auto_without_a_type_in_the_configuration(folders, tmp_path):
    for folder, new in zip(folders("llama"), ("plain", "packed"), strict=True):
        shutil.copytree(folder, tmp_path / new)
        path = tmp_path / new / "config.json"
        config = json.loads(path.read_text())
        del config["dtype"]
        path.write_text(json.dumps(config))
    load = transformers.AutoModelForCausalLM.from_pretrained
    found = load(tmp_path / "packed", dtype="auto")
    assert found.dtype == torch.bfloat16
    same(load(tmp_path / "plain", dtype="auto"), found)


@pytest.mark.parametrize(
    "options",
    [
        {"device_map": "cpu"},
        {"device_map": "auto"},
        {"low_cpu_mem_usage": True},
        {"use_safetensors": True},
        {"disable_mmap": True},
    ],
)
def test_ways_of_loading(folders, options):
    plain, packed = folders("mixtral")
    load = transformers.AutoModelForCausalLM.from_pretrained
    same(load(plain, **options), load(packed, **options))


def test_one_after_the_other(folders, monkeypatch):
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")
    plain, packed = folders("mixtral")
    load = transformers.AutoModelForCausalLM.from_pretrained
    same(load(plain), load(packed))


def test_offload_to_disk(folders, tmp_path):
    pytest.importorskip("accelerate")
    plain, packed = folders("llama")
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.rotary_emb": "cpu"}
    places |= {"model.layers.1": "disk", "model.norm": "cpu", "lm_head": "cpu"}
    load = transformers.AutoModelForCausalLM.from_pretrained
    tokens = torch.arange(1, 9).reshape(1, 8)
    found = load(packed, device_map=places, offload_folder=tmp_path)
    with torch.no_grad():
        assert bits(load(plain)(tokens).logits) == bits(found(tokens).logits)


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_shards(folders, name):
    plain, packed = folders(f"{name}-shards", MODELS[name](), max_shard_size="40KB")
    index = "model.safetensors.index.json"
    assert len(list(packed.glob("model-*.safetensors"))) > 2
    assert (plain / index).read_bytes() == (packed / index).read_bytes()
    load = transformers.AutoModelForCausalLM.from_pretrained
    same(load(plain), load(packed))


def test_experts_that_are_saved_fused(folders):
    plain, packed = folders("mixtral-fused", mixtral(), save_original_format=False)
    assert any("experts.gate_up_proj" in name for name in blobs_of(packed))
    load = transformers.AutoModelForCausalLM.from_pretrained
    same(load(plain), load(packed))
    same(load(plain), load(folders("mixtral")[1]))


def test_names_of_old_checkpoints(folders, tmp_path):
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma"): tensor
        for name, tensor in bert().state_dict().items()
    }
    plain, _ = folders("bert")
    old = tmp_path / "old"
    shutil.copytree(plain, old)
    densor.torch.save_packed_file(state, tmp_path / "packed", {"format": "pt"})
    with open(old / WEIGHTS, "wb") as file:
        PackedFile(tmp_path / "packed").unpack(file)
    densor.hf.pack_model(old, tmp_path / "new")
    same(transformers.BertModel.from_pretrained(plain), densor.hf.from_pretrained(tmp_path / "new"))


def test_variants(folders, tmp_path):
    plain, packed = folders("llama-variant", llama(), variant="fp16")
    assert [path.name for path in packed.glob("*.safetensors")] == ["model.fp16.safetensors"]
    load = transformers.AutoModelForCausalLM.from_pretrained
    same(load(plain, variant="fp16"), load(packed, variant="fp16"))


@pytest.mark.parametrize("name", ["llama-tied", "mixtral", "bert", "wav2vec2"])
def test_saving_a_loaded_model_makes_a_plain_checkpoint(folders, tmp_path, name):
    loaded = []
    for folder, new in zip(folders(name), ("plain", "packed"), strict=True):
        model = type(MODELS[name]()).from_pretrained(folder)
        model.save_pretrained(tmp_path / new)
        loaded.append(model)
    assert files(tmp_path / "plain") == files(tmp_path / "packed")
    assert "quantization" not in (tmp_path / "packed" / "config.json").read_text()
    assert not hasattr(loaded[1], "hf_quantizer")
    assert not loaded[1].is_quantized
    same(loaded[0], type(loaded[0]).from_pretrained(tmp_path / "packed"))


def test_training_goes_on_from_a_loaded_model(folders):
    losses = []
    for folder in folders("llama"):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        tokens = torch.arange(1, 17).reshape(2, 8)
        for _ in range(3):
            loss = model(tokens, labels=tokens).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        losses.append(bits(loss))
    assert losses[0] == losses[1]


def test_what_may_be_done_with_a_loaded_model_is_as_for_a_plain_one(folders):
    """Its vocabulary changes, it is copied, sent and shared; each weight has memory of its own.

    That cannot be resized in place, nor can that of plain weights.
    """
    storages = []
    for folder in folders("llama"):
        model = densor.hf.from_pretrained(folder)
        parameters = list(model.parameters())
        storages.append([p.untyped_storage() for p in parameters])
        assert all(
            storage.nbytes() == p.nbytes
            for storage, p in zip(storages[-1], parameters, strict=True)
        )
    for plain, packed in zip(*storages, strict=True):
        assert packed.resizable() >= plain.resizable()
    rows = model.config.vocab_size
    before = model.get_input_embeddings().weight.detach()[: rows - 8].clone()
    for more in (8, -8):
        weights = model.resize_token_embeddings(rows + more).weight
        assert weights.shape[0] == rows + more
        assert bits(weights[: rows - 8]) == bits(before)
    same(model, copy.deepcopy(model))
    same(model, pickle.loads(pickle.dumps(model)))
    model.share_memory()
    assert all(parameter.is_shared() for parameter in model.parameters())


def test_lora_on_top(folders, tmp_path):
    peft = pytest.importorskip("peft")
    plain, packed = folders("llama")
    load = transformers.AutoModelForCausalLM.from_pretrained
    tokens = torch.arange(1, 9).reshape(1, 8)
    outputs = []
    for folder in (plain, packed):
        torch.manual_seed(1)
        config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        model = peft.get_peft_model(load(folder), config)
        outputs.append(bits(model(tokens).logits))
        model(tokens, labels=tokens).loss.backward()
    assert outputs[0] == outputs[1]
    model.save_pretrained(tmp_path / "adapter")
    outputs = []
    for folder in (plain, packed):
        again = peft.PeftModel.from_pretrained(load(folder), tmp_path / "adapter")
        outputs.append(bits(again(tokens).logits))
        attached = load(folder)
        attached.load_adapter(tmp_path / "adapter")
        outputs.append(bits(attached(tokens).logits))
    assert outputs[:2] == outputs[2:]


def test_adapters_in_the_folder_stay_as_they_are(folders, tmp_path):
    peft = pytest.importorskip("peft")
    plain, _ = folders("llama")
    shutil.copytree(plain, tmp_path / "plain")
    model = transformers.AutoModelForCausalLM.from_pretrained(plain)
    config = peft.LoraConfig(r=64, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    for path in (tmp_path / "adapter").glob("adapter_*"):
        shutil.copy(path, tmp_path / "plain")
    adapter = tmp_path / "plain" / "adapter_config.json"
    config = json.loads(adapter.read_text())
    adapter.write_text(json.dumps({**config, "base_model_name_or_path": None}))
    densor.hf.pack_model(tmp_path / "plain", tmp_path / "packed")
    name = "adapter_model.safetensors"
    assert (tmp_path / "packed" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    load = transformers.LlamaForCausalLM.from_pretrained
    same(load(tmp_path / "plain"), load(tmp_path / "packed"))


def test_pipeline(folders):
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: number for number, word in enumerate(["[UNK]", "[PAD]", "red", "green", "blue"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]"
    )
    made = []
    for folder in folders("bert"):
        pipe = transformers.pipeline("feature-extraction", model=str(folder), tokenizer=fast)
        made.append(pipe("red green blue"))
    assert made[0] == made[1]


def test_plain_weights_beside_the_configuration_of_packed_ones(folders, tmp_path):
    """As they come about where a model is made from that configuration and saved."""
    plain, packed = folders("llama")
    config = transformers.AutoConfig.from_pretrained(packed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.load_state_dict(transformers.AutoModelForCausalLM.from_pretrained(plain).state_dict())
    model.save_pretrained(tmp_path)
    same(model, transformers.AutoModelForCausalLM.from_pretrained(tmp_path))


def test_small_bytes_that_are_no_blobs(tmp_path):
    """Tensors of bytes, shorter than a blob's first frame, pass through."""
    found = []
    for size in (0, 1, 7, 8, 40):
        model = bert()
        model.register_buffer("extra", torch.zeros(size, dtype=torch.uint8))
        model.save_pretrained(tmp_path / f"plain{size}")
        densor.hf.pack_model(tmp_path / f"plain{size}", tmp_path / f"packed{size}")
        loaded, info = transformers.BertModel.from_pretrained(
            tmp_path / f"packed{size}", output_loading_info=True
        )
        found.append(info["unexpected_keys"])
        same(bert(), loaded)
    assert found == [{"extra"}] * 5


def test_importing_again_does_nothing(folders):
    importlib.reload(densor.hf)
    importlib.reload(importlib.import_module("densor.hf.loader"))
    densor.hf.from_pretrained(folders("llama")[1])


@pytest.mark.skipif(
    not hasattr(densor.torch, "pack_module"), reason="weights cannot stay packed yet"
)
@pytest.mark.parametrize("name", ["llama", "llama-tied", "mixtral", "bert"])
def test_weights_that_stay_packed(folders, name):
    plain, packed = folders(name)
    wanted = type(MODELS[name]()).from_pretrained(plain)
    tokens = torch.arange(1, 17).reshape(2, 8)
    for folder in (packed, plain):
        found = densor.hf.from_pretrained(folder, resident=True)
        with torch.no_grad():
            assert bits(wanted(tokens)[0]) == bits(found(tokens)[0])
        same(wanted.state_dict(), dict(found.state_dict()))
        assert not any(parameter.is_meta for parameter in found.parameters())


# Bad input: an error that names file and tensor, never a model.


def test_a_loader_that_knows_nothing_of_densor_refuses(folders, monkeypatch):
    from transformers.quantizers import auto

    monkeypatch.delitem(auto.AUTO_QUANTIZATION_CONFIG_MAPPING, "densor")
    monkeypatch.delitem(auto.AUTO_QUANTIZER_MAPPING, "densor")
    _, packed = folders("llama")
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        transformers.AutoModelForCausalLM.from_pretrained(packed)


def test_an_old_transformers_is_refused(monkeypatch):
    from transformers.quantizers.base import HfQuantizer

    monkeypatch.delattr(HfQuantizer, "get_new_dtype")
    with pytest.raises(UnsupportedError, match=r"transformers>=5\.22"):
        importlib.import_module("densor.hf.loader").register()


def test_damage_in_a_blob(spoilt, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    name = blobs_of(spoilt)[1]
    file = PackedFile(spoilt / WEIGHTS)
    damaged(spoilt / WEIGHTS, file.header.tensors[name].end - 200)
    with pytest.raises(ChecksumError, match=f"{WEIGHTS}.*{name}"):
        densor.hf.from_pretrained(spoilt)
    with pytest.raises(RuntimeError, match="conversion of the weights"):
        transformers.AutoModelForCausalLM.from_pretrained(spoilt)
    with pytest.raises(RuntimeError, match="conversion of the weights"):
        transformers.AutoModelForCausalLM.from_pretrained(spoilt, ignore_mismatched_sizes=True)
    assert f"{spoilt / WEIGHTS}: tensor '{name}': data of a frame is damaged" in caplog.text


@pytest.mark.parametrize("offset", [0, 9, 20, 40, 70])
def test_damage_at_the_begin_of_a_blob(spoilt, offset):
    name = blobs_of(spoilt)[0]
    file = PackedFile(spoilt / WEIGHTS)
    damaged(spoilt / WEIGHTS, file.header.tensors[name].begin + offset)
    with pytest.raises(DensorError, match=f"{WEIGHTS}.*{name}"):
        transformers.AutoModelForCausalLM.from_pretrained(spoilt, ignore_mismatched_sizes=True)


def rewritten(folder, change):
    """Writes the weights anew with another header and other bytes of tensors."""
    file = PackedFile(folder / WEIGHTS)
    tensors = {name: (file.header.tensors[name], file.stored(name).tobytes()) for name in file}
    metadata = dict(file.header.metadata)
    change(tensors, metadata)
    at, header = 0, {}
    for name, (stored, data) in tensors.items():
        shape = [len(data)] if file.is_blob(name) else list(stored.shape)
        header[name] = {"dtype": stored.dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    data = b"".join(data for _, data in tensors.values())
    (folder / WEIGHTS).write_bytes(with_header({"__metadata__": metadata} | header, data))


def load_both_ways(folder):
    """The error of every way to load."""
    found = []
    for load in (transformers.AutoModelForCausalLM.from_pretrained, densor.hf.from_pretrained):
        with pytest.raises(DensorError) as caught:
            load(folder, ignore_mismatched_sizes=True)
        found.append(caught.value)
    return found


def test_a_missing_tensor(spoilt):
    name = blobs_of(spoilt)[0]
    rewritten(spoilt, lambda tensors, metadata: tensors.pop(name))
    for error in load_both_ways(spoilt):
        assert isinstance(error, FormatError)
        assert WEIGHTS in str(error)
        assert f"{name}' is missing" in str(error)


def test_two_blobs_that_changed_places(spoilt):
    one, other = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"

    def swap(tensors, metadata):
        tensors[one], tensors[other] = tensors[other], tensors[one]

    rewritten(spoilt, swap)
    for error in load_both_ways(spoilt):
        assert WEIGHTS in str(error)
        assert one in str(error)


@pytest.mark.parametrize(("dtype", "shape"), [("F16", (64, 48)), ("BF16", (48, 64))])
def test_a_blob_of_another_type_or_shape(spoilt, dtype, shape):
    name = "model.layers.0.mlp.up_proj.weight"
    data = PackedFile(spoilt / WEIGHTS).read(name)
    other = tensor_blob.encode(tensor_blob.Tensor(name, dtype, shape, data.size, None), data)

    def exchange(tensors, metadata):
        tensors[name] = tensors[name][0], other

    rewritten(spoilt, exchange)
    for error in load_both_ways(spoilt):
        assert isinstance(error, FormatError)
        assert WEIGHTS in str(error)
        assert name in str(error)


def test_a_blob_that_says_less_than_it_holds(spoilt):
    """All hashes are right, but the data is of another tensor: found when it is decoded."""
    name = "model.layers.0.mlp.up_proj.weight"
    data = PackedFile(spoilt / WEIGHTS).read(name)
    cut = tensor_blob.encode(tensor_blob.Tensor(name, "BF16", (64, 48), data.size, None), data)
    cut = cut[: len(cut) // 2]

    def exchange(tensors, metadata):
        tensors[name] = tensors[name][0], cut

    rewritten(spoilt, exchange)
    with pytest.raises(TruncatedError, match=f"{WEIGHTS}.*{name}"):
        densor.hf.from_pretrained(spoilt)
    with pytest.raises(RuntimeError, match="conversion of the weights"):
        transformers.AutoModelForCausalLM.from_pretrained(spoilt, ignore_mismatched_sizes=True)


def test_weights_that_lost_their_metadata(spoilt):
    path = spoilt / WEIGHTS
    path.write_bytes(path.read_bytes().replace(b'"densor":', b'"Densor":'))
    for error in load_both_ways(spoilt):
        assert isinstance(error, FormatError)
        assert WEIGHTS in str(error)


def test_a_newer_version_in_the_weights(spoilt):
    def newer(tensors, metadata):
        metadata["densor"] = metadata["densor"].replace('"version":1', '"version":2')

    rewritten(spoilt, newer)
    for error in load_both_ways(spoilt):
        assert isinstance(error, UnsupportedError)
        assert WEIGHTS in str(error)
        assert "upgrade" in str(error)


def test_a_newer_version_in_the_configuration(spoilt):
    path = spoilt / "config.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    for error in load_both_ways(spoilt):
        assert isinstance(error, UnsupportedError)
        assert "upgrade" in str(error)


def test_a_version_that_is_none(spoilt):
    path = spoilt / "config.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": "one"'))
    for error in load_both_ways(spoilt):
        assert isinstance(error, FormatError)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_weights_that_were_cut(spoilt, keep):
    path = spoilt / WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    for load in (transformers.AutoModelForCausalLM.from_pretrained, densor.hf.from_pretrained):
        with pytest.raises(DensorError, match=WEIGHTS):
            load(spoilt)


def test_a_missing_shard(folders, tmp_path):
    _, packed = folders("llama-shards", llama(), max_shard_size="40KB")
    shutil.copytree(packed, tmp_path / "spoilt")
    next((tmp_path / "spoilt").glob("model-00002*")).unlink()
    with pytest.raises(FileError, match="model-00002"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "spoilt")


def test_a_shard_in_the_place_of_another(folders, tmp_path):
    _, packed = folders("llama-shards", llama(), max_shard_size="40KB")
    shutil.copytree(packed, tmp_path / "spoilt")
    one, other, *_ = sorted((tmp_path / "spoilt").glob("model-0000*"))
    shutil.copy(one, other)
    for error in load_both_ways(tmp_path / "spoilt"):
        assert isinstance(error, FormatError)
        assert other.name in str(error) and "lacks the tensor 'model." in str(error)


def test_packing_while_loading_is_refused(folders):
    loader = importlib.import_module("densor.hf.loader")
    plain, _ = folders("llama")
    with pytest.raises(ArgumentError, match="hf-pack"):
        transformers.AutoModelForCausalLM.from_pretrained(
            plain, quantization_config=loader.DensorConfig()
        )


# A model that was made from another one.


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A base model's folder, that of a tuned one, and the latter packed against the former."""
    place = tmp_path_factory.mktemp("tuned")
    model = llama()
    model.save_pretrained(place / "base")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[:, ::7].mul_(1.01) if parameter.ndim > 1 else None
    model.save_pretrained(place / "tuned")
    densor.hf.pack_model(place / "tuned", place / "packed", base=place / "base")
    return place


def test_against_a_base(tuned):
    sizes = [(tuned / name / WEIGHTS).stat().st_size for name in ("tuned", "packed")]
    assert sizes[1] < 0.6 * sizes[0]
    load = transformers.AutoModelForCausalLM.from_pretrained
    same(load(tuned / "tuned"), load(tuned / "packed"))  # found beside it


def test_where_the_base_is(tuned, tmp_path, monkeypatch):
    shutil.copytree(tuned / "packed", tmp_path / "packed")
    wanted = densor.hf.from_pretrained(tuned / "tuned")
    for load in (transformers.AutoModelForCausalLM.from_pretrained, densor.hf.from_pretrained):
        with pytest.raises((ArgumentError, RuntimeError)):
            load(tmp_path / "packed")
    with pytest.raises(ArgumentError, match=f"{WEIGHTS}.*model 'base'.*DENSOR_BASE"):
        densor.hf.from_pretrained(tmp_path / "packed")
    same(wanted, densor.hf.from_pretrained(tmp_path / "packed", base=tuned / "base"))
    monkeypatch.setenv("DENSOR_BASE", f"{tmp_path / 'none'}:{tuned / 'base'}")
    same(wanted, densor.hf.from_pretrained(tmp_path / "packed"))


def test_another_base(tuned, tmp_path):
    with pytest.raises(ArgumentError, match=f"{WEIGHTS}.*needed is"):
        densor.hf.from_pretrained(tuned / "packed", base=tuned / "tuned")
    with pytest.raises(DensorError, match="none"):
        densor.hf.from_pretrained(tuned / "packed", base=tmp_path / "none")


def test_a_packed_base(tuned, tmp_path):
    densor.hf.pack_model(tuned / "base", tmp_path / "base")
    wanted = densor.hf.from_pretrained(tuned / "tuned")
    same(wanted, densor.hf.from_pretrained(tuned / "packed", base=tmp_path / "base"))
    with pytest.raises(ArgumentError, match="unpack it first"):
        densor.hf.from_pretrained(tuned / "packed", base=tuned / "packed")


def test_unpacks_against_a_base(tuned, tmp_path):
    densor.hf.unpack_model(tuned / "packed", tmp_path / "out", base=tuned / "base")
    assert files(tmp_path / "out") == files(tuned / "tuned")


@pytest.mark.slow
def test_memory_of_loading(tmp_path):
    """Anonymous memory at its peak: the parameters and 150 MB."""
    from bench.hf import measured, random_llama

    random_llama(tmp_path / "plain", 300)
    densor.hf.pack_model(tmp_path / "plain", tmp_path / "packed")
    found = measured(tmp_path / "packed", "packed", [])
    assert found["peak"] <= found["parameters"] + 150e6
