"""`opsearch run --images`: one answer among image settings, which commands follow or refuse."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import opsearch
from opsearch import Policy, RunConfig
from opsearch.commands.cli import call
from opsearch.data.files import load_jsonl
from opsearch.errors import InfeasibleBudgetError, ModelError, OpsearchError
from opsearch.models.encoding import encode
from opsearch.models.loading import load_config, load_processor, load_weights
from opsearch.policy.builders import identity
from opsearch.runs.prepare import settle
from tests.costs.test_prefill import counted
from tests.models.judge import reference_logits
from tests.models.judge import samples as judged
from tests.support.families import FAMILIES, built
from tests.support.families.folder import save
from tests.support.messages import naming, refuses

SIZES = [(24, 24), (24, 13), (24, 12), (12, 24)]  # width and height
# The ranker takes no FLOPs, which no cost counts.
SEARCH = ["--space=dop", "--n-v=.5", "--objective=joint", "--complete", "--ranker=random"]
needs_processor = pytest.mark.requires_torchvision


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl", "internvl"])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def root(name, tmp_path_factory):
    """A folder with a tiny model, and eight questions about pictures of four sizes."""
    folder = tmp_path_factory.mktemp(name)
    save(FAMILIES[name], folder / "model")
    lines = []
    for number, size in enumerate(SIZES * 2):
        Image.effect_noise(size, 70 + number).convert("RGB").save(folder / f"{number}.png")
        question = ("what colour is it", "how many red")[number % 2]
        lines.append({"image": f"{number}.png", "question": question, "answer": "red"})
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture(scope="module")
def run(root):
    """A run whose answer has smaller images, because full size is above its budget."""
    return searched(root, "run", "--images=1,1/2,1/4", f"--budget={budget(root)}", *SEARCH)


def budget(root):
    """Return a budget below the share of vision tower and text at full size."""
    return "45%prefill" if "internvl" in root.name else "62%prefill"


def searched(root, out, *options, samples=6):
    command = ["run", f"--model={root / 'model'}", f"--data={root / 'data.jsonl'}", *options]
    folder = root / out
    assert call([*command, f"--samples={samples}", "--heldout=2", f"--out={folder}"]) == 0
    return folder


def parts(root):
    model = str(root / "model")
    return load_weights(model), load_processor(model), load_config(model)


def calibration(root, folder):
    """Return the items that a run was searched on."""
    seen = set(json.loads((folder / "solution.json").read_text())["items"])
    return [item for item in load_jsonl(root / "data.jsonl") if item.digest() in seen]


@torch.no_grad()
def divergence(model, policy, full, small):
    """Return the KL of the masked model on smaller images from the stock model at full size."""
    (row,) = judged(model, small.inputs)
    p = model(**full.inputs, logits_to_keep=1).logits[0, -1].double().log_softmax(-1)
    q = reference_logits(model, row, policy)[-1].double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum())


@needs_processor
def test_the_table_has_measured_divergences_and_counted_costs(root, run):
    model, processor, config = parts(root)
    policy, items = Policy.from_pretrained(run), calibration(root, run)
    table = pd.read_csv(run / "images.csv", dtype={"images": str}).set_index("images")
    best = table.loc[str(policy.images.share)]
    assert best["KL"] == table["KL"].min()
    full = encode(items, processor, config)
    small = encode(items, policy.processor(processor), config)
    kl = [divergence(model, policy, *pair) for pair in zip(full, small, strict=True)]
    assert best["KL"] == pytest.approx(np.mean(kl), abs=5e-6)
    visual = sum(each.n_visual for each in small) / sum(each.n_visual for each in full)
    assert best["tokens, %"] == pytest.approx(100 * visual)
    assert visual <= policy.images.share
    stock = sum(counted(model, each.inputs) for each in full)
    with policy.apply(model):
        pruned = sum(counted(model, each.inputs) for each in small)
    record = json.loads((run / "solution.json").read_text())
    assert (record["costs"]["prefill"], record["stock"]["prefill"]) == (pruned, stock)
    assert best["whole, %"] == pytest.approx(100 * pruned / stock)
    assert record["images"]["attributes"] == dict(policy.images.attributes)


@needs_processor
def test_a_setting_above_the_budget_is_left_out(root, capsys):
    searched(root, "left out", "--images=1,1/2", f"--budget={budget(root)}", *SEARCH)
    captured = capsys.readouterr()
    said = " ".join(captured.err.split())
    assert re.search(naming("images at 1 of the visual tokens are left out", "prefill"), said)
    last, total = re.findall(r"^(\d+)/(\d+) ", captured.err, re.MULTILINE)[-1]
    assert last == total
    assert "images at 1/2 of the visual tokens" in captured.out
    table = pd.read_csv(root / "left out" / "images.csv", dtype={"images": str})
    assert list(table["images"]) == ["1/2"]


@needs_processor
def test_each_setting_has_the_optimum_of_a_search_of_its_own(root, capsys):
    """And the answer is the best of them: also full size, where the budget allows it."""
    images = ["1", "1/2"]
    options = ["--budget=80%", *SEARCH]
    both = searched(root, "both", f"--images={','.join(images)}", *options)
    table = pd.read_csv(both / "images.csv", dtype={"images": str}).set_index("images")
    for share in images:
        alone = searched(root, f"alone {share[-1]}", f"--images={share}", *options)
        record = json.loads((alone / "solution.json").read_text())
        assert table.loc[share, "KL"] == pytest.approx(record["value"], abs=2e-6)
        if share == table["KL"].idxmin():
            assert Policy.from_pretrained(both) == Policy.from_pretrained(alone)
    capsys.readouterr()


@needs_processor
def test_eval_and_generate_read_the_smaller_images(root, run, capsys):
    model, processor, config = parts(root)
    policy = Policy.from_pretrained(run)
    (item, *_) = load_jsonl(root / "data.jsonl")
    (full,) = encode([item], processor, config)
    (small,) = encode([item], policy.processor(processor), config)
    assert small.n_visual < full.n_visual
    asked = [f"--image={root / '0.png'}", f"--prompt={item.question}", "--max-new-tokens=5"]
    assert call(["generate", str(run), *asked, "--json"]) == 0
    trial = json.loads(capsys.readouterr().out)
    assert trial["visual_tokens"] == full.n_visual
    assert trial["visual_tokens_of_policy"] == small.n_visual
    with policy.apply(model):
        ids = model.generate(**small.inputs, max_new_tokens=5, do_sample=False)
    answer = ids[0, small.inputs["input_ids"].shape[1] :]
    text = processor.tokenizer.decode(answer, skip_special_tokens=True)
    assert trial["policy"]["text"] == text
    scores = opsearch.evaluate(model, processor, [item], policy, answer_tokens=5, progress=False)
    assert scores.policy.texts == (trial["policy"]["text"],)
    assert scores.original.texts == (trial["original"]["text"],)


@needs_processor
def test_shares_and_divergences_count_the_original_at_full_size(root, run):
    model, processor, _ = parts(root)
    policy, items = Policy.from_pretrained(run), calibration(root, run)
    record = json.loads((run / "solution.json").read_text())
    share = opsearch.cost_share(model, processor, items, policy, cost="prefill")
    assert share == record["costs"]["prefill"] / record["stock"]["prefill"]
    whole = identity(policy.num_layers)
    kl = opsearch.measure_kl(model, processor, items, [policy, whole])
    assert kl[0].mean() == pytest.approx(record["value"], abs=2e-6)
    assert not kl[1].any()


@needs_processor
def test_the_default_search_compares_smaller_images_alone(root):
    """In space shares, from Python; at this budget one setting need not be pruned at all."""
    model, processor, config = parts(root)
    items = load_jsonl(root / "data.jsonl")
    share = "1/2" if "internvl" in root.name else "1/4"
    result = opsearch.search(
        model, processor, items, images=share, budget="90%", effort=9, progress=False
    )
    assert result.comparison.loc["KL calibration", "original"] == 0
    full = encode(items, processor, config)
    small = encode(items, result.policy.processor(processor), config)
    whole = identity(result.policy.num_layers)
    alone = [divergence(model, whole, *pair) for pair in zip(full, small, strict=True)]
    found = result.comparison.loc["KL calibration", "smaller images"]
    assert found == pytest.approx(np.mean(alone), abs=5e-6)
    assert result.value <= found + 1e-6
    assert result.images["KL"].tolist() == [pytest.approx(result.value, abs=2e-6)]
    assert opsearch.Run(result.folder).policy.images == result.policy.images


@needs_processor
@pytest.mark.parametrize(
    "command", ["compare", "compare --draws=2", "solve --verify=8 --objective=additive", "bench"]
)
def test_what_reads_full_size_alone_refuses_the_answer(run, capsys, command):
    name, *options = command.split()
    assert call([name, str(run), *options]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert re.search("images", said)
    assert "full size" in said


@needs_processor
def test_an_answer_is_solved_again_with_its_images(root, run):
    policy = Policy.from_pretrained(run)
    again = opsearch.solve(run, out=root / "again")
    assert again.policy == policy
    assert again.value == json.loads((run / "solution.json").read_text())["value"]
    share = policy.images.share
    fresh = searched(root, "fresh", f"--images={share}", "--budget=70%", *SEARCH)
    other = opsearch.solve(run, budget="70%", out=root / "other")
    assert other.policy == Policy.from_pretrained(fresh)
    assert other.value == json.loads((fresh / "solution.json").read_text())["value"]
    assert f"images at {share}" in other.solution.note


@needs_processor
def test_the_front_ends_with_the_smaller_images_alone(root, run):
    """To prune nothing has a divergence there, and a cost below the original's."""
    model, processor, config = parts(root)
    policy, items = Policy.from_pretrained(run), calibration(root, run)
    full = encode(items, processor, config)
    small = encode(items, policy.processor(processor), config)
    wide = searched(root, "wide", f"--images={policy.images.share}", "--budget=100%", *SEARCH)
    whole = identity(policy.num_layers)
    smaller = replace(whole, images=policy.images)
    alone = np.mean([divergence(model, whole, *pair) for pair in zip(full, small, strict=True)])
    kl = opsearch.measure_kl(model, processor, items, [whole, smaller]).mean(axis=1)
    assert kl == pytest.approx([0, alone], abs=5e-6)
    shares = [opsearch.cost_share(model, processor, items, each) for each in (whole, smaller)]
    assert shares[1] < shares[0] == 1
    table = opsearch.front(wide).table
    assert table["share"].max() <= shares[1]
    assert table["value"].min() <= alone + 1e-6


