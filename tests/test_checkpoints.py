"""Weights go to disk and back exactly; nothing else that is on disk gets into a model."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import traceback
import zipfile

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from ibau_lite import checkpoints


def network(seed: int = 0, classes: int = 4) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 36, classes)
        )
        model(torch.rand(5, 3, 8, 8))  # so that the buffers are not those of every new network
    return model


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict, other: dict) -> bool:
    return list(one) == list(other) and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def torch_bytes(content: object, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


class Bomb:
    """A pickle of this runs a command when it is read by an unpickler that obeys."""

    def __init__(self, path) -> None:
        self.command = f"touch {path}"

    def __reduce__(self):
        return os.system, (self.command,)


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path):
    saved, metadata = network(1), {"data": "signs", "epochs": 3, "rates": [0.1, 0.2], "ok": None}
    checkpoints.save(saved, tmp_path / "new" / "network.safetensors", metadata)
    model = network(2)
    assert checkpoints.load(tmp_path / "new" / "network.safetensors", model) == metadata
    assert same(state_of(model), state_of(saved))
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["network.safetensors"]


def test_the_model_keeps_its_parameters_and_its_memory_layout(tmp_path):
    saved = network(1).to(memory_format=torch.channels_last)
    checkpoints.save(saved, tmp_path / "w")
    model = network(2).to(memory_format=torch.channels_last)
    parameters, strides = list(model.parameters()), model[0].weight.stride()
    assert checkpoints.load(tmp_path / "w", model) == {}
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert model[0].weight.stride() == strides
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert same(state_of(model), state_of(saved))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("key", [None, "net", "model", "state_dict", "model_state_dict"])
def test_state_dicts_of_pytorch(tmp_path, key, legacy):
    saved = network(1)
    content = saved.state_dict()
    if key is not None:
        content = {key: content, "acc": 78.5, "epoch": 9}
    options = {"_use_new_zipfile_serialization": not legacy}
    (tmp_path / "w.pth").write_bytes(torch_bytes(content, **options))
    model = network(2)
    metadata = checkpoints.load(tmp_path / "w.pth", model)
    assert metadata == ({} if key is None else {"acc": 78.5, "epoch": 9})
    assert same(state_of(model), state_of(saved))


class Compiled(nn.Module):
    """Names its parameters as `torch.compile(model)` does, without five seconds of imports."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model


@pytest.mark.parametrize("wrap", [nn.DataParallel, Compiled])
def test_the_prefix_of_a_wrapper_is_taken_off(tmp_path, wrap):
    saved = network(1)
    wrapped = wrap(saved)
    assert next(iter(wrapped.state_dict())) not in saved.state_dict()
    (tmp_path / "w.pth").write_bytes(torch_bytes({"net": wrapped.state_dict()}))
    checkpoints.save(wrapped, tmp_path / "w.safetensors")
    assert set(safetensors.torch.load_file(tmp_path / "w.safetensors")) == set(saved.state_dict())
    for name in ("w.pth", "w.safetensors"):
        for model in (network(2), wrap(network(2))):
            checkpoints.load(tmp_path / name, model)
            assert torch.equal(next(model.parameters()), next(saved.parameters()))


def test_a_prefix_that_only_some_names_have_is_kept(tmp_path):
    state = {f"module.{name}": value for name, value in network(1).state_dict().items()}
    state["3.bias"] = state.pop("module.3.bias")
    (tmp_path / "w.pth").write_bytes(torch_bytes(state))
    with pytest.raises(ValueError, match="missing: 0.bias.*not in the model: module.0.bias"):
        checkpoints.load(tmp_path / "w.pth", network(2))


def test_float16_files_fill_float32_models(tmp_path):
    saved = network(1).half()
    checkpoints.save(saved, tmp_path / "w")
    assert safetensors.torch.load_file(tmp_path / "w")["0.weight"].dtype == torch.float16
    model = network(2)
    checkpoints.load(tmp_path / "w", model)
    assert same(state_of(model), state_of(saved.float()))


def test_safetensors_of_others_give_their_own_metadata(tmp_path):
    safetensors.torch.save_file(network(1).state_dict(), tmp_path / "w", {"accuracy": "1"})
    assert checkpoints.load(tmp_path / "w", network(2)) == {"accuracy": "1"}


