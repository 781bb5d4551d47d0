"""Image files of every odd kind, and the geometry of model inputs."""

from __future__ import annotations

import io
import struct
import typing
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxviz.core import limits
from onnxviz.core.errors import DataError
from onnxviz.core.values import PRESETS, Interpolation, Preprocessing
from onnxviz.data.decode import check_image, image_size
from onnxviz.data.images import ImageFolder, fit_box, fit_image, fit_labels, kept_fraction, load_batch, read_image

CROP = Preprocessing(fit="crop", crop_fraction=0.875)
STRETCH = Preprocessing(fit="stretch")


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


class TestReading:
    def test_a_plain_picture_is_read_as_it_is(self, tmp_path: Path) -> None:
        pixels = noise(5, 7)
        assert (read_image(save(tmp_path / "a.png", pixels)) == pixels).all()

    def test_grey_and_tiny(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.png", np.full((1, 1), 77, np.uint8))
        assert read_image(path).tolist() == [[[77, 77, 77]]]

    def test_one_bit(self, tmp_path: Path) -> None:
        Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(tmp_path / "a.png")
        assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 255]

    @pytest.mark.parametrize("suffix", ["png", "tif"])
    def test_16_bit_grey_is_scaled_not_clipped(self, tmp_path: Path, suffix: str) -> None:
        values = np.array([[0, 257, 32896, 65535]], np.uint16)
        Image.fromarray(values).save(tmp_path / f"a.{suffix}")
        assert read_image(tmp_path / f"a.{suffix}")[0, :, 1].tolist() == [0, 1, 128, 255]

    def test_16_bit_grey_pnm_is_scaled(self, tmp_path: Path) -> None:
        (tmp_path / "a.pgm").write_bytes(b"P5 3 1 65535\n" + np.array([0, 32896, 65535], ">u2").tobytes())
        assert read_image(tmp_path / "a.pgm")[0, :, 2].tolist() == [0, 128, 255]

    def test_32_bit_and_float_are_refused(self, tmp_path: Path) -> None:
        Image.fromarray(np.array([[0, 100_000]], np.int32)).save(tmp_path / "a.tif")
        Image.fromarray(np.array([[0.0, 1.0]], np.float32)).save(tmp_path / "b.tif")
        for name in ("a.tif", "b.tif"):
            with pytest.raises(DataError, match="pixels, whose range is unknown"):
                read_image(tmp_path / name)

    def test_cmyk(self, tmp_path: Path) -> None:
        Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
        red = read_image(tmp_path / "a.jpg")[4, 4].tolist()
        assert red[0] > 240
        assert max(red[1:]) < 15

    def test_transparency_lies_over_white(self, tmp_path: Path) -> None:
        Image.fromarray(np.array([[[255, 0, 0, 0], [255, 0, 0, 255], [0, 0, 0, 128]]], np.uint8)).save(
            tmp_path / "a.png"
        )
        assert read_image(tmp_path / "a.png")[0].tolist() == [[255, 255, 255], [255, 0, 0], [127, 127, 127]]

    def test_palette_with_transparency(self, tmp_path: Path) -> None:
        image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
        image.putpalette([10, 20, 30, 40, 50, 60] + [0] * 762)
        image.save(tmp_path / "a.png", transparency=0)
        assert read_image(tmp_path / "a.png")[0].tolist() == [[255, 255, 255], [40, 50, 60]]

    def test_the_first_frame_of_an_animation_is_used_and_said(self, tmp_path: Path) -> None:
        frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
        frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
        assert read_image(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]
        folder = ImageFolder.find("x", ["a.gif"], tmp_path)
        assert folder.notes == (("a.gif", "animation: the first of 3 frames is used"),)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation(self, tmp_path: Path, orientation: int) -> None:
        upright = np.zeros((16, 32, 3), np.uint8)
        upright[:8, :16] = 255
        undo = {
            2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1], 5: lambda p: p.swapaxes(0, 1),
            6: lambda p: np.rot90(p, 1), 7: lambda p: np.rot90(p, 2).swapaxes(0, 1), 8: lambda p: np.rot90(p, -1),
        }  # fmt: skip
        stored = np.ascontiguousarray(undo.get(orientation, lambda p: p)(upright))
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = save(tmp_path / "a.png", stored, exif=exif)
        assert (read_image(path) == upright).all()
        assert image_size(path) == (16, 32)

    def test_damaged_metadata_does_not_cost_the_image(self, tmp_path: Path) -> None:
        save(tmp_path / "a.png", noise(4, 4), exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 40)
        assert read_image(tmp_path / "a.png").shape == (4, 4, 3)

    def test_a_wrong_suffix_does_not_matter(self, tmp_path: Path) -> None:
        pixels = noise(5, 7)
        save(tmp_path / "a.png", pixels).rename(tmp_path / "a.jpg")
        assert (read_image(tmp_path / "a.jpg") == pixels).all()


