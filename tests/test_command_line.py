"""`python -m ibau_lite`: a network and a folder of pictures in, a report and a network out."""

from __future__ import annotations

import html.parser
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import ibau_lite as ib
from ibau_lite import checkpoints, models
from ibau_lite.__main__ import main
from ibau_lite.report import interval

NAMES = ("stop & go", "<b>give way</b>", "ahead", "left")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures of each of four classes: noise of a colour of its own."""
    folder = tmp_path_factory.mktemp("photos")
    draws = torch.Generator().manual_seed(0)
    for number in range(4):
        (folder / str(number)).mkdir()
        for k in range(20):
            pixels = torch.rand(16, 16, 3, generator=draws) * 100 + 50 * number
            picture = Image.fromarray(pixels.to(torch.uint8).numpy())
            picture.save(folder / str(number) / f"{k}.png")
    return folder


@pytest.fixture(scope="module")
def trained(photos: Path) -> nn.Module:
    images, _ = ib.data.load_labelled_folder(photos, size=16)
    model = models.small_cnn(4, width=8)
    ib.training.fit(model, images, ib.training.Recipe(epochs=30, batch_size=16, lr=0.05))
    assert ib.metrics.accuracy(model, images) > 0.9
    return model


class Seen(html.parser.HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def run(command: str, checkpoint: Path, photos: Path, out: Path, *more: str) -> int:
    where = ["--checkpoint", str(checkpoint), "--clean", str(photos), "--out", str(out)]
    return main([command, *where, "--arch", "tests.test_command_line:narrow", *more])


def narrow(num_classes: int) -> nn.Module:
    return models.small_cnn(num_classes, width=8)


SIZE = ("--size", "16")


def test_a_network_is_inspected_and_left_alone(
    trained: nn.Module, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints.save(trained, file := tmp_path / "net.safetensors")
    assert run("inspect", file, photos, tmp_path / "out", *SIZE) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html"]
    page = Seen((tmp_path / "out" / "report.html").read_text("utf-8"))
    _, names = ib.data.load_labelled_folder(photos, size=16)
    assert names == ("0", "1", "2", "3")
    assert "64 to work with, 16 held out" in page.text
    assert re.search(r"Before: (class \d \(\d\) stands out|no class stands out)", page.text)
    assert "before: " in capsys.readouterr().out
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == 2
    links = [
        a for _, attrs in page.tags for a in ("src", "href") if str(attrs.get(a)).startswith("http")
    ]
    assert not links  # nothing is fetched


def test_a_network_is_defended_and_the_result_loads_into_the_architecture(
    trained: nn.Module, photos: Path, tmp_path: Path
) -> None:
    torch.save(
        {"net": {f"module.{k}": v for k, v in trained.state_dict().items()}}, tmp_path / "n.pt"
    )
    more = (*SIZE, "--rounds", "1", "--naive")
    assert run("defend", tmp_path / "n.pt", photos, tmp_path / "out", *more) == 0
    told = checkpoints.load(tmp_path / "out" / "defended.safetensors", new := narrow(4))
    assert told["from"]["classes"] == "4"
    assert any(not a.equal(b) for a, b in zip(new.parameters(), trained.parameters(), strict=True))
    page = Seen((tmp_path / "out" / "report.html").read_text("utf-8"))
    assert "After: " in page.text and "Accuracy after: " in page.text
    assert "Round by round" in page.text and "rounds" in page.text


def test_what_the_training_subtracted_goes_inside_the_network(
    trained: nn.Module, photos: Path, tmp_path: Path
) -> None:
    inner = narrow(4)
    inner.load_state_dict(trained.state_dict())
    first = next(m for m in inner.modules() if isinstance(m, nn.Conv2d))
    with torch.no_grad():  # reads what is divided by 0.5
        first.weight *= 0.5
    checkpoints.save(inner, tmp_path / "inner.safetensors")
    given = ("--mean", "0,0,0", "--std", "0.5,0.5,0.5")
    for name, file, more in (
        ("whole", trained, ()), ("inner", inner, given),
    ):  # fmt: skip
        checkpoints.save(file, path := tmp_path / f"{name}.safetensors")
        assert run("inspect", path, photos, tmp_path / name, *SIZE, *more) == 0
    whole, normal = (
        Seen((tmp_path / name / "report.html").read_text("utf-8")).text
        for name in ("whole", "inner")
    )
    says = re.compile(r"Before: [^.]*\.\d[^.]*\.")
    assert says.findall(whole) == says.findall(normal) != []


def test_names_of_folders_cannot_write_into_the_page(
    trained: nn.Module, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "odd").mkdir()
    for number, name in enumerate(("<script>alert(1)<", "b", "c&d", "e")):
        (tmp_path / "odd" / name.replace("/", "")).symlink_to(photos / str(number))
    checkpoints.save(trained, file := tmp_path / "<img src=x>.safetensors")
    assert run("inspect", file, tmp_path / "odd", tmp_path / "out", *SIZE) == 0
    page = Seen((tmp_path / "out" / "report.html").read_text("utf-8"))
    assert not {"script", "img"} & {tag for tag, _ in page.tags}


def test_the_weights_of_backdoorbenchs_network_are_read(tmp_path: Path) -> None:
    model = models.preact_resnet18(10)
    names = [name for name, _ in model.named_parameters()]
    assert names[0] == "conv1.weight" and names[-2:] == ["linear.weight", "linear.bias"]
    assert {"layer2.0.shortcut.0.weight", "layer4.1.bn2.bias"} < set(names)
    assert "layer1.0.shortcut.0.weight" not in names
    assert sum(p.numel() for p in model.parameters()) == 11_171_146
    saved = {"model_name": "preactresnet18", "num_classes": 10, "model": model.state_dict()}
    torch.save(saved, tmp_path / "defense_result.pt")
    other = models.preact_resnet18(10, seed=1)
    assert checkpoints.load(tmp_path / "defense_result.pt", other)["model_name"] == "preactresnet18"
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(other.eval()(x), model.eval()(x))


def test_pre_activation_passes_the_block_by(tmp_path: Path) -> None:
    """With the second convolutions at zero a block is its shortcut, and the norms are seen once."""
    model: Any = models.preact_resnet18(3, in_channels=1).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("conv2.weight"):
                parameter.zero_()
    x = model.conv1(torch.rand(2, 1, 16, 16))
    expected = x
    for stage in (2, 3, 4):
        block = model.get_submodule(f"layer{stage}.0")
        seen = torch.relu(expected / (1 + 1e-5) ** 0.5)  # a fresh norm, in evaluation mode
        expected = nn.functional.conv2d(seen, block.shortcut[0].weight, stride=2)
    for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = layer(x)
    torch.testing.assert_close(x, expected)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--mean", "0,0,0"), "--mean and --std go together"),
        (("--mean", "0,0", "--std", "0,0"), "std above 0"),
        (("--held-out", "1"), "leaves one part empty"),
        (("--clean", "nowhere"), "has no class folders"),
        (("--checkpoint", "nowhere.pt"), "nowhere.pt"),
        (("--arch", "resnet18"), "classifier"),
        (("--arch", "resnet"), "one of small_vgg"),
        (("--arch", "no_such_module:net"), "no_such_module"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(
    more: tuple[str, ...], words: str, trained: nn.Module, photos: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    checkpoints.save(trained, file := tmp_path / "net.safetensors")
    assert run("inspect", file, photos, tmp_path / "out", *SIZE, *more) == 2
    said = capsys.readouterr().err
    assert said.startswith("ibau_lite inspect: ") and words in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_the_command_is_there() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ibau_lite", "--help"], capture_output=True, text=True, check=True
    )
    assert "inspect" in done.stdout and "defend" in done.stdout


def test_the_interval_covers_a_share_as_often_as_it_says() -> None:
    draws = torch.Generator().manual_seed(0)
    for share in (0.5, 0.9, 0.98):
        counts = torch.binomial(
            torch.full((4000,), 100.0), torch.tensor(share).expand(4000), generator=draws
        )
        inside = [low <= share <= high for low, high in (interval(int(c), 100) for c in counts)]
        assert 0.92 < sum(inside) / 4000 < 0.98