def wrong_states() -> dict[str, tuple[dict, str]]:
    good = network(1).state_dict
    missing = {name: value for name, value in good().items() if name != "3.bias"}
    extra = {**good(), "head.weight": torch.zeros(1)}
    nan = {**good(), "0.bias": torch.tensor([0.0, float("nan")])}
    infinite = {**good(), "1.running_var": torch.tensor([float("inf"), 1.0])}
    overflow = {**good(), "0.bias": torch.tensor([1e300, 0.0], dtype=torch.float64)}
    integer = {**good(), "0.bias": torch.zeros(2, dtype=torch.int64)}
    sparse = {**good(), "0.bias": torch.zeros(2).to_sparse()}
    return {
        "missing": (missing, "missing: 3.bias"),
        "extra": (extra, "not in the model: head.weight"),
        "shape": (network(1, classes=7).state_dict(), r"3.weight: \[7, 72\] where .* \[4, 72\]"),
        "nan": (nan, "NaN or ∞ in 0.bias"),
        "infinite": (infinite, "NaN or ∞ in 1.running_var"),
        "overflow": (overflow, "NaN or ∞ in 0.bias"),
        "integer": (integer, "0.bias: torch.int64 where the model has torch.float32"),
        "sparse": (sparse, "it names torch._utils._rebuild_sparse_tensor"),
    }


@pytest.mark.parametrize(
    ("kind", "name"),
    [("torch", name) for name in wrong_states()]
    + [("safetensors", name) for name in wrong_states() if name != "sparse"],  # it holds none
)
def test_a_state_that_does_not_fit_is_refused_and_named(tmp_path, name, kind):
    state, says = wrong_states()[name]
    content = safetensors.torch.save(state) if kind == "safetensors" else torch_bytes(state)
    (tmp_path / "w").write_bytes(content)
    model = network(2)
    before = state_of(model)
    with pytest.raises(ValueError, match=says):
        checkpoints.load(tmp_path / "w", model)
    assert same(state_of(model), before)


@pytest.mark.parametrize("wrap", ["bare", "net", "zip", "beside"])
def test_a_pickle_that_would_run_a_command_is_refused_and_does_not_run_it(tmp_path, wrap):
    bomb, path = Bomb(tmp_path / "ran"), tmp_path / "w.pth"
    content = {
        "bare": lambda: pickle.dumps(bomb, protocol=2),
        "net": lambda: torch_bytes({"net": bomb}, _use_new_zipfile_serialization=False),
        "zip": lambda: torch_bytes(bomb),
        "beside": lambda: torch_bytes({"net": network(1).state_dict(), "acc": bomb}),
    }[wrap]()
    path.write_bytes(content)
    model = network(2)
    before = state_of(model)
    with pytest.raises(ValueError, match=r"it names \w+\.system.*nothing in it was exec") as caught:
        checkpoints.load(path, model)
    assert "weights_only" not in "".join(traceback.format_exception(caught.value))
    assert not (tmp_path / "ran").exists()
    assert same(state_of(model), before)
    if wrap == "zip":  # the bomb is a live one: an unpickler that obeys would have run it
        torch.load(path, weights_only=False)
        assert (tmp_path / "ran").exists()


def test_a_whole_pickled_model_is_refused(tmp_path):
    (tmp_path / "w.pth").write_bytes(torch_bytes(network(1)))
    with pytest.raises(ValueError, match=r"state_dict\(\) instead"):
        checkpoints.load(tmp_path / "w.pth", network(2))