class TestHostileFiles:
    def test_no_bytes(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").touch()
        with pytest.raises(DataError, match=r"a\.jpg: an empty file"):
            read_image(tmp_path / "a.jpg")

    def test_a_missing_file_a_folder_and_a_name_with_nul(self, tmp_path: Path) -> None:
        for path, message in ((tmp_path / "no", "cannot be read"), (tmp_path, "regular"), (Path("a\0b"), "file name")):
            with pytest.raises(DataError, match=message):
                read_image(path)

    def test_400_megapixels_are_refused_by_the_header(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(png_header(20_000, 20_000))
        for check in (check_image, read_image, image_size):
            with pytest.raises(DataError, match="too large"):
                check(tmp_path / "a.png")

    def test_the_limit_holds_whatever_pillow_allows(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        (tmp_path / "a.png").write_bytes(png_header(20_000, 20_000))
        for check in (check_image, read_image, image_size):
            with pytest.raises(DataError, match="20000 x 20000 pixels"):
                check(tmp_path / "a.png")

    def test_a_huge_file_is_refused_unread(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "IMAGE_BYTES", 100)
        with pytest.raises(DataError, match="larger than"):
            read_image(save(tmp_path / "a.png", noise(20, 20)))

    @pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif", "tif", "ppm"])
    def test_truncation_is_found_before_a_run(self, tmp_path: Path, suffix: str) -> None:
        whole = save(tmp_path / f"whole.{suffix}", noise(64, 64)).read_bytes()
        check_image(tmp_path / f"whole.{suffix}")
        for share in (0.02, 0.5, 0.97):
            (tmp_path / f"a.{suffix}").write_bytes(whole[: int(len(whole) * share)])
            with pytest.raises(DataError):
                check_image(tmp_path / f"a.{suffix}")

    def test_a_flipped_bit_in_a_png_is_found_before_a_run(self, tmp_path: Path) -> None:
        content = bytearray(save(tmp_path / "a.png", noise(64, 64)).read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / "a.png").write_bytes(bytes(content))
        with pytest.raises(DataError, match="damaged"):
            check_image(tmp_path / "a.png")

    def test_bytes_behind_the_end_are_no_damage(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.jpg", noise(64, 64))
        path.write_bytes(path.read_bytes() + b"\xff\xda" + b"trailer" * 100)
        assert check_image(path) == ""

    def test_only_the_listed_formats_are_opened(self, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        Image.fromarray(noise(8, 8)).save(buffer, "TGA")
        (tmp_path / "a.png").write_bytes(buffer.getvalue())
        (tmp_path / "b.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
        for name in ("a.png", "b.eps"):
            with pytest.raises(DataError, match="not an image in one of the formats"):
                read_image(tmp_path / name)

    def test_random_bytes_after_any_magic_never_escape(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        path = tmp_path / "a"
        for magic in (
            b"\xff\xd8\xff\xe0",
            b"\x89PNG\r\n\x1a\n",
            b"GIF89a",
            b"RIFF\x40\0\0\0WEBP",
            b"BM",
            b"II*\0",
            b"P6",
        ):
            for _ in range(20):
                path.write_bytes(magic + rng.bytes(200))
                for call in (read_image, check_image):
                    with pytest.raises(DataError):
                        call(path)


class TestFolder:
    def test_patterns_folders_and_repeats(self, tmp_path: Path) -> None:
        for name in ("b/2.png", "a/1.png", "a/3.JPG", "a/readme.txt"):
            save(tmp_path / "p" / name.replace("txt", "bmp"), noise(4, 4))
        (tmp_path / "p/a/readme.bmp").rename(tmp_path / "p/a/readme.txt")
        folder = ImageFolder.find("x", ["p", "p/a/*.png", "p/**/*.JPG"], tmp_path)
        assert folder.names == ("a/1.png", "a/3.JPG", "b/2.png")
        assert folder.skipped == ()
        assert [folder.class_names_of(index) for index in range(3)] == [("a",), ("a",), ("b",)]
        assert ImageFolder.find("x", [str(tmp_path / "p/*/*.png")], Path("/")).names == ("a/1.png", "b/2.png")

    def test_a_name_with_brackets_is_taken_literally(self, tmp_path: Path) -> None:
        save(tmp_path / "[1].png", noise(4, 4))
        save(tmp_path / "1.png", noise(4, 4))
        assert ImageFolder.find("x", ["[1].png"], tmp_path).names == ("[1].png",)

    def test_brackets_in_the_base_folder_are_no_pattern(self, tmp_path: Path) -> None:
        save(tmp_path / "[ab]" / "1.png", noise(4, 4))
        assert ImageFolder.find("x", ["*.png"], tmp_path / "[ab]").names == ("1.png",)

    def test_what_cannot_be_used_is_skipped_and_listed(self, tmp_path: Path) -> None:
        save(tmp_path / "good.png", noise(4, 4))
        (tmp_path / "empty.png").touch()
        (tmp_path / "huge.png").write_bytes(png_header(20_000, 20_000))
        (tmp_path / "text.png").write_text("hello")
        folder = ImageFolder.find("x", ["*.png", "no/*.jpg"], tmp_path)
        assert folder.names == ("good.png",)
        reasons = dict(folder.skipped)
        assert set(reasons) == {"no/*.jpg", "empty.png", "huge.png", "text.png"}
        assert reasons["no/*.jpg"] == "matches no file"
        assert "too large" in reasons["huge.png"]

    def test_nothing_found_names_pattern_folder_and_the_nearest(self, tmp_path: Path) -> None:
        save(tmp_path / "photos" / "1.png", noise(4, 4))
        with pytest.raises(DataError) as caught:
            ImageFolder.find("snaps", ["photo"], tmp_path)
        message = str(caught.value)
        assert "snaps" in message
        assert "'photo'" in message
        assert str(tmp_path) in message
        assert "did you mean 'photos'" in message

    def test_nothing_usable_says_why(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_text("hello")
        with pytest.raises(DataError, match=r"none of 1 files .* a\.png: not an image"):
            ImageFolder.find("x", ["*.png"], tmp_path)

    def test_a_limit_spreads_over_the_list(self, tmp_path: Path) -> None:
        for index in range(10):
            save(tmp_path / f"{index}.png", noise(2, 2))
        folder = ImageFolder.find("x", ["."], tmp_path, limit=4)
        assert folder.names == ("0.png", "2.png", "5.png", "7.png")
        assert folder.found == 10

    def test_the_digest_follows_names_and_bytes_but_not_the_place(self, tmp_path: Path) -> None:
        digests = []
        for place, name, seed in (("a", "1.png", 0), ("b", "1.png", 0), ("c", "1.png", 1), ("d", "2.png", 0)):
            save(tmp_path / place / name, noise(4, 4, seed))
            digests.append(ImageFolder.find("x", ["*.png"], tmp_path / place).digest)
        assert digests[0] == digests[1]
        assert len(set(digests)) == 3

    def test_labels_beside_the_images(self, tmp_path: Path) -> None:
        for name in "abc":
            save(tmp_path / f"{name}.png", noise(4, 4))
        (tmp_path / "labels.csv").write_text('file,class_index,name\na.png,9,"ostrich, bird"\nb.png,7,\n', "utf-8-sig")
        folder = ImageFolder.find("x", ["*.png"], tmp_path)
        assert [folder.class_names_of(index) for index in range(3)] == [("ostrich, bird",), (), ()]
        assert [folder.class_index_of(index) for index in range(3)] == [9, 7, None]

    def test_unusable_labels_are_named(self, tmp_path: Path) -> None:
        save(tmp_path / "a.png", noise(4, 4))
        for content in (b"\xff\xfe\x00", b"name,class\na.png,1\n"):
            (tmp_path / "labels.csv").write_bytes(content)
            with pytest.raises(DataError, match=r"labels\.csv"):
                ImageFolder.find("x", ["*.png"], tmp_path).class_names_of(0)


class TestGeometry:
    @pytest.mark.parametrize(
        ("image", "size"), [((300, 400), (224, 224)), ((375, 500), (227, 227)), ((64, 31), (96, 64))]
    )
    def test_crop_is_pillows_resize_then_centre_crop(self, image: tuple[int, int], size: tuple[int, int]) -> None:
        pixels = noise(*image)
        scale = max(size[0] / 0.875 / image[0], size[1] / 0.875 / image[1])
        height, width = round(image[0] * scale), round(image[1] * scale)
        resized = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
        top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
        expected = resized[top : top + size[0], left : left + size[1]]
        fitted = fit_image(pixels, CROP, size)
        assert fitted.dtype == np.float32
        # Pillow sums in fixed point, so a last bit may differ.
        assert np.abs(fitted * 255 - expected).max() <= 1.001
        assert np.mean(np.abs(fitted * 255 - expected) > 0.5) < 0.01

    def test_the_short_side_becomes_size_over_crop_fraction(self) -> None:
        top, left, bottom, right = fit_box((256, 512), CROP, (224, 224))
        assert (top, bottom) == (16, 240)
        assert (left, right) == (144, 368)

    @pytest.mark.parametrize(
        ("image", "said", "kept"),
        [
            ((32, 32), None, 1.0),  # the input's own size
            ((28, 28), None, 1.0),  # smaller
            ((36, 400), None, 1.0),  # a crop of 0.875 would enlarge it
            ((37, 400), None, 0.875),  # 32 / 0.875 = 36.6 pixels are there
            ((400, 36), None, 1.0),
            ((480, 640), None, 0.875),
            ((32, 32), 0.875, 0.875),  # what somebody says is obeyed
            ((480, 640), 1.0, 1.0),
        ],
    )
    def test_only_what_is_larger_than_the_input_is_cropped(
        self, image: tuple[int, int], said: float | None, kept: float
    ) -> None:
        preprocessing = Preprocessing(fit="crop", crop_fraction=said)
        assert kept_fraction(image, preprocessing, (32, 32)) == kept
        top, left, bottom, right = fit_box(image, preprocessing, (32, 32))
        assert min(bottom - top, right - left) == pytest.approx(kept * min(image), abs=1.01 * min(image) / 32)

    def test_an_image_of_the_inputs_size_is_taken_as_it_is(self) -> None:
        pixels = noise(32, 32)
        for preset in PRESETS.values():
            assert (fit_image(pixels, preset, (32, 32)) == pixels.astype(np.float32) / 255).all()

    def test_stretch_keeps_every_pixel(self) -> None:
        pixels = noise(30, 50)
        expected = np.asarray(Image.fromarray(pixels).resize((20, 10), Image.Resampling.BILINEAR))
        assert (np.round(fit_image(pixels, STRETCH, (10, 20)) * 255) == expected).all()

    def test_bicubic_is_pillows(self) -> None:
        pixels = noise(30, 50)
        expected = np.asarray(Image.fromarray(pixels).resize((20, 10), Image.Resampling.BICUBIC))
        fitted = fit_image(pixels, replace(STRETCH, interpolation="bicubic"), (10, 20))
        assert (np.round(fitted * 255) == expected).all()

    @pytest.mark.parametrize("size", [(10, 20), (64, 80), (30, 7)])
    def test_without_antialiasing_four_pixels_count(self, size: tuple[int, int]) -> None:
        pixels = noise(30, 50)
        fitted = fit_image(pixels, replace(STRETCH, interpolation="bilinear_aliased"), size)
        for row, column in np.ndindex(*size):
            y = min(max((row + 0.5) * 30 / size[0] - 0.5, 0), 29)
            x = min(max((column + 0.5) * 50 / size[1] - 0.5, 0), 49)
            total = np.zeros(3)
            for near in {int(y), min(int(y) + 1, 29)}:
                for beside in {int(x), min(int(x) + 1, 49)}:
                    total += pixels[near, beside] * max(0, 1 - abs(y - near)) * max(0, 1 - abs(x - beside))
            assert np.abs(fitted[row, column] * 255 - total).max() <= 0.5001

    def test_the_right_size_is_left_alone(self) -> None:
        pixels = noise(32, 32)
        for preprocessing in (STRETCH, Preprocessing(fit="none"), Preprocessing(fit="crop", crop_fraction=1.0)):
            assert (fit_image(pixels, preprocessing, (32, 32)) == pixels.astype(np.float32) / 255).all()

    def test_none_refuses_another_size(self, tmp_path: Path) -> None:
        save(tmp_path / "a.png", noise(8, 9))
        folder = ImageFolder.find("x", ["a.png"], tmp_path)
        with pytest.raises(DataError, match=r"a\.png: the image is 9 x 8 pixels, the model takes 32 x 32"):
            load_batch(folder, [0], Preprocessing(fit="none"), (32, 32))

    def test_extreme_shapes_take_no_memory(self) -> None:
        line = np.zeros((1, 200_000, 3), np.uint8)
        line[:, 100_000] = 255
        for interpolation in typing.get_args(Interpolation):
            assert fit_image(line, replace(CROP, interpolation=interpolation), (224, 224)).shape == (224, 224, 3)
        assert fit_image(np.full((1, 1, 3), 9, np.uint8), CROP, (8, 8)).max() == np.float32(9) / 255

    @pytest.mark.parametrize("preprocessing", [CROP, STRETCH])
    def test_labels_follow_the_image(self, preprocessing: Preprocessing) -> None:
        labels = np.kron(np.random.default_rng(0).integers(0, 2, (6, 9)), np.ones((20, 20), int))
        pixels = np.repeat((labels * 255).astype(np.uint8)[:, :, None], 3, axis=2)
        fitted = fit_labels(labels, preprocessing, (40, 40))
        image = fit_image(pixels, preprocessing, (40, 40))[:, :, 0]
        sure = np.abs(image - 0.5) > 0.45
        assert sure.mean() > 0.4
        assert (fitted[sure] == np.round(image[sure])).all()

    def test_nearest_labels_are_pillows(self) -> None:
        labels = np.random.default_rng(0).integers(0, 9, (31, 47)).astype(np.int32)
        expected = np.asarray(Image.fromarray(labels).resize((20, 50), Image.Resampling.NEAREST))
        assert (fit_labels(labels, STRETCH, (50, 20)) == expected).all()
        assert (fit_labels(np.stack([labels, labels]), STRETCH, (50, 20))[1] == expected).all()

    def test_a_batch_is_channels_first(self, tmp_path: Path) -> None:
        save(tmp_path / "1.png", noise(8, 8, 1))
        save(tmp_path / "2.png", noise(8, 8, 2))
        folder = ImageFolder.find("x", ["*.png"], tmp_path)
        batch = load_batch(folder, [1, 0], STRETCH, (8, 8))
        assert batch.dtype == np.float32
        assert (batch[0] == noise(8, 8, 2).transpose(2, 0, 1).astype(np.float32) / 255).all()


@pytest.mark.zoo
def test_real_photographs(shared_data: Path) -> None:
    folder = ImageFolder.find("photos", ["imagenet_sample"], shared_data)
    assert len(folder) == 206
    assert folder.skipped == ()
    index = next(index for index, name in enumerate(folder.names) if "king_penguin" in name)
    assert folder.class_names_of(index)[0] == "king penguin"
    assert folder.class_index_of(index) == 145
    batch = load_batch(folder, range(4), PRESETS["imagenet"], (224, 224))
    assert batch.shape == (4, 3, 224, 224)
    assert 0 <= batch.min() < batch.max() <= 1


def test_a_folder_that_may_not_be_read_gives_no_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match="no image matches"):
        ImageFolder.find("photos", ["nowhere"], tmp_path)


def test_no_pattern_at_all_gives_no_hint_at_the_folder_itself(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image matches") as caught:
        ImageFolder.find("photos", [], tmp_path)
    assert "paths are relative to this folder" in caught.value.remedy
