"""Archives are read without trust and written whole or not at all."""

from __future__ import annotations

import os
import zipfile

import numpy as np
import pytest

from ibau_lite.data import archive

ARRAYS = {
    "x_train": np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3), "y_train": np.array([0, 1, 0, 1]),
    "x_test": np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3), "y_test": np.array([1, 0]),
}  # fmt: skip


class Bomb:
    """Unpickling this writes a file."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def test_what_is_written_is_read(tmp_path) -> None:
    archive.write(tmp_path / "new" / "a.npz", ARRAYS)
    arrays = archive.read(tmp_path / "new" / "a.npz")
    assert all(np.array_equal(arrays[name], ARRAYS[name]) for name in ARRAYS)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.npz"]


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*a\.npz"):
        archive.read(tmp_path / "a.npz")


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_a_truncated_archive_is_refused(tmp_path, share: float) -> None:
    path = tmp_path / "a.npz"
    archive.write(path, ARRAYS)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"a.npz: not a usable .npz archive \(truncated"):
        archive.read(path)


def test_every_damaged_byte_of_the_pixels_is_noticed(tmp_path) -> None:
    path = tmp_path / "a.npz"
    archive.write(path, ARRAYS)
    whole = bytearray(path.read_bytes())
    at = whole.index(ARRAYS["x_train"].tobytes())
    for offset in (0, 20, 47):
        damaged = whole.copy()
        damaged[at + offset] ^= 0x40
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="not a usable"):
            archive.read(path)


def test_a_pickle_inside_is_refused_and_not_run(tmp_path) -> None:
    path, trace = tmp_path / "a.npz", tmp_path / "trace"
    np.savez(path, **{**ARRAYS, "y_test": np.array([Bomb(trace)], dtype=object)})
    with pytest.raises(ValueError, match="Python objects"):
        archive.read(path)
    assert not trace.exists()


def test_a_member_that_is_no_array_is_refused(tmp_path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **{name: ARRAYS[name] for name in ("x_train", "y_train", "x_test")})
    with zipfile.ZipFile(path, "a") as stream:
        stream.writestr("y_test", b"not an array")
    with pytest.raises(ValueError, match="lacks y_test"):
        archive.read(path)


def test_missing_arrays_are_named_with_what_is_there(tmp_path) -> None:
    np.savez(tmp_path / "a.npz", images=ARRAYS["x_train"], y_test=ARRAYS["y_test"])
    words = r"lacks x_train, y_train, x_test; .*found \['images', 'y_test'\]"
    with pytest.raises(ValueError, match=words):
        archive.read(tmp_path / "a.npz")


def test_an_archive_that_would_unpack_to_too_much_is_refused(tmp_path, monkeypatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", **ARRAYS, extra=np.zeros(100_000, np.uint8))
    monkeypatch.setattr(archive, "_MOST_BYTES", 50_000)
    with pytest.raises(ValueError, match="would unpack to"):
        archive.read(tmp_path / "a.npz")


def test_an_array_that_claims_more_than_the_file_holds_is_refused(tmp_path) -> None:
    path = tmp_path / "a.npz"
    archive.write(path, ARRAYS)
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999, 999, 99, 3), }"
    header += b" " * (117 - len(header)) + b"\n"
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as claim, zipfile.ZipFile(path) as good:
        for name in good.namelist():
            claim.writestr(name, good.read(name) if name != "x_train.npy"
                           else b"\x93NUMPY\x01\x00v\x00" + header + b"abc")  # fmt: skip
    with pytest.raises(ValueError, match=r"x_train: its header says .* not the 3 bytes"):
        archive.read(tmp_path / "b.npz")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.npz"
    archive.write(path, ARRAYS)
    before = path.read_bytes()

    def full_disk(stream, **arrays):
        stream.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="No space left"):
        archive.write(path, {**ARRAYS, "y_test": np.array([0, 0])})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_objects_are_not_written_either(tmp_path) -> None:
    with pytest.raises(ValueError, match="y_test: .*got Python objects"):
        archive.write(tmp_path / "a.npz", {**ARRAYS, "y_test": np.array([None])})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("local", "central", "value"), [(6, 8, 1), (8, 10, 99)])
def test_an_encrypted_or_strangely_packed_member_is_refused(tmp_path, local, central, value):
    """The flag of encryption, or the number of the packing, in both of a zip's headers."""
    path = tmp_path / "odd.npz"
    archive.write(path, ARRAYS)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x03\x04") + local] = value
    content[content.index(b"PK\x01\x02") + central] = value
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"not a usable .npz archive|members as numpy\.savez"):
        archive.read(path)


def test_zeros_of_a_small_file_are_not_unpacked_to_gigabytes(tmp_path) -> None:
    """A file that is not packed is read however large it is, a packed one up to 20 times it."""
    large = {**ARRAYS, "x_train": np.zeros((70, 1024, 1024, 1), np.uint8)}
    np.savez_compressed(tmp_path / "a.npz", **large)
    with pytest.raises(ValueError, match=r"unpack to 70 MiB, and at most 65 are read .*savez"):
        archive.read(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", **large)
    assert archive.read(tmp_path / "a.npz")["x_train"].shape == (70, 1024, 1024, 1)


def test_members_are_counted_before_they_are_listed(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as stream:
        for number in range(2000):
            stream.writestr(f"{number}.npy", b"")
    with pytest.raises(ValueError, match="at most 1,000 members"):
        archive.read(tmp_path / "a.npz")


@pytest.mark.parametrize("packing", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_damaged_member_in_another_packing_is_refused(tmp_path, packing) -> None:
    """A damaged LZMA stream used to end in an LZMAError."""
    archive.write(tmp_path / "a.npz", ARRAYS)
    odd = zipfile.ZipFile(tmp_path / "b.npz", "w", packing)
    with odd, zipfile.ZipFile(tmp_path / "a.npz") as good:
        for name in good.namelist():
            odd.writestr(name, good.read(name))
    content = bytearray((tmp_path / "b.npz").read_bytes())
    content[60:80] = 20 * b"\xff"
    (tmp_path / "b.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"members as numpy\.savez"):
        archive.read(tmp_path / "b.npz")


@pytest.mark.parametrize("header", ["(" * 9000, "{'descr': [('a', '|O')], 'shape': (1,)}", "{}\n"])
def test_a_header_that_is_no_header_is_refused(tmp_path, header: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as stream:
        text = header.encode() + b"\n"
        for name in ARRAYS:
            content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
            stream.writestr(f"{name}.npy", content)
    with pytest.raises(ValueError, match=r"a\.npz") as caught:
        archive.read(tmp_path / "a.npz")
    assert len(str(caught.value)) < 1000


def test_only_regular_files_are_read(tmp_path, impatient) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    for name, kind in (("pipe.npz", "a pipe"), ("zero.npz", "a device"), (".", "a folder")):
        with pytest.raises(ValueError, match=f"a regular file is expected, got {kind}"):
            archive.read(tmp_path / name)


def test_the_umask_decides_who_may_read(tmp_path) -> None:
    former = os.umask(0o002)
    try:
        archive.write(tmp_path / "a.npz", ARRAYS)
    finally:
        os.umask(former)
    assert (tmp_path / "a.npz").stat().st_mode & 0o777 == 0o664