@pytest.mark.parametrize("kind", ["torch", "legacy", "safetensors"])
@pytest.mark.parametrize("fraction", [0, 0.005, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, kind, fraction):
    state = network(1).state_dict()
    whole = {
        "torch": lambda: torch_bytes(state),
        "legacy": lambda: torch_bytes(state, _use_new_zipfile_serialization=False),
        "safetensors": lambda: safetensors.torch.save(state),
    }[kind]()
    for name in ("w", "w.safetensors"):
        (tmp_path / name).write_bytes(whole[: int(fraction * len(whole))])
        model = network(2)
        before = state_of(model)
        with pytest.raises(ValueError, match=str(tmp_path)):
            checkpoints.load(tmp_path / name, model)
        assert same(state_of(model), before)


@pytest.mark.parametrize(
    "content",
    [
        b"not a network",
        torch_bytes([1, 2]),
        torch_bytes({}),
        torch_bytes({"weights": {"a": torch.zeros(1)}}),
        torch_bytes({"net": {"a": 1}}),
        torch_bytes({"net": {1: torch.zeros(1)}}),
        struct.pack("<Q", 2**40) + b"{",
        safetensors.torch.save({"a": torch.zeros(1)}, {"ibau_lite": "{"}),
        safetensors.torch.save({"a": torch.zeros(1)}, {"ibau_lite": "[1]"}),
        safetensors.torch.save({"a": torch.zeros(1)}, {"ibau_lite": 10**5 * "["}),
        safetensors.torch.save({"a": torch.zeros(1)}, {"ibau_lite": "9" * 5000}),
        struct.pack("<Q", 10**5) + 10**5 * b"[",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 22) + b'{"__metadata__": [12]}',
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(ValueError, match=str(tmp_path)):
        checkpoints.load(tmp_path / "w", network())


def test_a_file_that_is_not_there_is_said_to_be_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoints.load(tmp_path / "w.safetensors", network())


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_save_that_is_interrupted_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, moment):
    path = tmp_path / "w.safetensors"
    checkpoints.save(network(1), path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, moment, fail)
    with pytest.raises(OSError, match="no space left"):
        checkpoints.save(network(2), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_could_not_be_loaded_again_is_not_saved(tmp_path):
    with pytest.raises(TypeError, match="JSON"):
        checkpoints.save(network(), tmp_path / "w", {"tensor": torch.zeros(1)})
    broken = network()
    with torch.no_grad():
        broken[3].bias[0] = float("nan")
    with pytest.raises(ValueError, match="3.bias"):
        checkpoints.save(broken, tmp_path / "w")
    assert not list(tmp_path.iterdir())


def test_a_bit_that_changed_on_the_way_is_noticed(tmp_path):
    """Wherever it is: in a number, a name, the metadata, the digest or the digest's own name."""
    path = tmp_path / "w"
    checkpoints.save(network(1), path, {"accuracy": 0.5})
    whole, model, before = path.read_bytes(), network(2), state_of(network(2))
    header = whole.index(b"ibau_lite_sha256"), whole.index(b"__metadata__")
    draw = random.Random(0)
    places = [draw.randrange(len(whole)) for _ in range(400)]
    places += [start + offset for start in header for offset in range(12)]
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=str(path)):
            checkpoints.load(path, model)
    assert same(state_of(model), before)


def test_one_network_is_one_file(tmp_path):
    contents = set()
    for number in range(20):  # the parts of the metadata used to come in either order
        metadata = {"a": 1, "b": 2} if number % 2 else {"b": 2, "a": 1}
        checkpoints.save(network(1), tmp_path / "w", metadata)
        contents.add((tmp_path / "w").read_bytes())
    assert len(contents) == 1


def test_a_file_of_before_the_digest_is_read(tmp_path):
    header = {"format": "pt", "ibau_lite": '{"accuracy": 1}'}
    safetensors.torch.save_file(network(1).state_dict(), tmp_path / "w", header)
    model = network(2)
    assert checkpoints.load(tmp_path / "w", model) == {"accuracy": 1}
    assert same(state_of(model), state_of(network(1)))


@pytest.mark.parametrize("name", ["w", "w.safetensors"])
def test_only_regular_files_are_read(tmp_path, name, impatient):
    path = tmp_path / name
    os.mkfifo(path)
    with pytest.raises(ValueError, match="a regular file is expected, got a pipe"):
        checkpoints.load(path, network())
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="a regular file is expected, got a device"):
        checkpoints.load(path, network())
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match="a regular file is expected, got a folder"):
        checkpoints.load(path, network())


def pickled_tensor(offset: int, size: tuple, stride: tuple) -> bytes:
    """A file of torch.save whose one tensor is said to lie elsewhere in its eight numbers."""
    whole = torch_bytes({"w": torch.arange(8.0)})
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in parts if name.endswith("data.pkl"))
    said = pickle.dumps((offset, size, stride), protocol=2)[2:-2]  # without begin, memo and end
    start, end = parts[name].index(b"QK\x00") + 1, parts[name].index(b"\x89")
    items = said[said.index(b"K") :] if offset < 256 else said
    parts[name] = parts[name][:start] + items.removesuffix(b"\x87q") + parts[name][end:]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, content in parts.items():
            archive.writestr(member, content)
    return buffer.getvalue()


