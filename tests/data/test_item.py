"""Items: loading of images, content digests, and errors that name the file."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from opsearch.data.item import Item
from opsearch.data.pictures import EncodedImage
from opsearch.errors import DataError
from tests.support.messages import refuses
from tests.support.pictures import CLEAR, MODES, encoded
from tests.support.pictures import picture as random_picture


def make_item(*images: Path | EncodedImage | Image.Image, **changes: str) -> Item:
    fields = {"id": "q1", "question": "what color?", **changes}
    return Item(answers=("red",), images=images, **fields)


@pytest.fixture
def picture() -> Image.Image:
    image = Image.new("RGB", (6, 4), "red")
    image.putpixel((1, 2), (0, 255, 7))
    return image


def test_images_come_as_rgb_from_memory_and_from_files(
    tmp_path: Path, picture: Image.Image
) -> None:
    picture.save(tmp_path / "a.png")
    images = make_item(picture, tmp_path / "a.png", picture.convert("L")).load_images()
    assert [image.mode for image in images] == ["RGB"] * 3
    assert images[0].tobytes() == images[1].tobytes() == picture.tobytes()


def test_photographs_are_turned_upright(tmp_path: Path, picture: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees
    picture.save(tmp_path / "photo.png", exif=exif)
    assert make_item(tmp_path / "photo.png").load_images()[0].size == (4, 6)


def test_transparent_palette_loads_without_a_warning(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4))
    image.info["transparency"] = b"\x00\x80"
    image.save(tmp_path / "palette.png")
    assert make_item(tmp_path / "palette.png").load_images()[0].mode == "RGB"


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with refuses(DataError, "item q1", tmp_path / "gone.png", "path"):
        make_item(tmp_path / "gone.png").load_images()


@pytest.mark.parametrize("damage", ["text", "truncated", "header", "folder"])
def test_a_broken_image_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "broken.png"
    if damage == "folder":
        path.mkdir()
    elif damage == "text":
        path.write_text("no image")
    else:
        Image.effect_noise((64, 64), 50).save(path)
        content = path.read_bytes()
        path.write_bytes(content[:1000] if damage == "truncated" else content[:20])
    with refuses(DataError, "item q1", path, "replace") as caught:
        make_item(path).load_images()
    assert str(caught.value).count(str(path)) == 1, "a reason, and not the path again"


def test_bytes_that_are_no_image_are_named_without_an_address() -> None:
    with refuses(DataError, "row 3", "replace") as caught:
        make_item(EncodedImage(b"no image", "row 3")).load_images()
    assert "0x" not in str(caught.value)


def test_digest_follows_content_not_place(tmp_path: Path, picture: Image.Image) -> None:
    first, second = tmp_path / "a.png", tmp_path / "b.bmp"
    picture.save(first)
    picture.save(second)
    digests = {make_item(image).digest() for image in (picture, first, second)}
    assert digests == {make_item(picture, id="q2", family="other").digest()}
    assert len(digests.pop()) == 64


def test_digest_sees_every_part_of_the_content(picture: Image.Image) -> None:
    other = picture.copy()
    other.putpixel((0, 0), (254, 0, 0))
    reshaped = Image.frombytes("RGB", (4, 6), picture.tobytes())
    items = [
        make_item(picture),
        make_item(picture, question="what colour?"),
        make_item(other),
        make_item(reshaped),
        make_item(picture, picture),
        make_item(),
    ]
    assert len({item.digest() for item in items}) == len(items)


def test_digest_does_not_depend_on_the_answers(picture: Image.Image) -> None:
    answers = [("red",), ("red", "blue"), ()]
    items = [Item("q1", "what color?", each, (picture,)) for each in answers]
    assert len({item.digest() for item in items}) == 1


def digest(image: Image.Image | Path | EncodedImage) -> str:
    return make_item(image).picture_digests[0]


def letter(character: str, ink: str, mode: str = "RGBA") -> Image.Image:
    image = Image.new(mode, (40, 40), (0, 0, 0, 0))
    ImageDraw.Draw(image).text((10, 10), character, fill=ink)
    return image


@pytest.mark.parametrize("ink", ["black", "white", "red"])
def test_ink_on_a_clear_ground_is_content(ink: str) -> None:
    assert digest(letter("A", ink)) != digest(letter("B", ink))
    assert digest(letter("A", ink)) == digest(letter("A", ink))


def test_the_color_of_invisible_pixels_is_no_content() -> None:
    for ink in ("black", "white"):
        pixels = np.array(letter("A", ink))
        other = pixels.copy()
        other[pixels[..., 3] == 0, :3] = 77
        assert digest(Image.fromarray(pixels)) == digest(Image.fromarray(other))


def test_values_of_sixteen_bits_are_content(tmp_path: Path) -> None:
    """Processors make the same white picture of all of them."""
    values = np.arange(1000, 61000, 600, dtype=np.uint16).reshape(10, 10)
    pictures = [values, values + 1, values.astype(np.int32) + 1, values.astype(np.float32) / 65536]
    found = [digest(Image.fromarray(each)) for each in pictures]
    assert found[1] == found[2]
    assert len(set(found)) == 3
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.fromarray(values).save(tmp_path / "deep.tiff")
    assert digest(tmp_path / "deep.png") == digest(tmp_path / "deep.tiff") == found[0]


@given(st.integers(0, 99), st.sampled_from(["1", "L", "P", "RGB", "RGBA", "LA"]))
def test_a_picture_has_one_digest_in_all_lossless_formats(seed: int, mode: str) -> None:
    made = random_picture(mode, (7, 5), seed)
    forms = ["PNG", "TIFF", "BMP", "QOI", "GIF"] if mode in ("1", "L", "P") else ["PNG", "TIFF"]
    files = [content for form in forms if (content := encoded(made, form)) is not None]
    assert len(files) >= 2
    found = {digest(EncodedImage(content, "file")) for content in files}
    assert found == {digest(made)}
    assert len({digest(made), digest(make_item(made).load_images()[0])}) == 1


def test_equal_pixels_of_other_modes_are_one_picture() -> None:
    gray = random_picture("L", (9, 9), 0)
    wide = Image.fromarray(np.asarray(gray).astype(np.uint16))
    modes = [gray.convert(mode) for mode in ("RGB", "RGBA", "P", "LA", "RGBX", "I", "F")]
    assert {digest(image) for image in (gray, wide, *modes)} == {digest(gray)}


def test_every_mode_is_shown_in_rgb_and_has_a_digest() -> None:
    for mode in MODES:
        for clear in (None, *CLEAR.get(mode, [])):
            image = random_picture(mode, (8, 6), 1)
            if clear is not None:
                image.info["transparency"] = clear
            (shown,) = make_item(image).load_images()
            assert (shown.mode, shown.size) == ("RGB", (8, 6))
            assert len(digest(image)) == 64


def test_transparent_pixels_are_shown_on_white() -> None:
    (shown,) = make_item(letter("A", "black")).load_images()
    assert shown.getpixel((0, 0)) == (255, 255, 255)
    assert shown.getextrema()[0][0] < 128


def test_encoded_images_are_decoded_when_they_are_used() -> None:
    buffer = BytesIO()
    random_picture("RGB", (5, 4), 0).save(buffer, "PNG")
    whole = EncodedImage(buffer.getvalue(), "x.parquet, row 3")
    assert digest(whole) == digest(random_picture("RGB", (5, 4), 0))
    broken = make_item(EncodedImage(whole.data[:60], whole.name))
    assert "\\x" not in repr(broken)
    with refuses(DataError, "item q1", "x.parquet, row 3", "replace"):
        broken.load_images()


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_a_picture_without_pixels_is_named(size: tuple[int, int]) -> None:
    with refuses(DataError, "item q1", "no. 1", "pixels"):
        make_item(Image.new("RGB", size)).pictures()


def test_an_image_in_memory_whose_file_is_gone_is_named(tmp_path: Path) -> None:
    random_picture("RGB", (50, 40), 0).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    opened = Image.open(BytesIO(content[: len(content) // 2]))
    with opened, refuses(DataError, "item q1", "no. 1", "truncated"):
        make_item(opened).load_images()


@pytest.mark.parametrize("form", ["AVIF", "GIF", "JPEG", "PNG", "PPM", "TGA", "TIFF", "WEBP"])
def test_no_damage_of_a_file_ends_in_another_error(form: str) -> None:
    content = encoded(random_picture("RGB", (20, 15), 0), form)
    if content is None:
        pytest.skip(f"this Pillow does not write {form}")
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(40):
        damaged = bytearray(content[: rng.integers(1, len(content) + 1)])
        for position in rng.integers(0, min(len(damaged), 200), 3):
            damaged[position] = rng.integers(256)
        try:
            make_item(EncodedImage(bytes(damaged), "a file")).digest()
        except DataError:
            refused += 1
    assert refused


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"answers": "red"}, "answers"),
        ({"answers": None}, "answers"),
        ({"answers": (3,)}, 3),
        ({"images": "a.jpg"}, "images"),
        ({"question": None}, "question"),
    ],
)
def test_values_of_other_types_are_refused(wrong: dict[str, Any], named: object) -> None:
    fields: dict[str, Any] = {"question": "?", "answers": ("a",), "images": (Path("a.jpg"),)}
    with refuses(DataError, "item 7", named):
        Item("7", **fields | wrong)


def test_lists_and_names_of_files_are_taken_as_well() -> None:
    answers: Any = ["a"]
    images: Any = ["a.jpg"]
    assert Item("7", "?", answers, images) == Item("7", "?", ("a",), (Path("a.jpg"),))


def test_an_array_is_no_picture() -> None:
    array: Any = np.zeros((2, 2, 3), np.uint8)
    with refuses(DataError, "item 7", "ndarray", "PIL.Image.fromarray"):
        Item("7", "?", (), (array,)).pictures()
