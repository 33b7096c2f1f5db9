"""Items: loading of images, content digests, and errors that name the file."""

from pathlib import Path

import pytest
from PIL import Image

from opsearch.data.item import Item
from opsearch.errors import DataError
from tests.support.messages import refuses


def make_item(*images: Path | Image.Image, **changes: str) -> Item:
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
    assert str(caught.value.__cause__) in str(caught.value)


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
