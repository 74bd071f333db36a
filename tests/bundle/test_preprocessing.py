import numpy as np
import pytest
from PIL import Image

from pwl_jax.bundle import Preprocessing, PreprocessingError
from pwl_jax.errors import UserError

COLOUR = Preprocessing((4, 6, 3), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
GREY = Preprocessing((4, 6, 1), (0.5,), (0.25,))
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)


def test_an_image_of_the_right_size_is_not_resampled():
    np.testing.assert_array_equal(COLOUR.prepare(PIXELS), PIXELS, strict=True)
    np.testing.assert_array_equal(GREY.prepare(PIXELS[..., 0])[..., 0], PIXELS[..., 0])


def test_colours():
    grey = PIXELS[..., 0]
    repeated = np.stack([grey] * 3, axis=-1)
    np.testing.assert_array_equal(COLOUR.prepare(grey), repeated)
    np.testing.assert_array_equal(COLOUR.prepare(grey[..., None]), repeated)
    # ITU-R 601-2, with Pillow's integer rounding.
    luma = PIXELS.astype(np.float64) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(GREY.prepare(PIXELS)[..., 0], luma, atol=0.51)
    alpha = np.concatenate([PIXELS, np.zeros((4, 6, 1), np.uint8)], axis=-1)
    np.testing.assert_array_equal(COLOUR.prepare(alpha), PIXELS)
    np.testing.assert_array_equal(COLOUR.prepare(Image.fromarray(alpha)), PIXELS)


def test_resizes_as_pillow_does():
    large = np.random.default_rng(1).integers(0, 256, (9, 13, 3), np.uint8)
    expected = Image.fromarray(large).resize((6, 4), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(COLOUR.prepare(large), np.asarray(expected))


def test_normalisation_is_float32_at_each_step():
    result = COLOUR.normalize(PIXELS)
    mean, std = np.float32(COLOUR.mean), np.float32(COLOUR.std)
    expected = (PIXELS.astype(np.float32) / np.float32(255) - mean) / std
    np.testing.assert_array_equal(result, expected, strict=True)
    assert result.dtype == np.float32


def test_whatever_form_an_image_comes_in(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(PIXELS).save(path)
    expected = COLOUR.normalize(PIXELS)[None]
    for form in (PIXELS, PIXELS[None], Image.fromarray(PIXELS), path, str(path), [PIXELS],
                 expected, expected[0], [expected[0]]):  # fmt: skip
        np.testing.assert_array_equal(COLOUR(form), expected, strict=True)
    both = COLOUR([PIXELS, path])
    assert both.shape == (2, 4, 6, 3)
    assert COLOUR([]).shape == COLOUR(np.zeros((0, 4, 6, 3), np.uint8)).shape == (0, 4, 6, 3)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 6, 3)), np.zeros((6, 4, 3), np.float32), np.zeros((1, 4, 6, 1), np.float32),
     np.zeros((4, 6, 2), np.uint8), np.zeros((0, 6, 3), np.uint8), np.zeros(3, np.uint8),
     "missing.png", None, [[1, 2]], {"image": 1}, [PIXELS[None].repeat(2, 0)]],
)  # fmt: skip
def test_anything_else_is_refused(wrong):
    with pytest.raises(PreprocessingError):
        COLOUR(wrong)


def test_a_file_that_is_no_image_is_named(tmp_path):
    path = tmp_path / "text.png"
    path.write_text("no image")
    with pytest.raises(PreprocessingError, match=r"text\.png is no readable image"):
        COLOUR(path)


def test_comes_back_from_json_and_refuses_others():
    assert Preprocessing.from_dict(COLOUR.to_dict()) == COLOUR
    for change in ({"resize": "lanczos"}, {"mean": [1.0]}, {"std": [0.0] * 3}, {"extra": 1},
                   {"input_shape": [4, 6]}, {"input_shape": [4, 6, "3"]},
                   {"mean": None}):  # fmt: skip
        with pytest.raises(UserError):
            Preprocessing.from_dict({**COLOUR.to_dict(), **change})
