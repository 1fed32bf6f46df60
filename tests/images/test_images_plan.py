"""What a signature, an operator and a client say of images together, and what becomes of pixels by it."""

import numpy as np
import pytest

from stfs.errors import InvalidInput, InvalidRequest
from stfs.images.frame import frame
from stfs.images.options import ImageOptions, divisors, per_channel, ratio
from stfs.images.plan import Asked, make_plan, parse_shape
from stfs.signature import TensorSpec


def spec(*shape, dtype=np.uint8):
    return TensorSpec("x", np.dtype(dtype), None if shape == ("unknown",) else shape)


def plan(*shape, dtype=np.uint8, asked=Asked(), **options):  # noqa: B008 - frozen
    return make_plan(spec(*shape, dtype=dtype), ImageOptions(**options), asked)


@pytest.mark.parametrize(
    ("shape", "first", "height", "width", "mode", "batched"),
    [
        ((None, 224, 200, 3), False, 224, 200, "RGB", True),
        ((None, 3, 224, 200), True, 224, 200, "RGB", True),
        ((None, 28, 28, 1), False, 28, 28, "L", True),
        ((1, 1, 28, 28), True, 28, 28, "L", True),
        ((None, None, None, 3), False, None, None, "RGB", True),
        ((None, 3, None, None), True, None, None, "RGB", True),
        ((None, 224, 224, None), False, 224, 224, "RGB", True),
        ((None, None, 224, 224), True, 224, 224, "RGB", True),
        ((None, 64, 64, 4), False, 64, 64, "RGBA", True),
        ((224, 200, 3), False, 224, 200, "RGB", False),
        ((3, 224, 200), True, 224, 200, "RGB", False),
        ((None, None, 3), False, None, None, "RGB", False),
        ((None, 28, 20), False, 28, 20, "L", True),
    ],
)
def test_the_shape_tells_the_layout(shape, first, height, width, mode, batched):
    made = plan(*shape)
    assert (made.channels_first, made.height, made.width, made.mode, made.batched) == (
        first,
        height,
        width,
        mode,
        batched,
    )
    have = made.row_shape(width or 7, height or 5)
    wanted = shape[1:] if batched else shape
    assert len(have) == len(wanted)
    assert all(side is None or side == got for side, got in zip(wanted, have, strict=True))


@pytest.mark.parametrize(
    ("shape", "options", "asked", "says"),
    [
        ((None, None, None, None), {}, Asked(), "image_layout"),
        ((None, 3, 5, 3), {}, Asked(), "image_layout"),
        ((None, 2, 5, 2), {}, Asked(), "1, 3 or 4 channels"),
        ((None, 784), {}, Asked(), "send the field shape"),
        ((None, 784), {}, Asked(shape=(20, 20)), "784 values"),
        ((None, None), {}, Asked(shape=(20, 20)), "shape=20,20,3"),
        (("unknown",), {}, Asked(shape=(20, 20)), "its shape is unknown"),
        ((None,), {}, Asked(), "not an image's"),
        ((None, 8, 28, 28, 3), {}, Asked(), "not an image's"),
        ((None, 32, 32, 3), {}, Asked(channels="L"), "the field channel_layout says L"),
        ((None, 32, 32, 3), {"channels": "rgba"}, Asked(), "the model's option image_channels says RGBA"),
        ((None, 32, 32, 3), {}, Asked(shape=(64, 64)), "the field shape says 64 for 32"),
        ((None, None, None, 3), {}, Asked(shape=(70_000, 2)), "65535"),
        ((None, 32, 32, 4), {"mean": (1.0, 2.0, 3.0)}, Asked(), "3 numbers for 4 channels"),
    ],
)
def test_what_does_not_tell_enough_or_contradicts_is_refused(shape, options, asked, says):
    with pytest.raises(InvalidInput, match=says) as caught:
        plan(*shape, asked=asked, **options)
    assert str(caught.value).startswith('input "x"')


@pytest.mark.parametrize("dtype", [np.bool_, np.complex64, object])
def test_dtypes_that_no_pixel_has_are_refused(dtype):
    with pytest.raises(InvalidInput, match="cannot be made of an image"):
        plan(None, 4, 4, 3, dtype=dtype)


@pytest.mark.parametrize(
    ("shape", "asked", "row"),
    [
        ((None, None, None, 3), (20, 30), (20, 30, 3)),
        ((None, 3, None, None), (20, 30), (3, 20, 30)),
        ((None, None, None, None), (1, 20, 30, 3), (20, 30, 3)),
        ((None, None, None, None), (1, 3, 20, 30), (3, 20, 30)),
        (("unknown",), (20, 30, 1), (20, 30, 1)),
        ((None, 784), (28, 28), (784,)),
        ((None, None), (1, 28, 28, 1), (784,)),
        ((None, 2352), (3, 28, 28), (2352,)),
        ((None, 28, 28), (1, 28, 28, 1), (28, 28)),
        ((None, None, None), (1, 1, 28, 20), (28, 20)),
    ],
)
def test_the_client_tells_what_the_signature_leaves_open(shape, asked, row):
    made = plan(*shape, asked=Asked(shape=asked))
    assert made.row_shape(*made.fitted(100, 100)) == row


def test_an_open_side_follows_the_picture():
    assert plan(None, 32, None, 1).fitted(200, 100) == (64, 32)
    assert plan(None, None, 32, 1).fitted(200, 100) == (32, 16)
    assert plan(None, None, None, 1).fitted(200, 100) == (200, 100)