@needs_processor
def test_show_and_report_name_the_setting(run, capsys):
    assert call(["show", str(run)]) == 0
    shown = capsys.readouterr().out
    for name, value in Policy.from_pretrained(run).images.attributes:
        assert f"{name}={value}" in shown
    assert call(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "held-out answers differ" in page
    assert "full size" not in page  # why a figure could not be drawn


@needs_processor
def test_budgets_below_all_settings_are_refused(root):
    config = RunConfig(
        model=str(root / "model"),
        data=root / "data.jsonl",
        samples=6,
        heldout=2,
        space="dop",
        images="1,1/2",
        budget="5%",
        out=root / "refused",
    )
    with refuses(InfeasibleBudgetError, "5%", "text tokens"):
        opsearch.run(config, progress=False)


@pytest.mark.parametrize(
    ("family", "reason"), [("llava", "one size"), ("llava_next", "image_grid_pinpoints")]
)
def test_a_family_without_settings_is_refused_with_what_can_be_done(tmp_path, family, reason):
    built(family, 2).config.save_pretrained(tmp_path)
    with refuses(ModelError, repr(family), reason, "--budget", "qwen2_5_vl", "internvl"):
        settle(RunConfig(model=str(tmp_path), images="1/2"))


def test_the_embedded_model_has_images_of_one_size():
    with refuses(ModelError, "'llava'", "one size"):
        settle(RunConfig(images="1,1/2"))


def test_budgets_of_time_are_refused(tmp_path):
    built("qwen2_5_vl", 2).config.save_pretrained(tmp_path)
    config = RunConfig(model=str(tmp_path), images="1,1/2", budget="120ms", space="dop")
    with refuses(OpsearchError, "--images", "time"):
        settle(config)


def test_a_dry_run_is_of_full_size(capsys):
    assert call(["run", "--dry-run", "--shape=llava-1.5-7b", "--images=1,1/2"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(naming("--images 1,1/2", "--dry-run", "full size"), said)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("1/4,1,1/2", ("1", "1/2", "1/4")), (["0.5"], ("1/2",)), ("1", ("1",))],
)
def test_shares_are_kept_from_the_largest_on(given, kept):
    assert RunConfig(images=given).images == kept


@pytest.mark.parametrize("given", ["", "0", "2", "1/2,50%", "some"])
def test_other_shares_are_refused(given):
    with refuses(OpsearchError, "--images"):
        RunConfig.checked(images=given)
