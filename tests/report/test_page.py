"""The page says what the run found, and is harmless whatever models and data sets say."""

import json
import re
import shutil
import sqlite3
from io import StringIO

import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from opsearch import Policy, RunConfig
from opsearch.commands.run import run
from opsearch.commands.solve import solve
from opsearch.data.demo import MODEL_DIR
from opsearch.data.embedded import embedded
from opsearch.errors import RunFolderError
from opsearch.report.page import save_report
from opsearch.report.verdict import NOTHING_RIGHT
from opsearch.runs.config import IN_MEMORY
from tests.report.page import Page, assert_harmless
from tests.support.messages import naming

EVIL = "<script>alert(1)</script> \"quoted\" 'single' & {{ 7 * 7 }} \x01 " + "long" * 200
SMALL = {"samples": 4, "heldout": 15, "n_v": (".5",)}


def start(folder, **settings):
    config = RunConfig(**{**SMALL, "out": folder, **settings})
    return run(config, Console(file=StringIO()), "opsearch run --budget '30%'")


def read(folder):
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert_harmless(page)
    return page


def figures(page):
    """The drawn figures behind the heat map, by the prefix of their ids; each has a label."""
    labels = [v for tag, name, v in page.attributes if tag == "svg" and name == "aria-label"]
    found = [v.removesuffix("-figure_1") for v in page.values("id") if v.endswith("-figure_1")]
    assert all(labels)
    assert len(set(labels)) == len(labels) == 1 + len(found)
    return found


