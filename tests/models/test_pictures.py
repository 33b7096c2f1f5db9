"""Pictures reach a processor as it makes them of the opened file, bit for bit, or are refused."""

import re
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from opsearch.data.item import Item
from opsearch.data.pictures import EncodedImage
from opsearch.errors import DataError
from opsearch.models.encoding import encode, prompt_text
from opsearch.models.loading import load_config, load_processor
from tests.support.families import FAMILIES, WITH_PROCESSOR, built
from tests.support.families.folder import template, tokenizer
from tests.support.messages import naming, refuses
from tests.support.pictures import CLEAR, FORMATS, MODES, encoded, picture

# Of Pillow, where a processor converts a palette whose transparency it ignores.
pytestmark = pytest.mark.filterwarnings("ignore:Palette images with Transparency")


@pytest.fixture(
    scope="module",
    params=["demo", *WITH_PROCESSOR],
)
def model(request):
    """Processor and config of the embedded model or of a tiny one."""
    if request.param == "demo":
        return load_processor("demo"), load_config("demo")
    family = FAMILIES[request.param]
    return family.processor(tokenizer(), template(family.AROUND)), built(request.param, 1).config


@pytest.fixture(scope="module")
def demo():
    return load_processor("demo"), load_config("demo")


def item(*images, question="what is it"):
    return Item("q1", question, (), images)


def stock(processor, *images):
    """The processor's inputs for images as they are, without labels for a loss."""
    prompt = prompt_text(processor, item(*images))
    inputs = processor(
        text=[prompt], images=[list(images)], return_tensors="pt", add_special_tokens=False
    )
    return {name: tensor for name, tensor in inputs.items() if name != "labels"}


def assert_as_stock(model, source, opened):
    """Encode a source; the inputs are those that the processor makes of the opened image."""
    processor, config = model
    try:
        expected = stock(processor, opened)
    except Exception as error:
        with refuses(DataError, "q1", re.sub(r"\s+", " ", str(error))):
            encode([item(source)], processor, config, say=lambda note: None)
        return
    (sample,) = encode([item(source)], processor, config, say=lambda note: None)
    assert sample.inputs.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(sample.inputs[name], tensor), name


@settings(max_examples=50)
@given(
    mode=st.sampled_from(MODES),
    form=st.sampled_from([None, *FORMATS]),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 99),
    clear=st.integers(-1, 1),
)
@example(mode="RGBA", form="PNG", size=(20, 20), seed=0, clear=-1)
@example(mode="P", form="PNG", size=(20, 20), seed=0, clear=1)
@example(mode="P", form="GIF", size=(20, 20), seed=0, clear=0)
@example(mode="RGB", form="PNG", size=(20, 20), seed=0, clear=0)
@example(mode="I;16", form="TIFF", size=(20, 20), seed=0, clear=-1)
@example(mode="La", form=None, size=(20, 20), seed=0, clear=-1)
def test_a_picture_is_as_the_processor_makes_it(model, mode, form, size, seed, clear):
    made, colors = picture(mode, size, seed), CLEAR.get(mode, [None])
    content = form and encoded(made, form, colors[clear] if 0 <= clear < len(colors) else None)
    if content is None:
        assert_as_stock(model, made, made)
        return
    with Image.open(BytesIO(content)) as opened:
        assert_as_stock(model, EncodedImage(content, "a file"), opened)


@pytest.mark.parametrize("orientation", [None, 1, *range(2, 9)])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_are_turned_upright_and_else_as_they_are(demo, form, orientation, tmp_path):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    picture("RGB", (30, 20), 1).save(tmp_path / "photo", form, exif=exif)
    with Image.open(tmp_path / "photo") as opened:
        expected = opened if orientation in (None, 1) else ImageOps.exif_transpose(opened)
        assert_as_stock(demo, tmp_path / "photo", expected)


def test_broken_exif_data_turn_nothing(demo, tmp_path):
    plain, broken = tmp_path / "plain.webp", tmp_path / "broken.webp"
    made = picture("RGB", (30, 20), 1)
    made.save(plain, lossless=True)
    made.save(broken, lossless=True, exif=b"Exif\0\0MM\0\x64\0\0\0\x08")
    with Image.open(broken) as image, pytest.raises(SyntaxError):
        ImageOps.exif_transpose(image)
    with Image.open(plain) as opened:
        assert_as_stock(demo, broken, opened)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "I;16", "CMYK", "LAB"])
def test_a_processor_that_does_not_convert_gets_the_mode_of_the_file(mode, tmp_path):
    family = FAMILIES["llava"]
    processor = family.processor(tokenizer(), template(family.AROUND))
    processor.image_processor.do_convert_rgb = False
    made = picture(mode, (20, 20), 0)
    assert_as_stock((processor, built("llava", 1).config), made, made)
    if mode != "LAB":  # which has three bands as RGB
        with refuses(DataError, "q1", "20 x 20", mode, "RGB"):
            encode([item(made)], processor, built("llava", 1).config)


def notes(model, *sources):
    said = []
    encode([item(source) for source in sources], *model, say=said.append)
    return said


def letter(ink, ground=(0, 0, 0, 0)):
    image = Image.new("RGBA", (40, 40), ground)
    ImageDraw.Draw(image).text((10, 10), "A", fill=ink)
    return image


