"""Images that Pillow would convert to 8 bits wrongly or unasked, and the exact luma."""

import numpy as np
import pytest
from PIL import Image

from pwl_jax.bundle import Preprocessing, PreprocessingError

GREY = Preprocessing((4, 4, 1), (0.0,), (1.0,))


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
def test_more_than_eight_bits_are_refused_not_clipped(dtype, tmp_path):
    image = Image.fromarray((1000 * np.arange(16).reshape(4, 4)).astype(dtype))
    with pytest.raises(PreprocessingError, match="more than 8 bits a channel"):
        GREY(image)
    if dtype == "uint16":
        image.save(tmp_path / "deep.png")
        with pytest.raises(PreprocessingError, match=r"deep\.png has more than 8 bits a channel"):
            GREY(tmp_path / "deep.png")


def test_luma_is_what_the_format_page_says():
    rgb = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    red, green, blue = np.moveaxis(rgb.astype(np.int64), -1, 0)
    expected = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    np.testing.assert_array_equal(GREY.prepare(rgb)[..., 0], expected)


@pytest.mark.parametrize(
    ("shape", "mean", "std", "message"),
    [
        ((), (), (), "input_shape"),
        ((4, 4, 2), (0.0, 0.0), (1.0, 1.0), "1 or 3 channels"),
        ((4, 4, 1), (float("nan"),), (1.0,), "finite"),
        ((4, 4, 1), (0.0,), (float("nan"),), "positive"),
        ((4, 4, 3), (0.0,), (1.0,), "1 means"),
    ],
)
def test_what_is_no_preprocessing(shape, mean, std, message):
    with pytest.raises(PreprocessingError, match=message):
        Preprocessing(shape, mean, std)
