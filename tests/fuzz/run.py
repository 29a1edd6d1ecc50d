"""Read damaged and hostile files, each in a process of its own, and report what leaked.

python tests/fuzz/run.py --cases 1500 --seed 0 [--only npz,folder] [--case 412]
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import resource
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a process with threads does not fork well

import seeds
import torch
from hostile import HOSTILE, SLOW
from mutate import mutated
from PIL import Image

import ibau_lite
from ibau_lite import attacks, checkpoints, data

MOST_BYTES = 512 * 2**20
MOST_SECONDS = 20
ALLOWED = (ValueError,)  # every file is there


def read_npz(path: Path) -> None:
    dataset = data.load_npz(path)
    assert dataset.train.images.isfinite().all()


def read_folder(path: Path) -> None:
    dataset = data.load_image_folder(path.parents[2], size=8)
    assert dataset.num_classes == 2


def read_checkpoint(path: Path) -> None:
    model = seeds.model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        json.dumps(checkpoints.load(path, model))
        assert all(value.isfinite().all() for value in model.state_dict().values())
    except ALLOWED:
        after = model.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        raise


def read_attack(path: Path) -> None:
    attack = attacks.load(path)
    hash(attack), str(attack), json.dumps(attack.to_dict())
    for _, rule in attack.pairs:
        rule(torch.arange(2))
    for trigger, _ in (*attack.pairs, *attack.covers):
        assert trigger(torch.rand(2, 3, 16, 16)).isfinite().all()


TARGETS: dict[str, tuple[Callable[[Path], None], Callable[[], list[bytes]], str]] = {
    "npz": (read_npz, seeds.npz, "case.npz"),
    "folder": (read_folder, seeds.pictures, "train/a/case.png"),
    "checkpoint": (read_checkpoint, seeds.checkpoint, "case.pth"),
    "attack": (read_attack, seeds.attack, "case.safetensors"),
}


def memory(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def attempt(read: Callable[[Path], None], path: Path) -> dict[str, Any]:
    """In the child: the outcome of one file, with what it took."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is used now
    before, start = memory("VmRSS"), time.monotonic()
    leak = ""
    try:
        read(path)
        outcome, words = "success", ""
    except BaseException as error:
        outcome, words = type(error).__name__, str(error)
        said = "".join(traceback.format_exception(error))
        if type(error) not in ALLOWED:
            leak = said
        elif len(words) > 3000 or not words.isprintable() or "weights_only" in said:
            leak = f"message: {words[:500]!r}"
        elif "too much memory" in words:
            leak = words
    peak, seconds = memory("VmHWM") - before, time.monotonic() - start
    if peak > MOST_BYTES:
        leak = leak or f"{peak / 2**20:.0f} MiB: {words[:300]}"
    if path.with_name("ran").exists():
        leak = "a command was executed"
    return {"outcome": outcome, "words": words, "peak": peak, "seconds": seconds, "leak": leak}


def in_child(work: Callable[[], Any], limits: bool) -> Any:
    """What `work` gives, from a process with a limit of memory and time."""
    inlet, outlet = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(inlet)
            if limits:
                most = memory("VmSize") + 3 * MOST_BYTES
                resource.setrlimit(resource.RLIMIT_AS, (most, most))
                resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            warnings.simplefilter("ignore")
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what decoders written in C print
            signal.alarm(3 * MOST_SECONDS)
            os.write(outlet, json.dumps(work()).encode()[:65000])
        finally:
            os._exit(0)
    os.close(outlet)
    with open(inlet, "rb") as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    if said:
        return json.loads(said)
    how = f"ended by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "said nothing"
    return {"outcome": "crash", "words": "", "peak": 0, "seconds": 0.0, "leak": how}


def ground(root: Path) -> None:
    """A sound folder of pictures, to which one picture is added."""
    for half in ("train", "test"):
        for name in ("a", "b"):
            (root / half / name).mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (8, 8)).save(root / half / name / f"{number}.png")


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.with_name("ran").unlink(missing_ok=True)


def build(path: Path, made: Any) -> int:
    """Write a hostile file: some give bytes, some make the file themselves."""
    if inspect.signature(made).parameters:
        made(path)
    else:
        path.write_bytes(made())
    return path.lstat().st_size


def tried(target: str, root: Path, cases: range, seed: int, hostile: list[str], loud: bool):
    """For each file of a target: its name, its size and the outcome."""
    read, make, place = TARGETS[target]
    sound, path = make(), root / place
    for name in hostile:
        made = HOSTILE[target][name]
        slow = name in SLOW  # and large: what was used to make it must not count
        size = in_child(lambda made=made: build(path, made), False) if slow else build(path, made)
        assert isinstance(size, int), f"{name} could not be made: {size}"
        yield name, size, in_child(lambda: attempt(read, path), limits=True)
        remove(path)
    for case in cases:
        draw = Random(f"{seed} {target} {case}")
        content = sound[case] if case < len(sound) else mutated(draw, target, sound)
        path.write_bytes(content)
        outcome = in_child(lambda: attempt(read, path), limits=True)
        if case < len(sound) and outcome["outcome"] != "success":
            outcome["leak"] = f"a sound file is refused: {outcome['words']}"
        if loud:
            print(outcome)
        yield f"case {case}", len(content), outcome
        remove(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=1500, help="damaged files for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(TARGETS), help="targets, separated by commas")
    parser.add_argument("--case", type=int, help="only this one, with its outcome")
    parser.add_argument("--quick", action="store_true", help="leave out what takes seconds")
    choice = parser.parse_args()
    torch.set_num_threads(1)
    cases = range(choice.cases) if choice.case is None else range(choice.case, choice.case + 1)
    print(f"reading with {Path(ibau_lite.__file__).parent}, seed {choice.seed}")
    leaks, total, start = 0, 0, time.monotonic()
    for target in choice.only.split(","):
        outcomes: Counter[str] = Counter()
        most, slowest = (0, "", 0), (0.0, "")
        with tempfile.TemporaryDirectory() as folder:
            ground(Path(folder))
            loud = choice.case is not None
            hostile = [name for name in HOSTILE[target] if not (choice.quick and name in SLOW)]
            for name, size, said in tried(
                target, Path(folder), cases, choice.seed, [] if loud else hostile, loud
            ):
                outcomes[said["outcome"]] += 1
                most = max(most, (said["peak"], name, size))
                slowest = max(slowest, (said["seconds"], name))
                if said["leak"]:
                    leaks += 1
                    print(f"LEAK {target}, {name}, {size:,} bytes: {said['leak'].strip()[-900:]}")
                elif said["peak"] > 2**26 and name in HOSTILE[target]:
                    print(
                        f"     {target}, {name}: {size:,} bytes took {said['peak'] / 2**20:.0f} MiB"
                    )
        count = outcomes.total()
        total += count
        told = ", ".join(f"{number} {name}" for name, number in outcomes.most_common())
        print(
            f"{target:<11}{count:>7,} files: {told}; at most {most[0] / 2**20:.0f} MiB "
            f"({most[1]}), {slowest[0]:.1f} s ({slowest[1]})",
            flush=True,
        )
    print(f"{total:,} files in {time.monotonic() - start:.0f} s, {leaks} leaks")
    return int(leaks > 0)


if __name__ == "__main__":
    raise SystemExit(main())