def test_ink_that_becomes_its_ground_is_noted_once(demo, tmp_path):
    """Both white and black ink, since releases of transformers differ in the ground."""
    sources = []
    for number, ink in enumerate([(255, 255, 255, 255), (0, 0, 0, 255)] * 2):
        ground = (*ink[:3], 0)
        letter(ink, ground).save(path := tmp_path / f"{number}.png")
        sources.append(path)
    found = notes(demo, *sources, *sources)
    with_content = [stock(demo[0], Image.open(path))["pixel_values"].std() > 0 for path in sources]
    lost = [path for path, kept in zip(sources, with_content, strict=True) if not kept]
    assert len(found) == 1
    assert re.search(naming(len(lost), lost[0], "RGBA"), found[0])
    assert len(lost) in (2, 4)
    assert re.search("all (white|black)", found[0])


def test_values_beyond_eight_bits_are_noted(demo, tmp_path):
    deep = np.linspace(1000, 60000, 400).reshape(20, 20)
    Image.fromarray(deep.astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray((deep / 60000).astype(np.float32)).save(tmp_path / "share.tiff")
    Image.fromarray((deep / 300).astype(np.uint16)).save(tmp_path / "shallow.png")
    sources = [tmp_path / name for name in ("shallow.png", "deep.png", "share.tiff")]
    (note,) = notes(demo, *sources)
    assert re.search(naming(2, sources[1], "I;16", 1000, 60000, "all white", "8 bits"), note)


def test_animations_and_pages_are_noted(demo, tmp_path):
    first, second = (picture("RGB", (20, 20), seed) for seed in (1, 2))
    names = ["a.gif", "a.png", "a.webp", "a.tiff"]
    for name in names:
        first.save(tmp_path / name, save_all=True, append_images=[second])
    first.save(tmp_path / "photo.mpo", "MPO", save_all=True, append_images=[second])
    first.save(tmp_path / "one.gif")
    sources = [tmp_path / name for name in ("one.gif", "photo.mpo", *names)]
    (note,) = notes(demo, *sources)
    assert re.search(naming(len(names), sources[2], "first"), note)
    for source in sources:
        with Image.open(source) as opened:
            assert_as_stock(demo, source, opened)


def test_usual_pictures_need_no_note(demo, tmp_path):
    clear = [letter((200, 30, 30, 255)), picture("RGBA", (20, 20), 0), picture("P", (9, 9), 0)]
    plain = [Image.new(mode, (20, 20)) for mode in MODES if mode != "La"]
    assert notes(demo, *clear, *plain, picture("RGB", (9, 9), 0)) == []


def test_notes_go_to_the_log_of_the_library(demo, caplog):
    encode([item(Image.fromarray(np.full((9, 9), 999, np.uint16)))], *demo)
    assert len(caplog.records) == 1
    assert (caplog.records[0].name, caplog.records[0].levelname) == ("opsearch", "WARNING")


@pytest.mark.parametrize("size", [(1, 300), (300, 1), (4, 1000), (1, 1), (3, 1), (1, 199)])
def test_sizes_are_taken_or_the_picture_is_named(model, size, tmp_path):
    processor, config = model
    Image.new("RGB", size, "red").save(path := tmp_path / "narrow.png")
    with Image.open(path) as opened:
        assert_as_stock(model, path, opened)
    if config.model_type == "qwen2_5_vl" and max(size) > 200:
        ratio = f"{max(size) / min(size):.4g}"
        with refuses(DataError, "q1", path, f"{size[0]} x {size[1]}", "crop", ratio) as caught:
            encode([item(path)], processor, config)
        assert "placeholder" not in str(caught.value)


@pytest.mark.requires_torchvision
def test_a_long_picture_among_others_is_named(tmp_path):
    family = FAMILIES["qwen2_5_vl"]
    processor = family.processor(tokenizer(), template(family.AROUND))
    sources = []
    for number, size in enumerate([(20, 20), (900, 3), (20, 30)]):
        Image.new("RGB", size).save(path := tmp_path / f"{number}.png")
        sources.append(path)
    with refuses(DataError, "q1", sources[1], "900 x 3", "300 to 1", "200") as caught:
        encode([item(*sources)], processor, built("qwen2_5_vl", 1).config)
    assert "placeholder" not in str(caught.value)


def test_pictures_that_are_refused_together_are_no_placeholders(demo, monkeypatch):
    processor, config = load_processor("demo"), demo[1]
    convert = processor.image_processor.preprocess

    def one(images, **given):
        if len(images[0]) > 1:
            raise ValueError("at most 1 image")
        return convert(images, **given)

    monkeypatch.setattr(processor.image_processor, "preprocess", one)
    image = Image.new("RGB", (20, 20))
    encode([item(image)], processor, config)
    with refuses(DataError, "q1", 2, "at most 1 image", "fewer") as caught:
        encode([item(image, image)], processor, config)
    assert "placeholder" not in str(caught.value)


def test_a_placeholder_in_the_question_is_named(demo):
    with refuses(DataError, "q1", 1, "placeholders", "question"):
        encode([item(Image.new("RGB", (20, 20)), question="what <image> is it")], *demo)
