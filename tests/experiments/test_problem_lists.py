"""Problem lists: the field's layers are all there, every family is as the layer says, and bad lists are refused."""

import collections
from pathlib import Path

import pytest

from convjax.layer import Layer
from experiments import config as configs
from experiments.errors import ExperimentError
from experiments.families import FAMILIES, family
from experiments.problems import layers_of

CONFIGS = Path(__file__).parents[2] / "configs"
# Distinct layers of each network or family as their papers and benchmarks give them; of the ensemble two, for the two
# ways in which it is differentiated.
COUNTS = {
    "vgg": 9,
    "resnet50": 23,
    "resnext50": 7,
    "alexnet": 5,
    "googlenet": 9,
    "mobilenet": 9,
    "efficientnet": 12,
    "convnext": 8,
    "replknet": 4,
    "convnet_benchmarks": 5,
    "deepbench": 4,
    "unet": 10,
    "transposed": 7,
    "volumes": 7,
    "lines": 17,
    "vmapped": 3,
    "pooling": 12,
}


def write(tmp_path: Path, text: str, name: str = "list.toml") -> str:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return name


def test_every_list_holds_its_layers_and_the_sweep_names_every_list() -> None:
    lists = {path.stem: layers_of([path.name], path.parent, None) for path in (CONFIGS / "problems").glob("*.toml")}
    assert {name: len(layers) for name, layers in lists.items()} == COUNTS
    sweep = configs.load(CONFIGS / "sweep" / "cpu_layers.toml").section("sweep")
    assert sweep.layers == {name: text for stem in COUNTS for name, text in lists[stem].items()}
    layers = [Layer.parse(name, text) for name, text in sweep.layers.items()]
    # What is named and what is computed are one: no two names for one layer.
    assert len({layer.text for layer in layers}) == len(layers) == 151
    assert collections.Counter(family(layer) for layer in layers) == {
        "depthwise to 7": 25,
        "depthwise above 7": 4,
        "grouped": 10,
        "dense 3x3": 23,
        "1x1": 20,
        "other dense": 21,
        "transposed": 9,
        "3-D": 7,
        "1-D": 17,
        "vmapped": 3,
        "pooling": 12,
    }


@pytest.mark.parametrize("path", sorted((CONFIGS / "sweep").glob("*.toml")), ids=lambda p: p.name)
def test_shipped_sweeps_load_and_read_back(path: Path, tmp_path: Path) -> None:
    config = configs.load(path)
    assert config.name == path.stem
    write(tmp_path, config.text())
    assert configs.load(tmp_path / "list.toml") == config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("depthwise2d 1x9x9x4 k7x3", "depthwise to 7"),
        ("conv2d 1x9x9x4 -> 8 k3 g4", "depthwise to 7"),
        ("depthwise2d 1x9x9x4 k9x1", "depthwise above 7"),
        ("conv2d 1x9x9x4 -> 8 k9 g2", "grouped"),
        ("conv2d 1x9x9x8 -> 8 k3 p1", "dense 3x3"),
        ("conv2d 1x9x9x4 -> 8 k3 p1", "other dense"),  # a stem
        ("conv2d 1x9x9x8 -> 8 k3 s2", "other dense"),
        ("conv2d 1x9x9x8 -> 8 k3 d2", "other dense"),
        ("conv2d 1x9x9x8 -> 8 k1 s2", "1x1"),
        ("transpose2d 1x9x9x8 -> 8 k3 g2", "transposed"),
        ("transpose3d 1x4x9x9x8 -> 8 k3", "transposed"),
        ("depthwise3d 1x4x9x9x8 k3", "3-D"),
        ("conv1d 1x9x8 -> 8 k1", "1-D"),
        ("conv1d 1x9x8 -> 8 k3 members2", "vmapped"),
        ("max1d 1x9x8 k3", "pooling"),
    ],
)
def test_family_follows_from_the_layer(text: str, expected: str) -> None:
    assert family(Layer.parse("a", text)) == expected
    assert expected in FAMILIES


