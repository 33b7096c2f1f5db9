"""`opsearch bench` on the embedded model and on random decoders of a checkpoint's layout."""

import json
import re
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from opsearch import RankerSpec
from opsearch.commands.cli import call
from opsearch.commands.cli.print_latency import print_latency
from opsearch.costs.shape import CHECKPOINTS, Shape
from opsearch.errors import PolicyError
from opsearch.policy import builders
from opsearch.progress import Progress
from opsearch.rankers import RANKERS
from opsearch.timing import PARTS
from opsearch.timing.bench import Setup, for_shape
from opsearch.timing.bench import bench as bench_policy
from opsearch.timing.policy_latency import kv_stored
from tests.models.test_graphs import Rerun
from tests.support.messages import naming

CLS = RankerSpec("cls")
TINY = Shape(4, 64, 96, 4, 4, 16, 128)


def median(row, part, side="policy"):
    """A time of one side as the table shows it."""
    _, value, _ = row[side][f"{part}_ms"]
    return f"{value:.0f} (" if value >= 100 else f"{value:.3g} ("


@pytest.fixture
def bench(capsys):
    """Runs the command; gives exit code, output and errors on one line each."""

    def command(*arguments):
        code = call(["bench", *map(str, arguments)])
        printed, said = capsys.readouterr()
        return code, " ".join(printed.split()), " ".join(said.split())

    return command


@pytest.fixture
def tiny_shape(monkeypatch):
    tiny = replace(CHECKPOINTS["llava-next-7b"], shape=TINY)
    monkeypatch.setitem(CHECKPOINTS, "llava-next-7b", tiny)


def test_the_embedded_model_with_its_vision_tower(bench, tmp_path):
    policy = builders.dop(12, 8, 6, "1/2", CLS).save_pretrained(tmp_path)
    rows = tmp_path / "rows.jsonl"
    few = ["--repeats=2", "--new-tokens=2", "--batch=2"]
    code, printed, _ = bench(policy, *few, "--out", rows)
    assert code == 0
    assert re.search(r"\bbatch 2\b.*\b100 visual\b.*\b9 .*\b2 .*\bpairs\b", printed)
    assert "CUDA" in printed  # where alone peak memory is known
    *pairs, result = map(json.loads, rows.read_text().splitlines())
    for part in PARTS:
        assert median(result, part) in printed
    assert [pair["seconds"].keys() for pair in pairs] == [{"original", "policy"}] * 2
    assert result["kv_bytes"]["policy"] == result["kv_bytes"]["policy_cost"]
    assert result["kv_bytes"]["original"] == result["kv_bytes"]["original_cost"]


def test_a_shape_with_fewer_layers_and_other_lengths(bench, tmp_path, tiny_shape):
    policy = builders.dop(4, 2, 2, "1/2", CLS).save_pretrained(tmp_path)
    options = ["--layers=2", "--visual=20", "--text=5", "--repeats=1", "--new-tokens=1"]
    rows = tmp_path / "rows.jsonl"
    code, printed, _ = bench(policy, "--shape=llava-next-7b", *options, "--out", rows)
    assert code == 0
    assert re.search(r"\b20 visual\b.*\b5 .*\b1 .*\bpairs?\b", printed)
    assert re.search(r"(?i)\brandom weights\b", printed)
    result = json.loads(rows.read_text().splitlines()[-1])
    # Neither the vision tower nor further tokens are timed.
    shown = [part for part in PARTS if f"{part}_ms" in result["policy"]]
    assert shown == ["ranking", "prefill", "first_token"]
    assert len(re.findall(r"\bms\b", printed)) == len(shown)


def test_times_with_graphs_stand_beside_those_without(tmp_path, monkeypatch):
    """Without a GPU what a graph holds is computed anew, as in the tests of graphs."""
    monkeypatch.setattr("opsearch.timing.bench.Graphs", Rerun)
    console, rows = Console(quiet=True), tmp_path / "rows.jsonl"
    policy = builders.dop(12, 8, 6, "1/2", CLS).save_pretrained(tmp_path)
    setup = Setup(new_tokens=1, repeats=1, graphs=True)
    row = bench_policy(policy, setup, Progress(console, 3), rows)
    first, second, result = map(json.loads, rows.read_text().splitlines())
    assert (first["graphs"], second["graphs"]) == (False, True)
    assert result == json.loads(json.dumps(row))
    printed = Console(record=True, width=200, file=StringIO())
    print_latency(row, printed)
    plain, graphs = printed.export_text().split("CUDA graphs")
    assert median(row, "prefill") in plain
    assert median(row["graphs"], "prefill") in graphs
    assert row["graphs"]["policy"]["prefill_ms"] != row["policy"]["prefill_ms"]


@pytest.mark.parametrize(("positions", "noted"), [(31, True), (32, False)])
def test_more_positions_than_those_of_the_checkpoint_are_noted(
    bench, tmp_path, monkeypatch, positions, noted
):
    tiny = replace(CHECKPOINTS["llava-next-7b"], shape=TINY, positions=positions)
    monkeypatch.setitem(CHECKPOINTS, "llava-next-7b", tiny)
    policy = builders.tokens(4, "1/2", CLS).save_pretrained(tmp_path)
    options = ["--visual=20", "--text=9", "--new-tokens=4", "--repeats=1"]
    code, _, said = bench(policy, "--shape=llava-next-7b", *options)
    assert code == 0
    assert bool(re.search(naming(32, positions, "--visual"), said)) == noted