def written(made, pixels):
    row = np.empty(made.row_shape(pixels.shape[1], pixels.shape[0]), made.spec.dtype)
    made.write(pixels, row)
    return row


RAMP = np.stack([np.arange(256, dtype=np.uint8).reshape(16, 16), *np.full((2, 16, 16), [[[9]], [[200]]], np.uint8)], -1)


def test_pixels_are_laid_out():
    np.testing.assert_array_equal(written(plan(None, 16, 16, 3), RAMP), RAMP)
    np.testing.assert_array_equal(written(plan(None, 3, 16, 16), RAMP), RAMP.transpose(2, 0, 1))
    np.testing.assert_array_equal(
        written(plan(None, 3, 16, 16, channels="bgr"), RAMP), RAMP[..., ::-1].transpose(2, 0, 1)
    )
    np.testing.assert_array_equal(written(plan(None, 256, asked=Asked(shape=(16, 16))), RAMP[..., :1]), np.arange(256))
    flat = plan(None, 768, asked=Asked(shape=(3, 16, 16)))
    np.testing.assert_array_equal(written(flat, RAMP), RAMP.transpose(2, 0, 1).ravel())


def test_more_pixels_than_one_block_are_all_written():
    pixels = np.random.default_rng(3).integers(0, 256, (700, 500, 3), dtype=np.uint8)
    np.testing.assert_array_equal(written(plan(None, None, None, 3), pixels), pixels)
    made = plan(None, 3, None, None, dtype=np.float32, mean=(1.0, 2.0, 3.0))
    np.testing.assert_array_equal(written(made, pixels), (pixels - np.array([1.0, 2.0, 3.0])).transpose(2, 0, 1))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_scaled_shifted_and_divided_by_channel(dtype):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    made = plan(None, 3, 16, 16, dtype=dtype, scale=1 / 255, mean=mean, std=std)
    wanted = ((RAMP / 255.0 - np.array(mean)) / np.array(std)).transpose(2, 0, 1)
    have = written(made, RAMP)
    assert have.dtype == dtype
    np.testing.assert_allclose(have, wanted, rtol=max(1e-13, np.finfo(dtype).eps))


def test_mean_and_std_are_in_the_order_of_the_model():
    made = plan(None, 16, 16, 3, dtype=np.float32, channels="bgr", mean=(1.0, 2.0, 3.0))
    np.testing.assert_array_equal(written(made, RAMP), RAMP[..., ::-1] - np.float32([1, 2, 3]))


def test_without_options_values_are_the_pixels():
    for dtype in (np.uint8, np.int32, np.int64, np.float32):
        np.testing.assert_array_equal(written(plan(None, 16, 16, 3, dtype=dtype), RAMP), RAMP.astype(dtype))


def test_whole_numbers_that_do_not_fit_are_refused_and_those_that_do_are_rounded():
    with pytest.raises(InvalidInput, match="0 to 255, which int8 does not hold: set the model's options image_scale"):
        plan(None, 16, 16, 3, dtype=np.int8)
    shifted = plan(None, 16, 16, 3, dtype=np.int8, mean=(128.0,))
    np.testing.assert_array_equal(written(shifted, RAMP), RAMP.astype(int) - 128)
    halved = plan(None, 16, 16, 3, dtype=np.int8, scale=0.4)
    np.testing.assert_array_equal(written(halved, RAMP), np.rint(RAMP * 0.4))


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("224,224", (224, 224)),
        ("[224, 200, 3]", (224, 200, 3)),
        ("(1,32,32,3)", (1, 32, 32, 3)),
        ("-1,3,8,8", (-1, 3, 8, 8)),
    ],
)
def test_shapes_are_read(text, shape):
    assert parse_shape(text) == shape


@pytest.mark.parametrize("text", ["", "224", "a,b", "0,224", "1,-1,32,3", "1,2,3,4,5", "1.5,2"])
def test_what_is_no_shape_is_refused(text):
    with pytest.raises(InvalidRequest, match="must be like 224,224"):
        parse_shape(text)


def test_numbers_of_options():
    assert (ratio("1/255"), ratio("0.5"), per_channel("1,2,3"), per_channel("7")) == (
        1 / 255,
        0.5,
        (1.0, 2.0, 3.0),
        (7.0,),
    )
    for parse, text in ((ratio, "x"), (ratio, "1/0"), (ratio, "nan"), (per_channel, "1,2"), (divisors, "1,0,1")):
        with pytest.raises(ValueError, match=r"expected|not 0"):
            parse(text)


def test_frames():
    assert frame((200, 100), (50, 50), "stretch").box == (0, 0, 200, 100)
    assert frame((200, 100), (50, 50), "crop").box == (50, 0, 150, 100)
    assert frame((100, 200), (50, 50), "crop").box == (0, 50, 100, 150)
    assert frame((200, 100), (50, 50), "pad").drawn == (50, 25)
    assert frame((1, 1000), (50, 50), "pad").drawn == (1, 50)
    assert frame((200, 100), (50, 50), "crop").wanted((200, 100)) == (100, 50)


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_a_frame_never_leaves_the_picture_or_the_target(resize):
    for width in (1, 2, 3, 7, 99, 1001):
        for height in (1, 5, 640, 999):
            for target in ((1, 1), (3, 7), (224, 224), (1000, 3)):
                left, top, right, bottom = (part := frame((width, height), target, resize)).box
                assert 0 <= left < right <= width
                assert 0 <= top < bottom <= height
                assert 1 <= part.drawn[0] <= target[0]
                assert 1 <= part.drawn[1] <= target[1]