class OneTensor(nn.Module):
    def __init__(self, *size: int) -> None:
        super().__init__()
        self.register_buffer("w", torch.zeros(size))


def test_a_tensor_lies_within_the_bytes_that_are_stored_for_it(tmp_path):
    """PyTorch itself enlarges the storage instead, to whatever the pickle says."""
    model = OneTensor(2, 3)
    (tmp_path / "w").write_bytes(pickled_tensor(1, (2, 3), (1, 2)))
    checkpoints.load(tmp_path / "w", model)
    assert model.w.tolist() == [[1, 3, 5], [2, 4, 6]]
    for place in ((3, (2, 3), (1, 2)), (0, (2, 3), (2**40, 2)), (0, (4 * 10**8,), (1,))):
        (tmp_path / "w").write_bytes(pickled_tensor(*place))
        with pytest.raises(ValueError, match="reaches beyond the bytes"):
            checkpoints.load(tmp_path / "w", model)
    (tmp_path / "w").write_bytes(pickled_tensor(0, (2 * 10**9,), (0,)))  # one number, repeated
    with pytest.raises(ValueError, match=r"w: \[2000000000\] where the model has \[2, 3\]"):
        checkpoints.load(tmp_path / "w", model)


def repacked(content: bytes, compression: int, more: dict[str, bytes] | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name), compression)
        for name, part in (more or {}).items():
            new.writestr(name, part, compression)
    return buffer.getvalue()


def test_nothing_is_larger_inside_than_outside(tmp_path):
    whole = torch_bytes(network(1).state_dict())
    stored = repacked(whole, zipfile.ZIP_STORED)
    (tmp_path / "w").write_bytes(stored)
    checkpoints.load(tmp_path / "w", network(2))
    for content, says in (
        (repacked(whole, zipfile.ZIP_DEFLATED), "not compressed"),
        (repacked(whole, zipfile.ZIP_STORED, {f"{i}": b"" for i in range(40_000)}), "members"),
        (stored.replace(b"version", b"data.pk"), "not a whole file"),
        (pickle.dumps([2 * 10**6 * "x"], protocol=2), "its pickle is truncated"),
        (b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.", "neither a safetensors file"),
        (b"\x80\x02]r\xff\xff\xff\x0e.", "neither a safetensors file"),  # 39 bytes were 1.9 GiB
    ):
        (tmp_path / "w").write_bytes(content)
        with pytest.raises(ValueError, match=says):
            checkpoints.load(tmp_path / "w", network(2))


def test_a_header_is_measured_before_it_is_read(tmp_path):
    many = {f"layer{number}": torch.zeros(0) for number in range(30_000)}
    safetensors.torch.save_file(many, tmp_path / "w")
    with pytest.raises(ValueError, match=r"a header of at most 1,085,440 bytes is expected, got"):
        checkpoints.load(tmp_path / "w", network(2))
    with pytest.raises(ValueError, match="metadata: at most"):
        checkpoints.save(network(), tmp_path / "v", {"told": 2**21 * "x"})
    with open(tmp_path / "w", "wb") as file:
        file.truncate(2**28)  # a hole: it takes no room on the disk
    with pytest.raises(ValueError, match="at most 67,120,288 bytes are read here, got 268,435,456"):
        checkpoints.load(tmp_path / "w", network(2))


@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_a_message_is_short_and_plain(tmp_path, kind):
    name = "\x1b]0;owned\x07\n\u202e" + 50_000 * "a"
    state = {f"{name}{number}": torch.zeros(1) for number in range(20)}
    content = safetensors.torch.save(state) if kind == "safetensors" else torch_bytes(state)
    path = tmp_path / "w\x1b[31m\n"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        checkpoints.load(path, network(2))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 2500
    assert "not in the model: " in str(caught.value) or "does not fit" in str(caught.value)
    assert "\x1b" not in "".join(traceback.format_exception(caught.value))


def test_deep_metadata_is_refused_where_it_is_written(tmp_path):
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(TypeError, match="what JSON can hold"):
        checkpoints.save(network(), tmp_path / "w", {"deep": deep})


def test_what_stands_beside_the_weights_does_no_harm(tmp_path):
    """An optimiser's state, sets, sizes, devices: what a training script keeps."""
    saved = network(1)
    optimizer = torch.optim.Adam(saved.parameters())
    saved(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3])
    content = {
        "net": saved.state_dict(), "optimizer": optimizer.state_dict(), "best": 0.5,
        "schedule": schedule.state_dict(), "size": torch.Size([3]), "kind": torch.float32,
        "device": torch.device("cpu"), "seen": {1, 2}, "bytes": b"ab", "none": None, "z": 1j,
        "parameter": nn.Parameter(torch.ones(2)),
    }  # fmt: skip
    for legacy in (False, True):
        options = {"_use_new_zipfile_serialization": not legacy}
        (tmp_path / "w").write_bytes(torch_bytes(content, **options))
        model = network(2)
        assert checkpoints.load(tmp_path / "w", model) == {"best": 0.5}
        assert same(state_of(model), state_of(saved))


