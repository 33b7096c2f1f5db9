"""`opsearch compare` and `opsearch analyze pareto` on the embedded model, really run."""

import io
import json
import re
import shutil
from fractions import Fraction
from functools import partial

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from opsearch.commands import compare as comparing
from opsearch.commands.analyze import analyze
from opsearch.commands.cli.printing import print_compared
from opsearch.commands.compare import compare
from opsearch.commands.run import run
from opsearch.costs.flops import Flops
from opsearch.costs.rankings import ranking_flops
from opsearch.costs.shape import Shape
from opsearch.errors import DataError, InfeasibleBudgetError, OpsearchError, RunFolderError
from opsearch.evaluation import prefill_times
from opsearch.evaluation.answers import answer
from opsearch.evaluation.reducers import Reduction
from opsearch.evaluation.stored import stored_comparison
from opsearch.measure.engine import Engine
from opsearch.measure.storage.records import COMPARED
from opsearch.measure.storage.store import Store
from opsearch.models.loading import load_weights
from opsearch.policy.baseline import candidates
from opsearch.policy.builders import identity
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.budget import total_cost
from opsearch.problem.constraint import feasible_points
from opsearch.runs.config import RunConfig
from opsearch.runs.setup import make_constraints, parse_budgets, resolve
from tests.measure import demo
from tests.report.page import Page, assert_harmless
from tests.support.measured import stored_count
from tests.support.messages import naming

BUDGETS = ("20%", "30%")
SETTINGS = {"samples": 3, "heldout": 0, "n_v": ("1/4", "1"), "objective": "additive"}
SETTINGS["evaluations"] = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("compared") / "run"
    run(RunConfig(**SETTINGS, out=path), _silent())
    compare(path, BUDGETS, samples=15, effort=60, console=_silent())
    return path


def _silent():
    return Console(file=io.StringIO())


def test_every_method_keeps_within_every_budget(folder):
    comparison = stored_comparison(folder)
    found = {(entry.budget, entry.method): entry for entry in comparison.entries}
    spaces = ("dop", "dop(kv=stays)", "depth")
    searched = [f"{s} {o}" for s in spaces for o in ("additive", "joint", "refined")]
    for budget, limit in zip(BUDGETS, (0.2, 0.3), strict=True):
        methods = [method for at, method in found if at == budget]
        assert methods[:11] == [*searched, "stages joint", "stages refined"]
        assert {"FastV like", "FitPrune", "GSOP", "G-Search like", "pool"} <= set(methods)
        # All keys stay: beyond its reach at 20 % of the FLOPs.
        assert ("ShortV" in methods) == (limit > 0.25)
        assert all(found[budget, method].share <= limit for method in methods)


def test_joint_is_never_above_additive_on_calibration(folder):
    entries = stored_comparison(folder).entries
    kl = {(e.budget, e.method): e.kl_calibration.mean() for e in entries}
    for budget in BUDGETS:
        for space in ("dop", "dop(kv=stays)", "depth"):
            assert kl[budget, f"{space} refined"] <= kl[budget, f"{space} joint"] + 1e-6
            assert kl[budget, f"{space} joint"] <= kl[budget, f"{space} additive"] + 1e-6
        # The depth space holds every policy of the dop space, in both readings.
        for reading in ("dop", "dop(kv=stays)"):
            assert kl[budget, "depth joint"] <= kl[budget, f"{reading} joint"] + 1e-6
        # Withdrawing all tokens at a layer is a single stage.
        assert kl[budget, "stages joint"] <= kl[budget, "VTW"] + 1e-6


def test_settings_are_chosen_on_the_calibration_samples(folder, tmp_path):
    """No candidate of a baseline is better there at the same budget."""
    given = demo.samples(SETTINGS["samples"])
    pairs = [sample.shape for sample in given]
    with Store(folder / "measurements.db") as store:
        assert [each.item for each in store.samples("calibration")] == [s.digest for s in given]
        shape = Shape(**store.facts["shape"])
    entries = {(e.budget, e.method): e for e in stored_comparison(folder).entries}
    with Store(tmp_path / "whole.db", {}) as store:
        engine = Engine(demo.model(), store)
        for budget, limit in zip(BUDGETS, (Fraction(1, 5), Fraction(3, 10)), strict=True):
            most = limit * total_cost(Flops(shape), identity(shape.layers), pairs)
            found = candidates(
                shape.layers,
                RankerSpec("cls"),
                lambda policy, most=most: total_cost(Flops(shape), policy, pairs) <= most,
                ("vispruner", "fastv", "pyramiddrop", "sparsevlm"),
            )
            engine.measure([policy for policies in found.values() for policy in policies], given)
            for label, policies in found.items():
                entry = entries[budget, label]
                kl = engine.measure(policies, given).mean(axis=1)
                # Other policies in the same passes change the rounding, in relation to the value.
                assert entry.kl_calibration.mean() == pytest.approx(kl.min(), rel=1e-6, abs=1e-6)
                assert entry.setting in {p.provenance["setting"] for p in policies}
                keys = {p.canonical(pairs[0][0]) for p in policies}
                assert entry.evaluations == (len(keys) if len(policies) > 1 else 0)


