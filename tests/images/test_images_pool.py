"""Many images at once: bounded, in order, and nothing left over when one fails or nobody waits any more."""

import asyncio
import base64
import threading
from datetime import UTC, datetime

import numpy as np
import pytest
from images.pictures import encoded, noise, smooth
from waiting import until

from stfs.errors import ConfigError, InvalidInput, InvalidRequest
from stfs.images import decode, pool
from stfs.images.decode import Upload
from stfs.images.keep import keep, prepare_folder
from stfs.images.options import ImageOptions
from stfs.images.plan import Asked, make_plan
from stfs.images.pool import ImagePool
from stfs.signature import STRING, TensorSpec

LIMIT_S = 30.0


def plan(*shape, dtype=np.uint8):
    return make_plan(TensorSpec("x", np.dtype(dtype), shape), ImageOptions(), Asked())


def strings(*shape):
    return TensorSpec("x", STRING, shape)


def uploads(*pictures):
    return [Upload(f"{at}.png", encoded(pixels)) for at, pixels in enumerate(pictures)]


def run(work, threads=2, max_pixels=1 << 24, max_bytes=1 << 24):
    """What ``work``, an async function of a pool, returns; the pool's threads have ended then."""

    async def main():
        images = ImagePool(threads, max_pixels, max_bytes)
        try:
            return await work(images)
        finally:
            images.close()

    return asyncio.run(main())


def test_rows_are_in_the_order_of_the_files():
    pictures = [noise(6, 5, seed=seed) for seed in range(20)]
    have = run(lambda images: images.tensor(uploads(*pictures), plan(None, 6, 5, 3)))
    np.testing.assert_array_equal(have, pictures)
    alone = run(lambda images: images.tensor(uploads(pictures[0]), plan(6, 5, 3)))
    np.testing.assert_array_equal(alone, pictures[0])


def test_an_open_size_is_the_first_images_and_the_others_must_agree():
    wanted = [noise(6, 5, seed=1), noise(6, 5, seed=2)]
    np.testing.assert_array_equal(
        run(lambda images: images.tensor(uploads(*wanted), plan(None, None, None, 3))), wanted
    )
    with pytest.raises(
        InvalidRequest, match=r'file "1\.png" has 7 by 5 pixels and the first 6 by 5: send the field shape'
    ):
        run(lambda images: images.tensor(uploads(noise(6, 5), noise(7, 5)), plan(None, None, None, 3)))


@pytest.mark.parametrize(("shape", "count"), [((6, 5, 3), 2), ((2, 6, 5, 3), 3), ((2, 6, 5, 3), 1)])
def test_how_many_images_a_model_takes(shape, count):
    with pytest.raises(InvalidInput, match=rf"at a time, and {count} were sent"):
        run(lambda images: images.tensor(uploads(*[noise(6, 5)] * count), plan(*shape)))


def test_a_tensor_that_is_too_large_is_refused_before_anything_is_decoded(monkeypatch):
    monkeypatch.setattr(decode, "_decoded", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(InvalidRequest, match="come to 1440 bytes, over the limit of 1439"):
        run(
            lambda images: images.tensor(uploads(*[noise(6, 5)] * 4), plan(None, 6, 5, 3, dtype=np.float32)),
            max_bytes=1439,
        )


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [((None,), (2,)), ((None, 1), (2, 1)), ((None, None), (2, 1)), ((2,), (2,)), ((None, 1, 1), (2, 1, 1))],
)
def test_strings_have_the_rank_of_the_input(shape, wanted):
    files = uploads(noise(6, 5), noise(7, 9))
    have = run(lambda images: images.strings(files, strings(*shape), as_base64=False))
    assert have.shape == wanted
    assert have.ravel().tolist() == [file.data for file in files]
    texts = run(lambda images: images.strings(files, strings(*shape), as_base64=True))
    assert texts.ravel().tolist() == [base64.urlsafe_b64encode(file.data) for file in files]


def test_one_string_and_shapes_that_no_file_has():
    files = uploads(noise(6, 5))
    scalar = run(lambda images: images.strings(files, strings(), as_base64=False))
    assert (scalar.shape, scalar[()]) == ((), files[0].data)
    with pytest.raises(InvalidInput, match="an image is one string"):
        run(lambda images: images.strings(files, strings(None, 3), as_base64=False))


def test_large_images_are_decoded_one_at_a_time_and_small_ones_beside_them(monkeypatch):
    monkeypatch.setattr(pool, "LARGE_PIXELS", 1000)
    real, busy, most = decode._decoded, [], []
    lock = threading.Lock()

    def counted(upload, image):
        if image.width * image.height <= 1000:
            return real(upload, image)
        with lock:
            busy.append(upload.name)
            most.append(len(busy))
        try:
            return real(upload, image)
        finally:
            with lock:
                busy.remove(upload.name)

    monkeypatch.setattr(decode, "_decoded", counted)
    pictures = [smooth(300, 300, seed=seed) if seed % 2 else noise(30, 30, seed=seed) for seed in range(12)]
    have = run(lambda images: images.tensor(uploads(*pictures), plan(None, 30, 30, 3)), threads=4)
    np.testing.assert_array_equal(have[::2], pictures[::2])
    assert len(most) == 6
    assert max(most) == 1


def test_the_loop_is_free_while_images_are_decoded(monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    real = decode._decoded

    def held(upload, image):
        begun.set()
        assert go_on.wait(LIMIT_S), "the loop has not run meanwhile"
        return real(upload, image)

    monkeypatch.setattr(decode, "_decoded", held)

    async def work(images):
        task = asyncio.create_task(images.tensor(uploads(noise(6, 5)), plan(None, 6, 5, 3)))
        await until(begun.is_set)
        go_on.set()
        return await task

    np.testing.assert_array_equal(run(work), [noise(6, 5)])


def test_one_bad_file_ends_the_work_and_a_request_that_is_withdrawn_is_not_worked_on(monkeypatch):
    done = []
    real = decode._decoded
    first, go_on = threading.Event(), threading.Event()

    def counted(upload, image):
        done.append(upload.name)
        first.set()
        assert go_on.wait(LIMIT_S)
        return real(upload, image)

    monkeypatch.setattr(decode, "_decoded", counted)
    many = uploads(*[noise(6, 5)] * 50)

    async def cancelled(images):
        task = asyncio.create_task(images.tensor(many, plan(None, 6, 5, 3)))
        await until(first.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        return await images.tensor(many[:3], plan(None, 6, 5, 3))

    assert len(run(cancelled)) == 3
    assert len(done) <= 2 + 3

    async def failing(images):
        broken = Upload("bad.png", many[0].data[:-60])
        with pytest.raises(InvalidRequest, match=r"bad\.png"):
            await images.tensor([broken, *many], plan(None, 6, 5, 3))

    done.clear()
    run(failing, threads=1)
    assert done == ["bad.png"]


def test_kept_files_have_names_of_our_own(tmp_path):
    now = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    kinds = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
    files = [encoded(noise(9, 9), kind) for kind in kinds]
    paths = keep(tmp_path, files, now)
    assert [path.read_bytes() for path in paths] == files
    assert [path.suffix for path in paths] == [".jpg", ".png", ".webp", ".bmp", ".gif"]
    assert all(path.parent == tmp_path and path.name.startswith("20200102T030405-") for path in paths)
    assert len(set(keep(tmp_path, [b"a"] * 50, now))) == 50


def test_a_folder_that_cannot_be_is_an_error_of_the_option(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--download_inference_images: cannot make the folder"):
        prepare_folder(tmp_path / "file" / "below")
    prepare_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