@pytest.mark.parametrize("options", [[], ["--shape=llava-next-7b"]], ids=["loaded", "random"])
def test_the_model_has_the_attention_that_is_asked_for(
    bench, tmp_path, tiny_shape, monkeypatch, options
):
    seen = []

    def noted(model, work, policy):
        seen.append(model.config.get_text_config()._attn_implementation)
        return kv_stored(model, work, policy)

    monkeypatch.setattr("opsearch.timing.bench.kv_stored", noted)
    policy = builders.vtw(4 if options else 12, 2).save_pretrained(tmp_path)
    few = ["--repeats=1", "--new-tokens=1", "--attention=eager", "--out", tmp_path / "rows.jsonl"]
    assert bench(policy, *options, *few)[0] == 0
    assert seen == ["eager"]
    assert (
        json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[-1])["attention"] == "eager"
    )


def test_a_policy_is_thinned_evenly():
    policy = builders.dop(32, 16, 8, "1/2", CLS)
    thinned = for_shape(policy, Setup(shape="llava-next-7b", layers=4))
    assert thinned.counts == builders.dop(4, 2, 1, "1/2").counts
    assert thinned.rankers == ((0, RankerSpec("random")),)
    uniform = replace(policy, rankers=((0, RankerSpec("uniform")),))
    assert for_shape(uniform, Setup(shape="llava-next-7b")) == uniform


def test_rankers_inside_need_all_layers():
    policy = builders.fastv(32)
    setup = Setup(shape="llava-next-7b")
    assert for_shape(policy, setup) == policy
    after = replace(policy, rankers=((0, CLS), *policy.rankers))
    assert for_shape(after, setup).rankers == ((0, RankerSpec("random")), *policy.rankers)
    with pytest.raises(PolicyError, match=naming(policy.name, 2, "--layers")):
        for_shape(policy, replace(setup, layers=4))


@pytest.mark.parametrize(
    ("options", "values"),
    [
        (["--visual=3"], ("--visual 3", "--shape", "llava-next-7b")),
        (["--shape=gpt"], ("'gpt'", "internvl3-8b", "llava-next-7b")),
        (["--device=tpu"], ("'tpu'", "cpu")),
        (["--attention=flash"], ("--attention 'flash'", "'sdpa'", "'eager'")),
        (["--attention=flash_attention_2"], ("float32", "--dtype bfloat16")),
        (["--device=auto"], ("--device auto",)),
        (["--graphs"], ("--graphs", "--device cpu")),
        (["--shape=llava-next-7b"], ("12 layers", 4)),
        (["--out=/nowhere/rows.jsonl", "--repeats=1"], ("/nowhere/rows.jsonl", "--out")),
    ],
)
def test_what_is_wrong_is_said(bench, tmp_path, tiny_shape, options, values):
    policy = builders.dop(12, 8, 6, "1/2", CLS).save_pretrained(tmp_path)
    code, printed, said = bench(policy, *options)
    assert (code, printed) == (1, "")
    assert re.search(naming(*values), said)


def test_peers_are_the_rules_that_the_model_serves(bench, tmp_path):
    rows = tmp_path / "rows.jsonl"
    code, printed, _ = bench("--peers", "--repeats=1", "--out", rows)
    assert code == 0
    found = {row["rule"]: row for row in map(json.loads, rows.read_text().splitlines())}
    before = RANKERS.keys() - {"evs"}  # the model has no videos
    assert set(found) == {*before, "FastV", "PyramidDrop", "SparseVLM"}
    assert all(found[name]["flop_ratio"] == found["cls"]["flop_ratio"] for name in before)
    assert {name for name, row in found.items() if row["before_decoder"]} == before
    assert all(f"{name} " in printed for name in found)
    assert re.search(r"\bbatch 1\b.*\b100 visual\b.*\b9 .*\b1 .*\bpairs?\b", printed)


@pytest.mark.parametrize(
    ("options", "values"),
    [
        (["--engine=vllm", "--shape=llava-next-7b"], ("--shape", "--engine vllm")),
        (["--engine=vllm", "--dtype=float32"], ("--dtype", "-- --dtype bfloat16")),
        (["--engine=vllm", "--", "--model=x"], ("--model=x",)),
        (["--requests=3"], ("--requests 3", "--engine vllm")),
        (["--", "--dtype=float32"], ("'--dtype=float32'", "--engine vllm")),
    ],
)
def test_options_of_one_engine_do_not_go_with_the_other(bench, tmp_path, options, values):
    policy = builders.dop(12, 8, 6, "1/2", CLS).save_pretrained(tmp_path)
    code, printed, said = bench(policy, *options)
    assert (code, printed) == (1, "")
    assert re.search(naming(*values), said)


def test_policies_that_vllm_does_not_serve_are_refused(bench, tmp_path):
    policy = builders.fastv(12, 2, "1/2").save_pretrained(tmp_path)
    code, printed, said = bench(policy, "--engine=vllm")
    assert (code, printed) == (1, "")
    assert re.search(naming("fastv", "inside the decoder", "divprune"), said)
    assert re.search(naming("POLICY", "--engine vllm"), bench("--engine=vllm")[2])


def test_what_peers_do_not_go_with(bench, tmp_path):
    policy = builders.dop(12, 8, 6, "1/2", CLS).save_pretrained(tmp_path)
    assert "--suite rankers" in bench("--peers", "--shape=llava-next-7b")[2]
    for arguments, said in (
        (["--peers", "--attention=flash"], ("--attention 'flash'", "'sdpa'")),
        ([], ("POLICY", "--peers")),
        ([policy, "--peers"], ("POLICY", "--peers")),
        (["--peers", "--new-tokens=3"], ("--new-tokens", "--peers")),
        (["--peers", "--graphs", "--device=cuda"], ("--graphs", "--peers")),
    ):
        code, _, error = bench(*arguments)
        assert code == 1
        assert re.search(naming(*said), error)