def test_evaluations_and_the_cache_are_told_for_every_method(folder):
    comparison = stored_comparison(folder)
    rows = {(e.budget, e.method): e for e in comparison.entries}
    assert all(entry.evaluations is not None for entry in comparison.entries)
    for budget in BUDGETS:
        assert rows[budget, "pool"].evaluations == rows[budget, "tokens cls"].evaluations == 0
        assert 0 < rows[budget, "GSOP"].evaluations <= 12
        assert 0 < rows[budget, "G-Search like"].evaluations <= 12
        # d_attn, d_mlp and n_v, each with its values alone but for those that prune nothing.
        assert rows[budget, "dop additive"].evaluations <= 2 * 13 + 1
        more = rows[budget, "dop refined"].evaluations - rows[budget, "dop joint"].evaluations
        assert 0 <= more <= 1 + 13
    assert rows["30%", "ShortV"].evaluations == 12  # its order takes each layer frozen alone


def test_gsop_prunes_in_one_order(folder):
    """Nothing that the larger budget prunes comes back at the smaller one."""
    entries = stored_comparison(folder).entries
    small, large = (
        re.findall(r"\d", e.policy.split("n_v")[0]) for e in entries if e.method == "GSOP"
    )
    assert len(small) == len(large) == 36
    assert all(a <= b for a, b in zip(small, large, strict=True))
    assert small != large


def test_it_is_judged_on_test_items_of_every_family(folder):
    with Store(folder / "measurements.db") as store:
        judged = store.samples(COMPARED)
        calibration = {sample.item for sample in store.samples("calibration")}
    assert len(judged) == 15
    assert all(sample.name.startswith("embedded/test/") for sample in judged)
    assert not calibration & {sample.item for sample in judged}
    assert stored_comparison(folder).original.mean() > 0.9


def test_what_does_not_fit_the_effort_is_measured_from_coarse_to_fine(tmp_path):
    path, console = tmp_path / "run", _silent()
    run(RunConfig(**{**SETTINGS, "samples": 1}, out=path), _silent())
    compare(path, ["20%"], samples=1, effort=0, console=console)
    methods = [entry.method for entry in stored_comparison(path).entries]
    spaces = ("dop", "dop(kv=stays)", "depth")
    searched = [f"{s} {o}" for s in spaces for o in ("additive", "joint", "refined")]
    assert methods[:9] == searched
    said = console.file.getvalue()
    assert re.search(r"\bdepth joint .* \d.*--effort 0\b", said)
    with Store(path / "measurements.db") as store:
        (sample,) = store.samples("calibration")
        measured = sum(found.item == sample.item for found in store.everything())
    space = resolve(RunConfig(**SETTINGS, space="depth"), 12, RankerSpec("cls")).space
    shape = Shape.from_config(load_weights("demo").config)
    pairs = [(sample.n_visual, sample.n_other)]
    limits = make_constraints(parse_budgets(["20%"]), shape, space, pairs)
    # With all that the baselines and the proxy take.
    assert measured < feasible_points(space, limits).sum()


def test_pareto_writes_table_figure_and_words(folder, tmp_path):
    analysis, files = analyze("pareto", [folder], out=tmp_path)
    assert [file.name for file in files] == [
        "pareto.csv",
        "families.csv",
        "differences.csv",
        "pareto.svg",
        "pareto.html",
    ]
    frame = pd.read_csv(tmp_path / "pareto.csv")
    entries = stored_comparison(folder).entries
    assert frame["kl"].to_numpy() == pytest.approx([entry.kl.mean() for entry in entries])
    assert re.search(naming("Rel. Avg.", 15), analysis.text)
    gaps = pd.read_csv(tmp_path / "differences.csv")
    pairs = set(zip(gaps["method"], gaps["other"], strict=True))
    assert pairs == {
        ("dop joint", "dop additive"),
        ("depth joint", "depth additive"),
        ("depth joint", "dop joint"),
        ("depth joint", "stages joint"),
        ("depth joint", "FastV like"),
        ("stages joint", "FastV like"),
        ("stages refined", "stages joint"),
        ("stages refined", "FastV like"),
    }