def test_batch_is_the_lists_unless_the_config_says_otherwise(tmp_path: Path) -> None:
    name = write(
        tmp_path, 'batch = 3\n[layers]\na = "conv2d Nx8x8x3 -> 4 k3"\nb = "max2d 5x8x8x3 k2"\n', "network.toml"
    )
    config = f'name = "x"\n[sweep]\nproblems = ["{name}"]\n'
    own = configs.load(tmp_path / write(tmp_path, config, "x.toml")).section("sweep")
    assert own.layers == {"a": "conv2d 3x8x8x3 -> 4 k3", "b": "max2d 5x8x8x3 k2"}
    given = configs.load(tmp_path / "x.toml", ["sweep.batch=7", "sweep.layers={ c = 'max2d 1x8x8x3 k2' }"])
    assert given.section("sweep").layers == {
        "a": "conv2d 7x8x8x3 -> 4 k3",
        "b": "max2d 5x8x8x3 k2",
        "c": "max2d 1x8x8x3 k2",
    }
    assert (given.section("sweep").problems, given.section("sweep").batch) == (None, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batch = 2", "the key 'layers' is missing"),
        ("[layers]", "layers: dictionary should have at least 1 item"),
        ("bacth = 2\n[layers]\na = 'max2d Nx8x8x3 k2'", "unknown key 'bacth' in the top level; did you mean 'batch'?"),
        ("batch = 0\n[layers]\na = 'max2d Nx8x8x3 k2'", "batch: input should be greater than 0, got 0"),
        ("[layers]\na = 'max2d Mx8x8x3 k2'", "layer 'a': cannot read 'max2d Mx8x8x3 k2'"),
        ("[layers]\na = 'max2d Nx8x8x3 k9'", "a kernel reaching over 9 does not fit"),
        ("[layers]\na = 'max2d Nx8x0x3 k2 p1'", "layer 'a': 'max2d 1x8x0x3 k2 p1' is empty: its batch, space and"),
        ("[layers]\na = 'conv2d Nx8x8x3 -> 0 k2'", "layer 'a': 'conv2d 1x8x8x3 -> 0 k2' is empty"),
        ("[layers]\n'a/b' = 'max2d Nx8x8x3 k2'", "the name 'a/b' may hold only"),
        ("[layers", "is not TOML"),
    ],
)
def test_bad_lists_are_refused_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ExperimentError, match=r"^problem list ") as caught:
        layers_of([write(tmp_path, text)], tmp_path, None)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ("problems = ['lists.toml']", "lists.toml does not exist; did you mean 'list.toml'?"),
        ("problems = ['list.toml', './list.toml']", "the layer 'a' is in both list.toml and ./list.toml: name each"),
        ("problems = ['list.toml', 'list.toml']", "sweep.problems: 'list.toml' is named twice: name it once"),
        (
            "problems = ['list.toml']\nlayers = { a = 'max2d 1x8x8x3 k2' }",
            "the layer 'a' of sweep.layers is in one of sweep.problems as well",
        ),
        ("problem = ['list.toml']", "unknown key 'problem' in [sweep]; did you mean 'problems'?"),
        ("batch = 3\nlayers = { a = 'max2d 1x8x8x3 k2' }", "sweep.batch is of the lists in sweep.problems"),
        ("layers = { a = 'conv2d 0x8x8x4 -> 8 k3' }", "sweep.layers: layer 'a': 'conv2d 0x8x8x4 -> 8 k3' is empty"),
        ("layers = { a = 'max2d Nx8x8x3 k2' }", "sweep.layers: layer 'a': Nx8x8x3 leaves its batch open"),
        ("seconds = 1.0", "[sweep] has no layers: give some under layers, or lists under problems"),
    ],
)
def test_bad_mentions_of_lists_are_refused_in_one_sentence(tmp_path: Path, sweep: str, said: str) -> None:
    write(tmp_path, "[layers]\na = 'max2d Nx8x8x3 k2'")
    with pytest.raises(ExperimentError) as caught:
        configs.load(tmp_path / write(tmp_path, f'name = "x"\n[sweep]\n{sweep}', "x.toml"))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
