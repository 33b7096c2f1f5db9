"""docs/families.md lists the families of the code, and what is refused."""

from pathlib import Path

from opsearch.models.families import FAMILIES, family_for
from opsearch.models.layers import structures
from tests.models.test_layers import REFUSED
from tests.support.families import FAMILIES as BUILT
from tests.support.families import built

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
LAYERS = 6
HUB = "https://huggingface.co"
PRINTED = "import tests.conftest, tests.models.test_families_page as page; print(page.table())"


def table():
    """Return the table of families, with what their tiny models say.

    Families whose tiny model needs a package that is not installed are left out.
    """
    lines = [
        "| family | checkpoints | decoder layer | special | rankers before the decoder |",
        "|---|---|---|---|---|",
    ]
    for name in (each for each in FAMILIES if each in BUILT):
        family, model = FAMILIES[name], built(name, LAYERS)
        layers = structures(model.get_submodule(family.decoder))
        words = ", ".join(dict.fromkeys(layer.layout.words for layer in layers))
        links = ", ".join(f"[{each.split('/')[1]}]({HUB}/{each})" for each in family.checkpoints)
        rankers = family_for(name).rankers(model.config)
        named = ", ".join(
            f"**{each}**" if each == family.ranker.name else each for each in sorted(rankers)
        )
        lines.append(f"| `{name}` | {links} | {words} | {family.special} | {named} |")
    return "\n".join(lines)


def test_the_page_has_the_families_of_the_code():
    page = PAGE.read_text()
    rows = page.split("<!-- families -->\n")[1].split("\n<!-- end -->")[0].split("\n")
    assert [row.split("`")[1] for row in rows[2:]] == [*FAMILIES]
    absent = tuple(f"| `{name}` " for name in {*FAMILIES} - {*BUILT})
    found = "\n".join(row for row in rows if not row.startswith(absent))
    assert found == table(), f"in .venv-vision, python -c '{PRINTED}' prints the table"


def test_the_page_names_the_piece_of_each_refused_decoder():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    for kind, (_, piece) in REFUSED.items():
        if kind != "phi3":  # no decoder of an image-text model
            assert any(f"`{kind}`" in row and f"`{piece}`" in row for row in rows), kind