def test_tables_of_several_runs_are_one_csv_and_one_page(folder, tmp_path):
    analysis, files = analyze("tables", [folder, folder], out=tmp_path)
    assert [file.name for file in files] == ["tables.csv", "tables.md"]
    written = pd.read_csv(tmp_path / "tables.csv")
    assert len(written) == 2 * (1 + len(stored_comparison(folder).entries))
    assert (tmp_path / "tables.md").read_text() == analysis.text + "\n"
    assert analysis.text.count("run: ") == 2


def test_costs_are_told_by_two_conventions_and_for_the_cache(folder):
    comparison = stored_comparison(folder)
    found = {(entry.budget, entry.method): entry for entry in comparison.entries}
    with Store(folder / "measurements.db") as store:
        shapes = [(s.n_visual, s.n_other) for s in store.samples("compared calibration")]
    rows = 12 * sum(map(sum, shapes)) / len(shapes)
    for (_, method), entry in found.items():
        stock = entry.further["kv_bytes"] / entry.further["kv_share"]
        assert stock == pytest.approx(rows * 2 * 4 * 128)  # float32 as it runs, 128 wide
        if method.startswith("tokens"):
            # Attention of fewer tokens is quadratic, all else linear; there is no text here.
            assert entry.further["macs_share"] < entry.share
            assert entry.further["kv_share"] > entry.further["macs_share"]
        if method == "VTW":  # whole layers as listed, though the last one's updates are never read
            (kept,) = re.findall(r"\d+", entry.policy)
            assert entry.further["macs_share"] == pytest.approx(int(kept) / 12)


def test_the_share_with_vision_is_that_of_decoder_tower_and_rankers_inside(folder, capsys):
    comparison = stored_comparison(folder)
    with Store(folder / "measurements.db") as store:
        samples = store.samples("compared calibration")
        shape = Shape(**store.facts["shape"])
        methods = store.compared()[1:]
    policies = {
        (row.budget, row.method): Policy.from_text(row.policy, folder)
        for row in methods
        if Reduction.parse(row.policy) is None
    }

    def ranking(entry):
        policy = policies.get((entry.budget, entry.method))
        if policy is None:
            return 0
        return sum(ranking_flops(policy, s.n_visual, s.n_other, shape) for s in samples)

    images = sum(sample.image_flops for sample in samples)
    stock = sum(Flops(shape).stock(sample.n_visual, sample.n_other) for sample in samples)
    assert 0 < images < stock
    for entry in comparison.entries:
        whole = (entry.share * stock + ranking(entry) + images) / (stock + images)
        assert entry.further["prefill_share"] == pytest.approx(whole)
    assert any(ranking(entry) > 0 for entry in comparison.entries)
    print_compared(analyze("pareto", [folder])[0].tables["pareto.csv"], Console(width=200))
    shown = capsys.readouterr().out
    for entry in comparison.entries:
        both = f"{100 * entry.share:.1f}, {100 * entry.further['prefill_share']:.1f}"
        assert both in shown


def test_families_are_scored_one_by_one(folder):
    analysis, _ = analyze("pareto", [folder])
    families, table = analysis.tables["families.csv"], analysis.tables["pareto.csv"]
    assert len(families) == 15 * len(table)
    means = families.groupby(["budget", "method"])["score"].mean()
    for row in table.itertuples():
        assert means[row.budget, row.method] == pytest.approx(row.accuracy)


def test_the_page_shows_every_method_at_every_budget(folder):
    page = Page((analyze("pareto", [folder])[1][-1]).read_text())
    assert_harmless(page)
    assert page.tags.count("h1") == 1
    for budget in BUDGETS:
        columns = rf"\b{budget} FLOPs.* with vision.* MACs.* KV .*\bKL .*Rel\. Avg\."
        assert re.search(columns, page.text)
    for entry in stored_comparison(folder).entries:
        assert f"{entry.method} {100 * entry.share:.2f} " in page.text
        assert entry.policy in page.text