def count_facts(page):
    """Count the figures below the title."""
    return page.source.count('class="value"')


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run whose joint table is stored."""
    folder = tmp_path_factory.mktemp("report") / "run"
    start(folder, objective="joint", complete=True)
    return folder


@pytest.fixture
def copy(done, tmp_path):
    return shutil.copytree(done, tmp_path / "copy")


def write_data(folder, family, answers=("red",), count=14):
    """A data file of different pictures with hostile questions, families and answers."""
    lines = []
    for i in range(count):
        Image.new("RGB", (80, 80), (18 * i, 90, 40)).save(folder / f"{i}.png")
        line = {"image": f"{i}.png", "question": f"{EVIL} {i}", "answers": answers}
        lines.append(json.dumps({**line, "family": family, "id": f"{i} {EVIL}"}))
    (folder / "data.jsonl").write_text("\n".join(lines))
    return folder / "data.jsonl"


def give_answers(folder, text):
    """Make the stored answers of the chosen policy say `text` to every question."""
    policy = Policy.from_pretrained(folder)
    db = sqlite3.connect(folder / "measurements.db")
    with db:
        visual = {n for (n,) in db.execute("SELECT n_visual FROM sample")}
        for key in {policy.canonical(n) for n in visual}:
            db.execute("UPDATE answer SET text=?, score=0 WHERE policy=?", (text, key))
    db.close()


# Its text


def test_the_answer_comes_first(done):
    page = read(done)
    record = json.loads((done / "solution.json").read_text())
    saved = 100 * (1 - record["costs"]["flops"] / record["stock"]["flops"])
    head = Page(page.source.split("</header>")[0]).text.replace("\u00a0", " ")
    assert f"{saved:.1f} %" in head[:200]
    frame = pd.read_csv(done / "comparison.csv", index_col=0)
    assert f"{frame.loc['+ vision, %', 'opsearch']:.1f} % with vision" in head
    value = f"{record['value']:.6f} nats"
    name = Policy.from_pretrained(done).name
    assert re.search(naming(name, record["sentence"], "joint", value, "grid"), head)


PRINTED_OTHERWISE = ("FLOPs", "+ vision, mean", "KV bytes", "evaluations")


def test_numbers_are_those_of_the_comparison(done):
    page = read(done)
    frame = pd.read_csv(done / "comparison.csv", index_col=0)
    assert f"{frame.loc['KL held-out', 'opsearch']:.3f} nats" in page.text
    assert f"{frame.loc['Rel. Avg., %', 'opsearch']:.1f} %" in page.text
    for row, values in frame.iterrows():
        shown = " ".join(f"{v:.3f}" if row.startswith("KL") else f"{v:.1f}" for v in values)
        if not row.startswith(PRINTED_OTHERWISE):
            assert f"{row.strip()} {shown}" in page.text


def test_all_figures_are_drawn(done):
    assert figures(read(done)) == ["front", "curves", "rank"]


def test_families_of_enough_samples_are_held_against_each_other(tmp_path):
    start(tmp_path / "run", objective="joint", complete=True, samples=8, heldout=0)
    db = sqlite3.connect(tmp_path / "run" / "measurements.db")
    with db:
        db.execute("UPDATE sample SET family = iif(place % 2, 'odd', 'even')")
    db.close()
    save_report(tmp_path / "run")
    page = read(tmp_path / "run")
    assert figures(page)[-1] == "transfer"
    assert "4 samples" in page.text
    assert "odd" in page.text


def test_the_heat_map_is_that_of_the_policy(done):
    policy = Policy.from_pretrained(done)
    cells = read(done).source.count('<rect class="cell"')
    assert cells == (policy.executed(1000) > 0).sum()


def test_a_score_between_0_and_1_is_shown(copy):
    give_answers(copy, "partly")
    db = sqlite3.connect(copy / "measurements.db")
    with db:
        db.execute("UPDATE answer SET score=0.25 WHERE text='partly'")
    db.close()
    save_report(copy)
    page = read(copy)
    assert "partly (score 0.25)" in page.text
    assert re.search(r"[1-9]\d* have a lower score", page.text)


def test_changed_answers_show_picture_question_and_both_answers(copy):
    give_answers(copy, "nonsense")
    save_report(copy)
    page = read(copy)
    assert "15 of 15 held-out" in page.text
    assert page.values("src")[11:] == page.values("src")[-1:]
    for item in embedded("held-out", 12):
        answered = rf"{re.escape(item.question)} \w+ {re.escape(item.answers[0])} "
        assert re.search(answered, page.text)


def test_how_it_was_made(done):
    page = read(done)
    assert f"opsearch run --config {done}/run.yaml" in page.text
    assert "opsearch run --budget '30%'" in page.text
    environment = json.loads((done / "environment.json").read_text())
    for name in [*environment["seconds"], *environment["versions"], *environment["machine"]]:
        assert name in page.text
    assert any(re.search(naming(19), title) for title in environment["seconds"])


def test_it_is_small(done):
    assert (done / "report.html").stat().st_size < 1_500_000


# When it is written


def test_again_it_is_the_same(done):
    before = (done / "report.html").read_bytes()
    (done / "report.html").unlink()
    assert save_report(done) == done / "report.html"
    assert (done / "report.html").read_bytes() == before


def test_a_moved_run_names_its_new_place(copy):
    save_report(copy)
    assert f"opsearch run --config {copy}/run.yaml" in read(copy).text


def test_settings_of_an_unfinished_run_are_not_shown_beside_an_older_policy(copy):
    config = RunConfig.load(copy / "run.yaml")
    config.model_copy(update={"budget": ("77%",)}).save(copy / "run.yaml")
    again = f"`opsearch run --config {copy}/run.yaml`"
    with pytest.raises(RunFolderError, match=naming(copy / "solution.json", again)):
        save_report(copy)


def test_a_new_solve_writes_it_with_what_is_then_known(copy):
    again = f"<code>opsearch run --config {copy}/run.yaml</code>"
    save_report(copy)
    compared = read(copy).source.count(again)
    solution = solve(copy, ["20%"], replace=True).solution
    page = read(copy)
    assert solution.policy.name in page.text
    assert f"{solution.value:.3f} nats" in page.text
    assert page.source.count(again) == compared + 1
    assert "KL held-out" not in page.text
    assert 'class="examples"' not in page.source


def test_a_solve_into_another_folder_says_what_it_lacks(done, tmp_path):
    solve(done, ["20%"], out=tmp_path / "other")
    page = read(tmp_path / "other")
    assert figures(page) == ["front"]
    assert f"{tmp_path}/other/measurements.db" in page.text
    assert 'class="plain"' not in page.source


def test_a_search_by_samples_has_neither_front_nor_ranks(tmp_path):
    settings = {"objective": "joint", "solver": "optuna", "evaluations": 4, "heldout": 0}
    start(tmp_path, **settings)
    page = read(tmp_path)
    assert figures(page) == ["curves"]
    again = f"opsearch run --config {tmp_path}/run.yaml"
    assert re.search(rf"\boptuna\b.*{again} --solver grid", page.text)
    assert re.search(rf"{again} --objective joint --solver grid --budget 30%", page.text)
    assert f"<code>{again}" in page.source
    assert 'class="examples"' not in page.source


def test_budgets_of_the_cache(tmp_path):
    start(tmp_path, objective="joint", heldout=0, budget=("40%kv", "90%"))
    page = read(tmp_path)
    assert re.search(r"% [^%]*\bKV cache dop\(.* KV cache [\d.]+ % .* [\d.]+ % .*\b90%", page.text)
    assert "--objective joint --solver grid --budget 90%" in page.text


def test_too_many_policies_to_rank_are_told(copy, monkeypatch):
    monkeypatch.setattr("opsearch.report.figures._MOST_RANKED", 10)
    save_report(copy)
    page = read(copy)
    assert "rank" not in figures(page)
    assert re.search(rf"\b\d+ policies\b.*\b10 .*\bopsearch analyze rank {copy}", page.text)


# Broken and hostile runs


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A run in which model, data and answers try to be more than text."""
    folder = tmp_path_factory.mktemp("hostile")
    model = shutil.copytree(MODEL_DIR, folder / "<b onclick=alert(2)>&\"'")
    data = write_data(folder, family=f"</style></svg>$x${EVIL}")
    out = folder / "run"
    settings = {"samples": 4, "heldout": 9, "objective": "joint", "complete": True}
    start(out, model=str(model), data=data, **settings)
    give_answers(out, EVIL)
    save_report(out)
    return out


