"""Files to pixels, against arrays that numpy alone has computed."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from images.pictures import LOSSLESS, encoded, exif, noise, png_head, saved, smooth, triangle, webp_head
from PIL import Image

from stfs.errors import InvalidRequest
from stfs.images import decode
from stfs.images.decode import Upload, look, open_for, open_to_check
from stfs.images.options import ImageOptions
from stfs.images.plan import Asked, make_plan
from stfs.signature import TensorSpec

# What the server asks Python for when it reads its first image: it does not want to hear of odd metadata.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin"),
    pytest.mark.filterwarnings("ignore::UserWarning:PIL.PngImagePlugin"),
]

LIMIT = 1 << 24
KINDS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")


def plan(height=None, width=None, channels=3, **options):
    spec = TensorSpec("x", np.dtype(np.uint8), (None, height, width, channels))
    return make_plan(spec, ImageOptions(layout="nhwc", **options), Asked())


def pixels(data, height=None, width=None, channels=3, **options):
    opened = open_for(Upload("a.img", data), plan(height, width, channels, **options), LIMIT)
    return opened.load()


@pytest.mark.parametrize("kind", LOSSLESS)
def test_formats_without_loss_are_exact(kind):
    wanted = noise(31, 47)
    np.testing.assert_array_equal(pixels(encoded(wanted, kind)), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_read(kind):
    wanted = smooth(64, 80)
    have = pixels(encoded(wanted, kind, **({"quality": 95} if kind == "JPEG" else {})))
    assert have.dtype == np.uint8
    assert have.shape == wanted.shape
    assert np.abs(have.astype(int) - wanted).mean() < (1 if kind in LOSSLESS else 12), "a GIF has 256 colours"


def test_a_format_that_is_not_ours_is_not_read():
    for kind in ("TIFF", "ICO", "PPM", "TGA", "AVIF"):
        with pytest.raises(InvalidRequest, match="is no image that is read here"):
            look(Upload("a.tif", encoded(noise(32, 32), kind)), LIMIT)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_camera_is_turned_the_right_way_up(kind, orientation):
    upright = smooth(48, 80) if kind == "JPEG" else noise(17, 23)
    # What a sensor sees that is held so: the inverse of what EXIF tells to do.
    as_sensed = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    data = encoded(np.ascontiguousarray(as_sensed), kind, exif=exif(orientation))
    assert look(Upload("a", data), LIMIT).size == (upright.shape[1], upright.shape[0])
    have = pixels(data).astype(int)
    assert have.shape == upright.shape
    if kind == "JPEG":
        assert np.abs(have - upright).mean() < 6
    else:
        np.testing.assert_array_equal(have, upright)
    for resize in ("stretch", "crop", "pad"):
        turned = pixels(data, 10, 12, resize=resize).astype(int)
        straight = pixels(encoded(upright, kind), 10, 12, resize=resize)
        assert np.abs(turned - straight).max() <= (24 if kind == "JPEG" else 1), resize


def test_broken_exif_is_no_reason_to_refuse():
    wanted = noise(8, 9)
    for block in (b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", exif(6)[:20]):
        np.testing.assert_array_equal(pixels(encoded(wanted, "PNG", exif=block or None)), wanted)
        assert pixels(encoded(wanted, "JPEG", exif=block)).shape == wanted.shape


def test_exif_behind_the_pixels_of_a_png_counts_too():
    wanted = noise(8, 9)
    plain = encoded(np.ascontiguousarray(wanted[::-1, ::-1]))
    block = exif(3).removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
    end = plain.index(b"IEND") - 4
    np.testing.assert_array_equal(pixels(plain[:end] + chunk + plain[end:]), wanted)


def test_transparency_is_dropped_or_kept_as_the_model_takes_it():
    wanted = noise(9, 11, 4)
    for kind in ("PNG", "WEBP"):
        data = encoded(wanted, kind)
        np.testing.assert_array_equal(pixels(data), wanted[..., :3])
        np.testing.assert_array_equal(pixels(data, channels=4), wanted)
    opaque = pixels(encoded(wanted[..., :3]), channels=4)
    np.testing.assert_array_equal(opaque, np.concatenate([wanted[..., :3], np.full((9, 11, 1), 255, np.uint8)], -1))


def test_grey_becomes_three_equal_channels_and_colour_becomes_luma():
    grey = noise(9, 11, 1)
    np.testing.assert_array_equal(pixels(encoded(grey)), np.repeat(grey, 3, 2))
    np.testing.assert_array_equal(pixels(encoded(grey), channels=1), grey)
    colour = noise(9, 11)
    luma = colour @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    assert np.abs(pixels(encoded(colour), channels=1)[..., 0] - luma).max() <= 1


def test_palettes_with_and_without_transparency():
    indices = np.random.default_rng(1).integers(0, 4, (7, 5), dtype=np.uint8)
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]], np.uint8)
    image = Image.fromarray(indices, "L").convert("L")
    image = image._new(image.im)
    image.putpalette(colours.tobytes())
    for kind in ("PNG", "GIF", "BMP"):
        np.testing.assert_array_equal(pixels(saved(image, kind)), colours[indices])
    see_through = saved(image, "PNG", transparency=bytes([0, 255, 128, 255]))
    np.testing.assert_array_equal(pixels(see_through), colours[indices])
    np.testing.assert_array_equal(pixels(see_through, channels=4)[..., 3], np.array([0, 255, 128, 255])[indices])


def test_sixteen_bits_are_brought_to_eight_not_cut_off():
    deep = np.random.default_rng(2).integers(0, 1 << 16, (6, 7), dtype=np.uint16)
    np.testing.assert_array_equal(pixels(saved(Image.fromarray(deep), "PNG"), channels=1)[..., 0], deep >> 8)
    np.testing.assert_array_equal(pixels(saved(Image.fromarray(deep), "PNG"))[..., 2], deep >> 8)


def test_one_bit_and_cmyk():
    bits = np.random.default_rng(4).integers(0, 2, (6, 7)).astype(bool)
    np.testing.assert_array_equal(pixels(saved(Image.fromarray(bits), "PNG"), channels=1)[..., 0], bits * 255)
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[..., 0], inks[..., 3] = 255, 51  # cyan, and a fifth of black
    have = pixels(saved(Image.fromarray(inks, mode="CMYK"), "JPEG", quality=100)).astype(int)
    assert np.abs(have - [0, 204, 204]).max() <= 3
    assert pixels(saved(Image.fromarray(inks, mode="CMYK"), "JPEG"), channels=1).shape == (16, 16, 1)


def test_of_an_animation_the_first_frame_counts():
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (40, 200)]
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(pixels(data), np.full((8, 8, 3), 40))


@pytest.mark.parametrize("size", [(10, 12), (40, 90), (31, 20), (1, 1), (64, 64)])
def test_resizing_weighs_every_pixel(size):
    for source in (noise(31, 47), smooth(64, 64)):
        have = pixels(encoded(source), *size)
        assert np.abs(have - triangle(source, *size)).max() <= 1.01


def test_cropping_takes_the_middle_and_padding_adds_black():
    source = smooth(60, 100)
    have = pixels(encoded(source), 30, 30, resize="crop")
    assert np.abs(have - triangle(source, 30, 50)[:, 10:40]).max() <= 1.01
    padded = pixels(encoded(source), 50, 50, resize="pad")
    assert not padded[:10].any()
    assert not padded[40:].any()
    assert np.abs(padded[10:40] - triangle(source, 30, 50)).max() <= 1.01


def test_a_model_may_insist_on_its_size():
    data = encoded(noise(31, 47))
    np.testing.assert_array_equal(pixels(data, 31, 47, resize="exact"), noise(31, 47))
    with pytest.raises(InvalidRequest, match=r'file "a\.img" has 31 by 47 pixels, and the model takes 32 by 32'):
        pixels(data, 32, 32, resize="exact")


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(1000, 1333), (801, 1207), (333, 1999)])
def test_a_jpeg_decoded_smaller_gives_what_a_full_decode_gives(size, resize, monkeypatch):
    data = encoded(smooth(*size), "JPEG", quality=90)
    have = pixels(data, 96, 96, resize=resize).astype(int)
    monkeypatch.setattr(decode, "SMALLER_BY", 1 << 12)
    full = pixels(data, 96, 96, resize=resize)
    assert np.abs(have - full).max() <= 3
    assert np.abs(have - full).mean() < 0.5


def test_a_large_jpeg_takes_little_memory_and_a_large_progressive_one_is_known_for_it():
    picture = smooth(1200, 1600)
    opened = open_for(Upload("a", encoded(picture, "JPEG")), plan(64, 64), LIMIT)
    assert opened.pixels <= 1200 * 1600 // 64
    opened = open_for(Upload("a", encoded(picture, "JPEG", progressive=True)), plan(64, 64), LIMIT)
    assert opened.pixels == 1200 * 1600


def test_long_thin_images_are_resized_without_a_mountain_between():
    thin = np.repeat(noise(40_000, 1), 2, 1)
    have = pixels(encoded(thin), 2, 4000)
    assert have.shape == (2, 4000, 3)
    assert np.abs(have[:, 0].astype(int) - triangle(thin[:, :1], 2, 1)[:, 0]).max() <= 1.01


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eighths", range(8))
def test_a_file_cut_short_is_refused_by_name(kind, eighths):
    whole = encoded(noise(64, 64), kind)
    cut = Upload("cut.img", whole[: len(whole) * eighths // 8])
    with pytest.raises(InvalidRequest, match=r'^file "cut\.img" '):
        open_for(cut, plan(8, 8), LIMIT).load()
    with pytest.raises(InvalidRequest, match=r'^file "cut\.img" '):
        open_to_check(cut, LIMIT).load()


@pytest.mark.parametrize("data", [b"", b"no picture at all", b"%PDF-1.7 ...", b"<svg/>", b"\0" * 100, b"BM", b"GIF89a"])
def test_what_is_no_image_is_refused_by_name(data):
    with pytest.raises(InvalidRequest, match=r'^file "a\?b\.png" is no '):
        look(Upload("a\nb.png", data), LIMIT)


@pytest.mark.parametrize("head", [png_head, webp_head])
def test_bombs_are_refused_by_their_heads(head):
    with pytest.raises(
        InvalidRequest, match=r"has 6000 by 10000 pixels, over the limit of 50000000.*--max_image_pixels"
    ):
        look(Upload("bomb", head(10_000, 6_000)), 50_000_000)
    with pytest.raises(InvalidRequest, match="a side may have 1 to 65535"):
        look(Upload("bomb", head(70_000, 2)), 50_000_000)


def test_a_bomb_that_is_whole_is_refused_without_being_decoded(monkeypatch):
    data = saved(Image.new("1", (10_000, 6_000)), "PNG")
    assert len(data) < 50_000
    monkeypatch.setattr(decode, "_decoded", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(InvalidRequest, match="over the limit"):
        open_for(Upload("bomb.png", data), plan(8, 8), 50_000_000)


def test_what_would_become_too_large_is_refused():
    with pytest.raises(InvalidRequest, match="would become 5000 by 5000 pixels"):
        pixels(encoded(noise(4, 4)), 5000, 5000)
    with pytest.raises(InvalidRequest, match="would become 4 by 80000 pixels"):
        pixels(encoded(noise(1, 20_000)), 4, None)


def tried(data):
    """Whatever it is, it decodes to what was asked for or is refused by name."""
    try:
        shape = open_for(Upload("f", data), plan(4, 5), 1 << 20).load().shape
    except InvalidRequest as error:
        refused = str(error)
    else:
        assert shape == (4, 5, 3)
        return
    assert refused.startswith('file "f" ')


HEADS = (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8 ", b"BM", b"GIF89a")


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(HEADS), st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(head, rest):
    tried(head + rest)


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(KINDS), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8))
def test_no_damage_does_more_than_be_refused(kind, changes):
    data = bytearray(WHOLE[kind])
    for at, value in changes:
        data[at % len(data)] = value
    tried(bytes(data))


WHOLE = {kind: encoded(smooth(20, 20), kind, **({} if kind in ("BMP", "GIF") else {"exif": exif(6)})) for kind in KINDS}


def test_the_whole_ones_are_whole():
    for kind, data in WHOLE.items():
        assert Image.open(io.BytesIO(data)).format == kind
        assert pixels(data, 4, 5).shape == (4, 5, 3)