def test_a_stopped_comparison_goes_on(tmp_path, monkeypatch):
    path = tmp_path / "run"
    run(RunConfig(**{**SETTINGS, "samples": 1}, out=path), _silent())
    given = {"samples": 2, "effort": 0, "console": _silent(), "times": True}
    given["spaces"] = ["dop"]
    answered, timed = [], []

    def stopped(*args, **given):
        return _until(answered, 4, partial(answer, **given), args)

    monkeypatch.setattr(comparing, "answer", stopped)
    with pytest.raises(KeyboardInterrupt):
        compare(path, ["20%"], **given)
    with pytest.raises(RunFolderError, match=r"`opsearch compare .*run"):
        stored_comparison(path)
    with Store(path / "measurements.db") as store:
        measured = stored_count(store)
    monkeypatch.setattr(comparing, "answer", answer)
    take = prefill_times._timed
    monkeypatch.setattr(prefill_times, "_timed", lambda *args: _until(timed, 3, take, args))
    with pytest.raises(KeyboardInterrupt):
        compare(path, ["20%"], **given)
    monkeypatch.setattr(prefill_times, "_timed", lambda *args: timed.append(0) or take(*args))
    compare(path, ["20%"], **given)
    with Store(path / "measurements.db") as store:
        assert stored_count(store) == measured
    # Policies timed before are not timed again; one was interrupted.
    assert len(timed) == len(json.loads((path / "prefill.json").read_text())["times"]) + 1
    frame = analyze("pareto", [path])[0].tables["pareto.csv"]
    assert "pool" in set(frame["method"])
    assert (frame["ranking_ms"] > 0).all()
    assert (frame["ranking_ms"] < frame["prefill_ms"]).all()
    assert (frame["prefill_ratio"] > 0).all()


def _until(calls, count, function, arguments):
    """Ctrl-C at a call of this number."""
    calls.append(0)
    if len(calls) == count:
        raise KeyboardInterrupt
    return function(*arguments)


def test_the_same_comparison_again_measures_nothing(folder):
    before = stored_comparison(folder)
    with Store(folder / "measurements.db") as store:
        count = stored_count(store)
    compare(folder, BUDGETS, samples=15, effort=60, console=_silent())
    after = stored_comparison(folder)
    with Store(folder / "measurements.db") as store:
        assert stored_count(store) == count
    for one, other in zip(before.entries, after.entries, strict=True):
        assert (one.method, one.policy) == (other.method, other.policy)
        assert np.array_equal(one.scores, other.scores)


def test_a_later_run_of_other_samples_leaves_the_comparison(folder, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(folder, copied)
    before = stored_comparison(copied)
    run(RunConfig(**{**SETTINGS, "samples": 2}, out=copied), _silent())
    after = stored_comparison(copied)
    for one, other in zip(before.entries, after.entries, strict=True):
        assert np.array_equal(one.kl_calibration, other.kl_calibration)
        assert np.array_equal(one.scores, other.scores)


def test_without_a_comparison_it_says_which_command_makes_one(tmp_path):
    config = RunConfig(**SETTINGS, out=tmp_path / "run")
    run(config, _silent())
    with pytest.raises(RunFolderError, match=r"`opsearch compare .*run"):
        analyze("pareto", [tmp_path / "run"])


def test_runs_side_by_side_are_named_in_every_table(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    analysis, files = analyze("pareto", [folder, other], out=tmp_path / "both")
    assert "pareto.html" not in {file.name for file in files}
    single, labels = analyze("pareto", [folder], out=tmp_path / "one")[0], [folder.name, "other"]
    for name, table in analysis.tables.items():
        for label in labels:
            rows = table[table["run"] == label].drop(columns="run").reset_index(drop=True)
            pd.testing.assert_frame_equal(rows, single.tables[name].reset_index(drop=True))
    assert analysis.text.splitlines() == [f"{label}: {single.text}" for label in labels]


def test_what_cannot_be_compared_is_said(folder):
    with pytest.raises(DataError, match=naming("--samples", 0)):
        compare(folder, BUDGETS, samples=0, console=_silent())
    with pytest.raises(InfeasibleBudgetError, match=naming("3%", "--budget")):
        compare(folder, ["3%"], samples=15, console=_silent())
    with pytest.raises(OpsearchError, match=naming("curves", 2)):
        analyze("curves", [folder, folder])
    with pytest.raises(OpsearchError, match="paretto"):
        analyze("paretto", [folder])


def test_a_space_too_large_to_list_takes_part(tmp_path):
    path = tmp_path / "run"
    settings = {**SETTINGS, "samples": 2, "n_v": ("1/4",), "verify": 2, "evaluations": 4}
    run(RunConfig(**settings, out=path), _silent())
    compare(path, ["40%"], samples=2, console=_silent(), spaces=["layers"])
    kl = {e.method: e.kl_calibration.mean() for e in stored_comparison(path).entries}
    assert kl["layers verified"] <= kl["layers additive"] + 1e-6