def test_hostile_words_are_text(hostile):
    page = read(hostile)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.source
    for part in ("<script>alert(1)</script>", "</style></svg>$x$", "<b onclick=alert(2)>&\"'"):
        assert page.text.count(part) >= 1
    assert "{{ 7 * 7 }}" in page.text
    assert figures(page) == ["front", "curves", "rank"]


@pytest.mark.parametrize(
    ("data", "named"), [(IN_MEMORY, "samples in memory"), ("lmms:mme", "lmms:mme")]
)
def test_data_that_is_no_file_is_not_said_to_be_gone(copy, data, named):
    give_answers(copy, "something else")
    config, record = (
        RunConfig.load(copy / "run.yaml"),
        json.loads((copy / "solution.json").read_text()),
    )
    config.changed(data=data).save(copy / "run.yaml")
    record["settings"]["data"] = data
    (copy / "solution.json").write_text(json.dumps(record))
    save_report(copy)
    reasons = re.findall(r'class="none">([^<]*)', read(copy).source)
    assert any(named in reason for reason in reasons)
    assert not any("does not exist" in reason for reason in reasons)


def test_pictures_that_are_gone_or_changed_leave_a_sentence(hostile, tmp_path):
    shutil.copytree(hostile.parent, tmp_path / "copy")
    folder = tmp_path / "copy" / "run"
    config = RunConfig.load(folder / "run.yaml")
    data = tmp_path / "copy" / "data.jsonl"
    config.model_copy(update={"data": data}).save(folder / "run.yaml")
    shown = len(read(folder).values("src"))
    gone, changed = (n.split()[0] for n in held_out(folder)[:2])
    (data.parent / f"{gone}.png").unlink()
    Image.new("RGB", (9, 9)).save(data.parent / f"{changed}.png")
    save_report(folder)
    page = read(folder)
    assert len(page.values("src")) == shown - 2
    assert page.source.count('class="none"') == 2
    assert f"{gone}.png" in page.text
    data.unlink()
    save_report(folder)
    missing = re.findall(r'class="none">[^<]*data\.jsonl', read(folder).source)
    assert len(missing) == shown


def held_out(folder):
    db = sqlite3.connect(folder / "measurements.db")
    query = "SELECT name FROM sample WHERE split='held-out' ORDER BY place"
    names = [name for (name,) in db.execute(query)]
    db.close()
    return names


def test_data_without_answers(tmp_path):
    data = write_data(tmp_path, "plain", answers=())
    start(tmp_path / "run", data=data, samples=4, heldout=5, objective="additive")
    page = read(tmp_path / "run")
    assert 'class="examples"' not in page.source
    assert "accuracy, %" not in page.text
    assert "KL held-out" in page.text
    assert count_facts(page) == 2  # FLOPs and KL


def test_answers_that_the_original_never_gives(tmp_path):
    data = write_data(tmp_path, "plain", answers=("as no model says",))
    start(tmp_path / "run", data=data, samples=4, heldout=5, objective="additive")
    page = read(tmp_path / "run")
    (title,) = re.findall(r"<h1>(.*)</h1>", page.source)
    assert len(re.findall(r"\d+\.\d", title)) == 1
    assert "accuracy" not in title
    assert NOTHING_RIGHT[1:] in page.text
    assert count_facts(page) == 3  # FLOPs, accuracy and KL, but no Rel. Avg.


def test_large_photographs_are_reduced(tmp_path):
    data = write_data(tmp_path, "photo")
    noise = Image.effect_noise((2400, 1800), 90).convert("RGB")
    for i in range(14):
        noise.rotate(i).save(tmp_path / f"{i}.png", compress_level=0)
    start(tmp_path / "run", data=data, samples=1, heldout=13, objective="additive")
    give_answers(tmp_path / "run", "else")
    save_report(tmp_path / "run")
    assert len(read(tmp_path / "run").values("src")) == 12
    assert (tmp_path / "run" / "report.html").stat().st_size < 1_500_000


DAMAGED = [(name, b"\xff{") for name in ("solution.json", "environment.json", "comparison.csv")]


@pytest.mark.parametrize(
    ("name", "content"),
    [*DAMAGED, ("solution.json", b"[]"), ("front.csv", b"d_attn,share,value\n")],
)
def test_a_damaged_file_is_named(copy, name, content):
    (copy / name).write_bytes(content)
    with pytest.raises(RunFolderError, match=naming(copy / name)):
        save_report(copy)


def test_a_record_that_lacks_something_is_named(copy):
    (copy / "solution.json").write_text("{}")
    with pytest.raises(
        RunFolderError, match=naming(copy / "solution.json", "`opsearch run --config")
    ):
        save_report(copy)


def test_a_folder_without_a_solution_is_told(copy):
    (copy / "solution.json").unlink()
    with pytest.raises(RunFolderError, match=naming(copy / "solution.json", "`opsearch run")):
        save_report(copy)
