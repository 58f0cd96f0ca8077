"""Networks in files of their own: the shipped ones are the catalogue's, and configs take them or say what is wrong."""

from pathlib import Path

import pytest

from experiments import config as configs
from experiments.errors import ExperimentError
from experiments.models.catalogue import NETWORKS
from experiments.timed_networks import TimedNetwork, networks_of

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted((CONFIGS / "models").glob("*.toml"))


def write(folder: Path, text: str, name: str = "tiny.toml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_files_are_of_the_catalogue(path: Path) -> None:
    assert list(networks_of([path.name], path.parent)) == [path.stem]
    assert path.stem in NETWORKS


def test_every_shipped_file_is_timed() -> None:
    networks = configs.load(CONFIGS / "train" / "models.toml").section("models").networks
    assert sorted(networks) == [path.stem for path in FILES]
    assert networks["mobilenetv2"] == TimedNetwork(batch=4, size=128)


def test_what_the_config_says_itself_goes_first(tmp_path: Path) -> None:
    write(tmp_path, 'network = "a"\nbatch = 2\nsize = 5')
    write(tmp_path, 'network = "b"', "b.toml")
    config = write(tmp_path, 'name = "x"\n[models]\nfiles = ["tiny.toml", "b.toml"]', "x.toml")
    models = configs.load(tmp_path / config, ["models.networks={ a = { batch = 7 }, c = {} }"]).section("models")
    assert models.networks == {"a": TimedNetwork(batch=7), "b": TimedNetwork(), "c": TimedNetwork()}
    assert models.files is None


@pytest.mark.parametrize(
    ("file", "models", "said"),
    [
        ("batch = 2", "files = ['tiny.toml']", "the key 'network' is missing"),
        ("network = 'a'\nbacth = 2", "files = ['tiny.toml']", "unknown key 'bacth' in the top level; did you mean"),
        ("network = 'a'\nsize = 0", "files = ['tiny.toml']", "size: input should be greater than 0, got 0"),
        ("network =", "files = ['tiny.toml']", "is not TOML"),
        ("network = 'a'", "files = ['tinny.toml']", "tinny.toml does not exist; did you mean 'tiny.toml'?"),
        ("network = 'a'", "files = ['tiny.toml', './tiny.toml']", "'a' is in both tiny.toml and ./tiny.toml: time it"),
        (
            "network = 'a'",
            "files = ['tiny.toml', 'tiny.toml']",
            "models.files: 'tiny.toml' is named twice: name it once",
        ),
        ("network = 'a'", "file = ['tiny.toml']", "unknown key 'file' in [models]; did you mean 'files'?"),
        ("network = 'a'", "seconds = 1.0", "[models] has no networks: give some under networks, or their files"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path: Path, file: str, models: str, said: str) -> None:
    write(tmp_path, file)
    with pytest.raises(ExperimentError) as caught:
        configs.load(tmp_path / write(tmp_path, f'name = "x"\n[models]\n{models}', "x.toml"))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