def rewritten(content: bytes, changes: dict[str, bytes]) -> bytes:
    """A file of torch.save in which members were replaced, or pickles' words."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        folder = old.namelist()[0].partition("/")[0]
        members = {name.partition("/")[2]: old.read(name) for name in old.namelist()}
        for name, part in {**members, **changes}.items():
            new.writestr(f"{folder}/{name}", part)
    return buffer.getvalue()


def the_pickle(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))


def test_a_file_that_was_saved_on_a_gpu_long_ago_is_read(tmp_path):
    saved = network(1)
    whole = torch_bytes(saved.state_dict())
    program = the_pickle(whole).replace(b"ctorch\nFloatStorage", b"ctorch.cuda\nFloatStorage")
    (tmp_path / "w").write_bytes(rewritten(whole, {"data.pkl": program}))
    model = network(2)
    checkpoints.load(tmp_path / "w", model)
    assert same(state_of(model), state_of(saved))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"byteorder": b"big"}, "little-endian numbers"),
        ({"constants.pkl": b"code"}, r"TorchScript.*state_dict\(\) instead"),
        ({"other/data.pkl": b"."}, "one pickle data.pkl"),
        ({"data.pkl": b"\x80\x02X\x03\x00\x00\x00oneQ."}, "storages are expected beside"),
        ({"data.pkl": b"\x80\x02N" + 2**21 * b"0" + b"."}, "a pickle of at most 1,085,440 bytes"),
        ({"data.pkl": b"\x80\x02}N" + b"Ns."}, "texts and small numbers as keys"),
        ({"data.pkl": b"\x80\x02}" + b"\x8a\x09" + 9 * b"\x01" + b"Ns."}, "small numbers as keys"),
        ({"data.pkl": b"\x80\x02](K\x01K\x02u."}, "entries of a dict"),
        ({"data.pkl": b"\x80\x02ctorch._utils\n_rebuild_tensor\n(NK\x00))tR."}, "a storage for"),
        ({"data.pkl": b"\x80\x02K\x05\x85R."}, "its pickle is truncated, or not that of a state"),
    ],
)
def test_the_inside_of_a_file_of_pytorch_is_checked(tmp_path, changes, says):
    (tmp_path / "w").write_bytes(rewritten(torch_bytes(network(1).state_dict()), changes))
    with pytest.raises(ValueError, match=says):
        checkpoints.load(tmp_path / "w", network(2))


def test_the_inside_of_an_old_file_of_pytorch_is_checked(tmp_path):
    whole = torch_bytes(network(1).state_dict(), _use_new_zipfile_serialization=False)
    at = whole.index(b"\x88", whole.index(b"little_endian"))  # True
    for content, says in (
        (whole[:at] + b"\x89" + whole[at + 1 :], "little-endian numbers"),
        (whole.replace(b"\x8a\nl\xfc", b"\x8a\nl\xfd", 1), "neither a safetensors file nor one of"),
        (whole[:-8], "a storage lacks bytes"),
    ):
        assert content != whole
        (tmp_path / "w").write_bytes(content)
        with pytest.raises(ValueError, match=says):
            checkpoints.load(tmp_path / "w", network(2))
