"""policy_config.json: what is written is read back, and everything else is refused."""

import json
from dataclasses import replace
from fractions import Fraction

import pytest

from opsearch import Policy, RankerSpec
from opsearch.errors import PolicyError, RunFolderError
from opsearch.policy import builders
from opsearch.policy.images import ImageSetting
from tests.support.messages import naming

SPEC = RankerSpec("random", (("seed", 3),))
POLICY = Policy(
    builders.depth(4, 2, 4, 3, "9/16").counts,
    rankers=((0, SPEC),),
    name="mine",
    model_type="llava",
    provenance={"budget": ["30%"], "value": 0.25},
)
IN_TOKENS = Policy(((Fraction(3), Fraction(64), Fraction(0)),) * 2, unit="tokens")


@pytest.fixture
def saved(tmp_path):
    return POLICY.save_pretrained(tmp_path / "policy")


SMALLER = replace(
    POLICY,
    name="smaller",
    images=ImageSetting(Fraction(1, 2), (("max_patches", 3), ("size.longest_edge", 320))),
)


@pytest.mark.parametrize(
    "policy", [POLICY, IN_TOKENS, SMALLER, builders.identity(3)], ids=lambda p: p.name
)
def test_a_saved_policy_loads_equal(tmp_path, policy):
    path = policy.save_pretrained(tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "policy_config.json"
    for place in (path, path.parent, str(path)):
        loaded = Policy.from_pretrained(place)
        assert loaded == policy
        assert dict(loaded.provenance) == dict(policy.provenance)


def test_counts_are_exact_fractions_in_the_file(saved):
    content = json.loads(saved.read_text())
    assert content["counts"][0] == ["9/16", "9/16", "9/16"]
    assert content["rankers"] == [{"layer": 0, "name": "random", "params": {"seed": 3}}]
    assert (content["policy_type"], content["format_version"]) == ("opsearch", 1)


def test_a_version_without_image_settings_does_not_read_a_policy_that_has_one(tmp_path):
    """It would encode images at full size."""
    content = json.loads(SMALLER.save_pretrained(tmp_path).read_text())
    assert content["format_version"] == 2
    attributes = {"max_patches": 3, "size.longest_edge": 320}
    assert content["images"] == {"share": "1/2", "attributes": attributes}


def test_saving_again_replaces_the_file_and_leaves_nothing_else(saved):
    builders.identity(4).save_pretrained(saved.parent)
    assert Policy.from_pretrained(saved) == builders.identity(4)
    assert list(saved.parent.iterdir()) == [saved]


def test_no_prefix_of_a_policy_is_a_policy(saved):
    text = saved.read_text().rstrip()
    for length in range(0, len(text), 7):
        saved.write_text(text[:length])
        with pytest.raises(PolicyError, match=naming(saved, "`opsearch solve RUN --replace`")):
            Policy.from_pretrained(saved)


def change(path, **entries):
    content = {**json.loads(path.read_text()), **entries}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


@pytest.mark.parametrize(
    ("entries", "values"),
    [
        ({"format_version": 3}, ("format 3", 2)),
        ({"format_version": ...}, ("format_version",)),
        ({"policy_type": "other"}, ("policy_type", "'opsearch'")),
        ({"counts": []}, (4, 0)),
        ({"counts": [["1", "1", "1"]]}, (4, 1)),
        ({"counts": [["1", "1"]] * 4}, ("counts.0.2",)),
        ({"counts": [["1", "1", 0.5]] * 4}, ("counts.0.2", "0.5")),
        ({"counts": [["1", "1", "x"]] * 4}, ("counts.0.2", "'x'", "'9/16'")),
        ({"counts": [["1", "1", "1/0"]] * 4}, ("counts.0.2", "'1/0'", "'9/16'")),
        ({"counts": [["1", "1", True]] * 4}, ("counts.0.2", True)),
        (
            {"counts": [["1", "1", "3/2"]] * 4},
            (
                "3/2",
                "mlp",
                "layer 0",
            ),
        ),
        (
            {"counts": [["1", "-1", "1"]] * 4},
            (
                "-1",
                "kv",
                "layer 0",
            ),
        ),
        ({"unit": "percent"}, ("unit", "'fraction'", "'tokens'")),
        (
            {"unit": "tokens"},
            (
                "9/16",
                "q",
                "layer 0",
            ),
        ),
        ({"surprise": 1}, ("surprise",)),
        ({"rankers": [{"layer": 9, "name": "cls"}]}, ("layer 9", 0, 3)),
        ({"rankers": [{"layer": 0}]}, ("rankers.0.name",)),
        ({"images": {"share": "1/2"}}, ("images.attributes",)),
        ({"images": {"share": 0.5, "attributes": {}}}, ("images.share", "0.5")),
        ({"images": {"share": "1/2", "attributes": {"a": 0}}}, ("images.attributes.a",)),
        ({"images": {"share": "1/2", "attributes": {"a": 10**13}}}, ("images.attributes.a",)),
    ],
    ids=str,
)
def test_a_bad_file_gets_a_sentence(saved, entries, values):
    change(saved, **entries)
    with pytest.raises(PolicyError, match=naming(*values)):
        Policy.from_pretrained(saved)


@pytest.mark.parametrize("content", ["[]", "3", "null", '"text"'])
def test_other_json_gets_a_sentence(saved, content):
    saved.write_text(content)
    with pytest.raises(PolicyError, match=naming(saved)):
        Policy.from_pretrained(saved)


def test_bytes_that_are_no_text_get_a_sentence(saved):
    saved.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PolicyError, match=naming(saved, "`opsearch solve RUN --replace`")):
        Policy.from_pretrained(saved)


def test_deep_nesting_gets_a_sentence(saved):
    saved.write_text("[" * 100_000)
    with pytest.raises(PolicyError, match=naming(saved, "`opsearch solve RUN --replace`")):
        Policy.from_pretrained(saved)


def test_a_missing_policy_gets_a_sentence(tmp_path):
    with pytest.raises(PolicyError, match=naming("nowhere", "policy_config.json")):
        Policy.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(PolicyError, match=naming(tmp_path / "policy_config.json")):
        Policy.from_pretrained(tmp_path)


def test_an_unwritable_place_gets_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"policy_config\.json.*\(.+\)"):
        POLICY.save_pretrained(tmp_path / "file" / "folder")
