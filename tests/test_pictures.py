"""Pictures: what is written and marked on them, and what they refuse."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

import convjax
from convjax.inspect import pictures
from convjax.inspect.empirical import empirical_field
from convjax.inspect.receptive_field import receptive_field

X, W = np.arange(1.0, 10.0).reshape(3, 3), np.array([[1.0, 2.0], [3.0, 4.0]])


def texts(figure: Figure) -> list[str]:
    """All that is written in a figure, which is drawn first."""
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text()]


def test_frames_show_taps_products_and_outputs() -> None:
    figure = pictures.sliding_kernel_frames(X, W)
    shown = texts(figure)
    for value, products in (
        (37, "1·1 + 2·2 + 4·3 + 5·4"),
        (47, "2·1 + 3·2 + 5·3 + 6·4"),
        (67, "4·1 + 5·2 + 7·3 + 8·4"),
        (77, "5·1 + 6·2 + 8·3 + 9·4"),
    ):
        assert f"{products} = {value}" in shown
    assert shown.count("37") == 4
    assert shown.count("77") == 1
    assert shown.count("\N{MULTIPLICATION SIGN}3") == 4


def test_frames_follow_padding_stride_and_dilation() -> None:
    figure = pictures.sliding_kernel_frames(X, W, padding=1, strides=2, dilation=2, positions=[0, 3])
    source, target = figure.axes[:2]
    taps = [patch for patch in source.patches if isinstance(patch, Rectangle) and patch.get_linewidth() == 1.6]
    assert [(p.get_y() + 0.5, p.get_x() + 0.5) for p in taps] == [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    assert sum(patch.get_hatch() == "////" for patch in source.patches) == 25 - 9
    assert source.get_title() == "input 3x3, padded"
    assert target.get_title() == "output 2x2"
    value = convjax.conv2d(jnp.asarray(X)[..., None], jnp.asarray(W)[..., None, None], padding=1, strides=2, dilation=2)
    assert f"0·1 + 0·2 + 0·3 + 5·4 = {int(value[0, 0, 0])}" in texts(figure)


def test_whole_numbers_are_written_in_full() -> None:
    assert "100·1 + 200·2 + 400·3 + 500·4 = 3700" in texts(pictures.sliding_kernel_frames(100 * X, W, positions=[0]))
    assert "0.123·1 + 0.247·2 + 0.494·3 + 0.617·4 = 4.57" in texts(
        pictures.sliding_kernel_frames(X * 0.12345, W, positions=[0])
    )
    long = pictures.sliding_kernel_frames(-X * 0.12345, W, positions=[0])
    (size,) = {
        text.get_fontsize() for text in long.axes[0].texts if not text.get_text().startswith("\N{MULTIPLICATION SIGN}")
    }
    assert size == 42 / len("-0.123")
    below_zero = texts(pictures.sliding_kernel_frames([-0.0, -2.0], [1.0, 1.0]))
    assert "0·1 + (\N{MINUS SIGN}2)·1 = \N{MINUS SIGN}2" in below_zero


def test_the_animation_has_a_frame_for_every_output(tmp_path: Path) -> None:
    animation = pictures.sliding_kernel(np.arange(7.0), np.ones(3), strides=2)
    animation.save(tmp_path / "sliding.gif", writer="pillow")
    with Image.open(tmp_path / "sliding.gif") as image:
        assert image.n_frames == 3  # type: ignore[attr-defined]


def test_large_inputs_have_no_numbers() -> None:
    shown = texts(pictures.sliding_kernel_frames(np.ones((15, 3)), np.ones((3, 3)), positions=[5]))
    assert shown == ["input 15x3", "output 13x1"]


def test_feature_maps_and_kernels() -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(6, 5, 8))
    figure = pictures.feature_map_picture(maps, most=4, columns=4)
    assert [ax.get_title() for ax in figure.axes[:4]] == list(map(str, range(4)))
    assert np.array_equal(figure.axes[3].images[0].get_array(), maps[..., 3].astype(np.float32))
    assert {image.get_clim() for ax in figure.axes[:4] for image in ax.images} == {
        (float(np.float32(maps[..., :4].min())), float(np.float32(maps[..., :4].max())))
    }
    assert "6x5, 4 of 8 feature maps" in texts(figure)
    first = pictures.feature_map_picture(maps.transpose(2, 0, 1), layout="NCHW", shared=False)
    assert np.array_equal(first.axes[3].images[0].get_array(), maps[..., 3].astype(np.float32))

    w = rng.normal(size=(3, 5, 2, 2))
    figure = pictures.kernel_picture(w)
    assert np.array_equal(figure.axes[3].images[0].get_array(), w[:, :, 1, 1].astype(np.float32))
    low, high = figure.axes[0].images[0].get_clim()
    assert -low == high == float(np.abs(w.astype(np.float32)).max())
    assert "2 kernels of 3x5, 2 input channels" in texts(figure)
    colours = pictures.kernel_picture(rng.normal(size=(7, 7, 3, 2)))
    assert colours.axes[0].images[0].get_array().shape == (7, 7, 3)  # type: ignore[union-attr]


def test_fields_on_an_image() -> None:
    def network(x: Any) -> Any:
        return convjax.conv(convjax.conv(x, jnp.ones((3, 3, 1, 1)), strides=2, padding=1), jnp.ones((3, 3, 1, 1)))

    x = jnp.ones((1, 16, 16, 1))
    figure = pictures.receptive_field_picture(empirical_field(network, x), image=np.eye(16))
    assert "output (3, 3) sees 7x7" in texts(figure)
    exact = pictures.receptive_field_picture(receptive_field(network, x), position=(0, 0))
    frame, reach, inside = [patch for patch in exact.axes[0].patches if isinstance(patch, Rectangle)]
    assert [p.get_bbox().bounds for p in (frame, reach, inside)] == [
        (-0.5, -0.5, 16, 16),
        (-1.5, -1.5, 7, 7),
        (-0.5, -0.5, 6, 6),
    ]
    assert "output (0, 0) sees 7x7" in texts(exact)


def test_time_by_layer() -> None:
    def network(x: Any) -> Any:
        for _ in range(2):
            x = convjax.conv(x, jnp.ones((3, 3, 8, 8)), padding=1)
        return convjax.max_pool(x, 2)

    found = convjax.explain(network, jnp.ones((4, 16, 16, 8)), platform="cpu")
    figure = pictures.time_picture(found)
    shown = texts(figure)
    assert "conv 3x3 on 16x16, 8→8  (2 times)" in shown
    assert "max 2x2 /2 on 16x16, 32 planes" in shown
    widths = [bar.get_width() for bar in figure.axes[0].patches if isinstance(bar, Rectangle)]
    assert widths == pytest.approx([row.predicted * row.count * 1e6 for row in found.rows if row.predicted])
    assert figure.axes[0].get_xlabel() == "predicted µs on cpu"

    rows = tuple(dataclasses.replace(row, measured=2e-3 if row.count > 1 else None) for row in found.rows)
    tuned = pictures.time_picture(dataclasses.replace(found, rows=rows))
    longest = max(bar.get_width() for bar in tuned.axes[0].patches if isinstance(bar, Rectangle))
    assert longest == pytest.approx(2 * 2)
    assert tuned.axes[0].get_xlabel() == "measured or predicted ms on cpu"


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"x of shape \(3, 3\) and w of shape \(2,\) must both have 1 axis, or both 2"):
        pictures.sliding_kernel_frames(X, W[0])
    with pytest.raises(ValueError, match=r"positions \(4,\) must be between 0 and 3"):
        pictures.sliding_kernel_frames(X, W, positions=[4])
    with pytest.raises(ValueError, match=r"maps of shape \(1, 2, 2, 1\) must have 3 axes"):
        pictures.feature_map_picture(np.ones((1, 2, 2, 1)))
    with pytest.raises(ValueError, match=r"w of shape \(2, 2\) must have 4 axes"):
        pictures.kernel_picture(W)
    with pytest.raises(ValueError, match="w has 2 of them"):
        pictures.kernel_picture(np.ones((2, 2, 2, 1)), rgb=True)
    field = receptive_field(lambda x: convjax.conv1d(x, jnp.ones((3, 1, 1))), jnp.ones((1, 8, 1)))
    with pytest.raises(ValueError, match="field is of 1 spatial axes: a picture has 2"):
        pictures.receptive_field_picture(field)
    with pytest.raises(ValueError, match="explanation has 0 rows"):
        pictures.time_picture(convjax.explain(lambda x: x, jnp.ones(3), platform="cpu"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'convjax\[pictures\]'"):
        pictures.kernel_picture(np.ones((2, 2, 1, 1)))
