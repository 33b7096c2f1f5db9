"""The command line: what each command prints, and one sentence for everything that is wrong."""

import json
import re
import subprocess
import sys
from io import StringIO

import numpy as np
import pytest
import torch
from rich.console import Console

from opsearch import Policy, RankerSpec
from opsearch.commands.cli import call
from opsearch.commands.cli.printing import print_scores
from opsearch.costs.checkpoints import PREFILLS
from opsearch.costs.shape import CHECKPOINTS
from opsearch.data.demo.families import FAMILIES
from opsearch.data.embedded import embedded
from opsearch.evaluation.answers import Answers
from opsearch.evaluation.evaluate import Scores
from opsearch.models.loading import load_weights
from opsearch.policy import builders
from tests.support.messages import naming

LAYERS = 12
FEW = ["--samples=3", "--heldout=5", "--n-v=.5"]


@pytest.fixture
def opsearch(capsys):
    """Runs a command line in this process; gives exit code, output and errors on one line each."""

    def command(*arguments):
        capsys.readouterr()
        code = call([str(argument) for argument in arguments])
        printed, said = capsys.readouterr()
        return code, " ".join(printed.split()), " ".join(said.split())

    return command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run."""
    path = tmp_path_factory.mktemp("cli") / "run"
    assert call(["run", *FEW, "--objective=joint", "--complete", "--out", str(path)]) == 0
    return path


def error(result):
    """The one sentence of a command that failed: no output, no traceback, code 1."""
    code, printed, said = result
    assert code == 1, (printed, said)
    assert "Traceback" not in said
    assert "--debug" not in said  # which is the advice on a defect
    assert printed == ""
    return said.split("error: ", 1)[1]


# Each command once


def test_run_ends_with_the_policy_the_table_and_the_files(opsearch, tmp_path):
    code, printed, said = opsearch("run", *FEW, "--objective=joint", "--out", tmp_path)
    assert code == 0
    assert re.search(r"dop\(d_attn=\d+, d_mlp=\d+, n_v=[\d/]+, kv leaves\)", printed)
    assert re.search(r" q [█▄·]", printed)
    assert re.search(r"joint\b.* [\d.]+ nats.* [\d.]+.* 0\.0e\+00.* grid\b", printed)
    assert re.search(r"\boptimal\b", printed)
    for name in ("original", "opsearch", "uniform", "random", "VTW", "FastV"):
        assert name in printed
    for row in ("% of stock", "KL calibration", "KL held-out", "Rel. Avg., %", *list(FAMILIES)[:5]):
        assert row in printed
    assert "…" not in printed
    written = printed.replace(" ", "")
    for file in ("policy_config.json", "front.csv", "run.yaml", "measurements.db", "report.html"):
        assert f"{tmp_path}/{file}" in written
    assert re.search(r"6/7 [^/]*\b5 held-out\b", said)
    assert "7/7 " in said


def test_run_says_why_it_took_its_objective(opsearch, tmp_path):
    _, _, said = opsearch("run", *FEW, "--effort=0", "--out", tmp_path)
    assert re.search(r"\badditive\b.* \d+ s\b.*--effort 0\b", said)


def test_every_file_that_run_names_exists(opsearch, tmp_path):
    """A guided search knows no front, unlike an exhaustive one."""
    options = ["--objective=joint", "--solver=optuna", "--evaluations=3", "--heldout=0"]
    _, printed, _ = opsearch("run", *FEW, *options, "--out", tmp_path)
    named = re.findall(rf"{re.escape(str(tmp_path))}/[\w.]+", printed)
    assert len(named) >= 4
    assert [name for name in named if not (tmp_path / name).exists()] == []


def test_solve_prints_the_new_policy_within_its_budget(opsearch, folder, tmp_path):
    code, printed, said = opsearch("solve", folder, "--budget=25%", "--out", tmp_path)
    assert (code, said) == (0, "")
    share = re.search(r"flops:? ([\d.]+)% \([\d.]+ MFLOPs\)", printed)
    assert float(share[1]) <= 25
    assert re.search(r"\boptimal\b", printed)
    assert f"{tmp_path}/policy_config.json" in printed.replace(" ", "")


def test_show_draws_the_policy_and_says_where_it_came_from(opsearch, folder, tmp_path):
    figure = tmp_path / "drawn.svg"
    code, printed, said = opsearch("show", folder, "--figure", figure)
    assert (code, said) == (0, "")
    for part in ("dop(", "0 5 10", "cls", "objective: joint", "cost: flops"):
        assert part in printed
    assert figure.read_text().startswith("<?xml")
    assert opsearch("show", folder / "policy_config.json")[1] in printed


def test_show_resolves_for_a_sample(opsearch, tmp_path):
    builders.tokens(4, "1/3", RankerSpec("cls")).save_pretrained(tmp_path)
    assert re.search(r"kv ▃ ▃ ▃ ▃ [^▁-█]*33%", opsearch("show", tmp_path)[1])
    assert re.search(r"kv ▄ ▄ ▄ ▄ [^▁-█]*50%", opsearch("show", tmp_path, "--visual-tokens=2")[1])


def test_show_lists_the_counts_of_a_sample(opsearch, tmp_path):
    policy = builders.fitprune({0: 300, 3: 1}, 6, 576)
    policy.save_pretrained(tmp_path)
    printed = opsearch("show", tmp_path, "--visual-tokens=576")[1]
    assert "layers" not in opsearch("show", tmp_path)[1]
    tables = re.findall(r"([\d-]+) +(\d+) +(\d+) +(\d+) ", printed)
    found = np.zeros((6, 3), int)
    for layers, *counts in tables[-5:]:
        first, _, last = layers.partition("-")
        found[int(first) : int(last or first) + 1] = list(map(int, counts))
    assert np.array_equal(found, policy.executed(576))
    assert {"576", "1-2"} <= set(printed.split())


def test_compare_prints_methods_by_budgets(opsearch, tmp_path):
    assert opsearch("run", *FEW, "--evaluations=12", "--out", tmp_path)[0] == 0
    given = "--budget=30%", "--samples=15", "--ranker=random(seed=3)", "--effort=0"
    code, printed, said = opsearch("compare", tmp_path, *given)
    assert code == 0
    assert "tokens random(seed=3) " in printed
    for method in ("dop additive", "depth joint", "tokens random", "FastV like"):
        assert re.search(method + r" \d+\.\d \(\d+-\d+\)", printed)
    assert re.search(r"Rel\. Avg\. .*\b15\b.*\b95 %.*\b30% ", printed)
    assert re.search(r"/\d+ [^/]*\b15\b", said)
    assert opsearch("analyze", "pareto", tmp_path, "--out", tmp_path / "again")[0] == 0
    assert (tmp_path / "again" / "pareto.csv").read_text() == (tmp_path / "pareto.csv").read_text()
    assert re.search(naming("rank", 2), error(opsearch("analyze", "rank", tmp_path, tmp_path)))
    assert re.search(naming("'ranks'", "rank,"), error(opsearch("analyze", "ranks", tmp_path)))


def test_dry_run_measures_nothing(opsearch, tmp_path):
    code, printed, _ = opsearch("run", *FEW, "--dry-run", "--out", tmp_path / "run")
    assert code == 0
    assert re.search(r"joint: \d+ .*\b3\b.* [\d,]+ .* [\d.]+ GFLOPs", printed)
    assert not (tmp_path / "run").exists()
    code, printed, _ = opsearch("run", "--dry-run", "--shape=llava-next-7b")
    assert code == 0
    assert re.search(naming("1.978%"), printed)


def test_a_dry_run_of_a_known_shape_counts_its_tower(opsearch):
    known = PREFILLS["qwen2.5-vl-7b"]
    floor = known.whole_floor
    of_decoder = (0.5 - known.tower_share) / (1 - known.tower_share)
    shape = ("run", "--dry-run", "--shape=qwen2.5-vl-7b", "--space=dop")
    code, printed, _ = opsearch(*shape, "--budget=50%prefill")
    assert code == 0
    assert re.search(naming("vision tower", f"{100 * floor:.4g}%"), printed)
    assert re.search(rf"prefill budget 50% .*, {100 * of_decoder:.4g}% of the decoder", printed)
    below = error(opsearch(*shape, "--budget=25%prefill"))
    assert re.search(naming("no policy saves", "vision tower", f"{100 * floor:.4g}%"), below)


def test_eval_prints_families_and_rel_avg(opsearch, folder):
    code, printed, _ = opsearch("eval", folder, "--samples=15")
    assert code == 0
    assert "family original policy" in printed
    assert all(family in printed for family in FAMILIES)
    assert re.search(r"Rel\. Avg\. [\d.]+% .*\b15\b.*\b15\b.* \d+\b", printed)


def test_eval_shows_how_many_samples_a_ratio_is_of():
    families = ("count",) * 4 + ("color",) * 20
    original = Answers(("",) * 24, np.array([1.0] + [0.0] * 3 + [1.0] * 20), families)
    policy = Answers(("",) * 24, np.array([1.0, 1.0] + [0.0] * 2 + [1.0] * 20), families)
    console = Console(file=StringIO(), width=200)
    print_scores(Scores(original, policy, dropped=0), console)
    printed = console.file.getvalue()
    assert re.search(r"count +25\.0% +50\.0% +200\.0% +4\b", printed)
    assert re.search(r"color +100\.0% +100\.0% +100\.0% +20\b", printed)
    assert re.search(naming("1 family has", "20 samples", "--samples"), printed)
    for scores in (original, policy):
        rest = Answers(scores.texts[4:], scores.scores[4:], scores.families[4:])
        console = Console(file=StringIO(), width=200)
        print_scores(Scores(rest, rest, dropped=0), console)
        assert "--samples" not in console.file.getvalue()


def test_report_writes_the_page_again_and_prints_its_path(opsearch, folder):
    page = (folder / "report.html").read_text()
    given = f"opsearch run {' '.join(FEW)} --objective=joint --complete --out {folder}"
    assert given in page
    (folder / "report.html").unlink()
    assert opsearch("report", folder) == (0, f"{folder}/report.html", "")
    assert (folder / "report.html").read_text() == page


def test_list_names_every_part(opsearch):
    code, printed, _ = opsearch("list")
    assert code == 0
    for name in ("grid", "ortools", "scipy", "optuna", "additive", "joint", "depth", "stages"):
        assert f" {name} " in printed
    for name in ("flops", "kv", "latency", "cls", "random", "uniform"):
        assert f" {name} " in printed
    assert re.match(r"solvers .*\bgrid ", opsearch("list", "solvers")[1])
    baselines = opsearch("list", "baselines")[1]
    names = ("dop additive", "SPACE joint", "VTW", "ShortV", "GSOP", "pool")
    assert all(f" {name} " in baselines for name in names)
    assert "builders.fastv(32)" in baselines
    models = opsearch("list", "models")[1]
    for size in (each.hub_id for each in CHECKPOINTS.values()):
        assert models.count(f" {size} ") == 1
    assert re.search(r"llava-hf/llava-onevision-qwen2-7b-ov-hf 28 .*\b3584\b.*\b7371\b", models)


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []], ids=str)
def test_help_lists_the_commands(opsearch, arguments):
    _, printed, _ = opsearch(*arguments)
    for command in ("run", "solve", "report", "show", "generate", "serve", "eval", "list"):
        assert f" {command} " in printed


@pytest.mark.parametrize(
    "command", ["run", "solve", "front", "show", "generate", "serve", "eval", "list"]
)
def test_every_command_has_help(opsearch, command):
    code, printed, _ = opsearch(command, "-h")
    assert code == 0
    assert f"{command} [OPTIONS]" in printed


def test_help_loads_no_heavy_library():
    check = (
        "import sys; sys.argv = ['opsearch', '--help']; from opsearch.commands.cli import call;"
        "assert call(['--help']) == 0;"
        "heavy = {'torch', 'transformers', 'ortools', 'optuna', 'pandas', 'matplotlib', 'numpy'};"
        "sys.exit(sorted(heavy & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_show_loads_no_model_library(folder):
    check = (
        "import sys; from opsearch.commands.cli import call;"
        "assert call(['show', sys.argv[1]]) == 0;"
        "sys.exit(sorted({'torch', 'transformers'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", check, folder], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# An error is one sentence: the value, the reason, the next step

UNKNOWN = [
    (["run", "--solver=x"], ("'x'", "bisection", "greedy", "grid", "local")),
    (["run", "--objective=x"], ("'x'", "additive", "attention")),
    (["run", "--space=x"], ("'x'", "depth", "dop", "layers", "operations")),
    (["run", "--ranker=x"], ("'x'", "cdpruner", "cls", "divprune", "fastv")),
    (["run", "--ranker=vispruner(imp=2)"], ("vispruner(imp=2)", "important")),
    (["run", "--ranker=cdpruner(clip=/nope)"], ("clip=/nope", "CLIP")),
    (["run", "--ranker=x=1"], ("'x=1'", "NAME(PARA")),
    (["list", "x"], ("'x'", "baselines", "costs", "models", "objectives", "rankers")),
]


@pytest.mark.parametrize(("arguments", "values"), UNKNOWN, ids=lambda value: str(value)[:40])
def test_unknown_names_list_what_exists(opsearch, tmp_path, arguments, values):
    out = ["--out", tmp_path / "x"] if arguments[0] == "run" else []
    assert re.search(naming(*values), error(opsearch(*arguments, *out)))


@pytest.mark.parametrize("command", ["run", "eval"])
def test_an_unknown_model_says_what_can_be_given(opsearch, folder, tmp_path, command):
    target = ["--out", tmp_path / "x"] if command == "run" else [folder]
    sentence = error(opsearch(command, *target, "--model=nowhere"))
    assert re.search(naming("'nowhere'", "demo"), sentence)


def test_an_unknown_split_lists_the_splits(opsearch, folder):
    sentence = error(opsearch("eval", folder, "--split=dev"))
    assert re.search(naming("'dev'", "train", "calibration", "held-out", "test"), sentence)


BAD = [
    (["--samples=0"], ("--samples 0", 1)),
    (["--dtype=int8"], ("--dtype 'int8'", "'float32'", "'bfloat16'", "'float16'")),
    (["--kv=flees"], ("--kv 'flees'", "'leaves'", "'stays'")),
    (["--memory=lots"], ("--memory 'lots'", "8GB")),
    (["--n-v=2"], ("--n-v '2'", 0, 1)),
    (["--n-v="], ("--n-v", "1/4")),
    (["--groups=1/4,1"], ("--groups 1/4,1", "--space operations", "'dop'")),
    (["--space=operations", "--groups=1/4, 1/8, 1"], ("--groups '1/4, 1/8, 1'", "1/8")),
    (["--budget=much"], ("'much'", "30%")),
    (["--budget=0%"], ("'0%'", "30%")),
    (["--budget=120%"], ("'120%'", "30%")),
    (["--budget=30%", "--budget=2M"], ("flops", "30%, 2M")),
    (["--budget=9T"], ("'9T'", "30%")),
    (["--solver=ortools", "--objective=joint"], ("'ortools'", "'joint'", "--solver grid")),
    (["--solver=threshold", "--objective=joint"], ("'threshold'", "'joint'", "--solver grid")),
    (["--solver=threshold", "--objective=joint"], ("--solver grid", "--objective additive")),
    (["--solver=threshold", "--objective=pairwise"], ("--solver optuna", "additive")),
    (["--solver=scipy", "--objective=joint", "--space=layers"], ("--solver greedy", "local")),
    (["--solver=local", "--objective=additive", "--space=layers"], ("'local'", "--solver optuna")),
    (["--device=abacus", "--heldout=0", "--samples=2"], ("abacus",)),
    (["--data=none.jsonl"], ("none.jsonl", "No such file or directory")),
]


@pytest.mark.parametrize(("arguments", "values"), BAD, ids=lambda value: str(value)[:40])
def test_bad_options_of_run(opsearch, tmp_path, arguments, values):
    assert re.search(naming(*values), error(opsearch("run", "--out", tmp_path / "x", *arguments)))


def test_an_unknown_option_is_a_usage_error(opsearch):
    code, printed, said = opsearch("run", "--frobnicate")
    assert (code, printed) == (2, "")
    assert "--frobnicate" in said
    assert "run -h" in said


def test_an_impossible_budget_is_answered_before_the_model_is_loaded(opsearch, tmp_path):
    code, _, said = opsearch("run", *FEW, "--budget=1%", "--out", tmp_path / "x")
    assert code == 1
    assert not re.search(r"\b2/\d ", said)  # where the model is loaded
    given = r"error: .*\b1% \([\d.]+ MFLOPs\) .*\bflops\b.* dop \(.*\)"
    assert re.search(given + r".* [\d.]+% \(.*\) to 100%; .*--budget [\d.]+%$", said)


# Data


@pytest.fixture
def data(tmp_path):
    """A function that writes items, each one changed, and gives the options to run on them."""

    def written(count=4, **changes):
        rows = []
        for i, item in enumerate(embedded("train", count) if count else []):
            item.images[0].save(tmp_path / f"{i}.png")
            row = {"image": f"{i}.png", "question": item.question, "answer": item.answers[0]}
            rows.append(json.dumps({**row, "family": item.family, **changes}))
        (tmp_path / "items.jsonl").write_text("\n".join(rows))
        options = ["--samples=2", "--n-v=.5", "--objective=additive", "--out", tmp_path / "out"]
        return ["--data", tmp_path / "items.jsonl", *options]

    return written


def test_a_missing_image_is_named(opsearch, data):
    sentence = error(opsearch("run", *data(image="gone.png")))
    assert re.search(r"\bitems/\d\b.*gone\.png", sentence)


def test_a_corrupt_image_is_named(opsearch, data, tmp_path):
    (tmp_path / "bad.png").write_text("no picture")
    sentence = error(opsearch("run", *data(image="bad.png")))
    assert re.search(r"\bitems/\d\b.*bad\.png.*\(.+\)", sentence)


def test_an_empty_data_set_is_named(opsearch, data):
    sentence = error(opsearch("run", *data(0)))
    assert re.search(naming("items.jsonl", "JSON object"), sentence)


def test_a_question_with_an_image_token_is_named(opsearch, data):
    """The processor would take it for one more picture."""
    sentence = error(opsearch("run", *data(question="what is <image> here?")))
    assert re.search(r"\bitems/\d\b.*<image>", sentence)


@pytest.mark.parametrize("family", ["[/bold]", "[red]hats", r"a\[b", "two words"])
def test_names_of_families_are_printed_as_they_are(opsearch, data, family):
    code, printed, said = opsearch("run", *data(family=family))
    assert code == 0, said
    assert re.search(rf" {re.escape(family)} [\d.]+ [\d.]+ ", printed)


def test_a_folder_name_is_printed_as_it_is(opsearch, tmp_path):
    builders.identity(LAYERS).save_pretrained(tmp_path)
    figure = tmp_path / "a[red]" / "b.svg"
    _, printed, _ = opsearch("show", tmp_path, "--figure", figure)
    assert str(figure) in printed.replace(" ", "")


# Policies


def policy_file(folder, **changes):
    """A run's policy with some entries changed, in a folder of its own."""
    Policy(
        builders.tokens(changes.pop("layers", LAYERS), "1/2").counts,
        rankers=((0, RankerSpec("cls")),),
        **changes,
    ).save_pretrained(folder)
    return folder


def test_a_policy_for_another_family_is_refused(opsearch, tmp_path):
    sentence = error(opsearch("eval", policy_file(tmp_path, model_type="qwen2_5_vl")))
    assert re.search(naming("'qwen2_5_vl'", "'llava'"), sentence)


def test_a_policy_for_another_number_of_layers_is_refused(opsearch, tmp_path):
    sentence = error(opsearch("eval", policy_file(tmp_path, layers=5)))
    assert re.search(naming("5 layers", 12, "--model"), sentence)


@pytest.mark.parametrize("command", ["show", "eval"])
def test_a_truncated_policy_is_refused(opsearch, tmp_path, command):
    path = policy_file(tmp_path) / "policy_config.json"
    path.write_text(path.read_text()[:150])
    sentence = error(opsearch(command, tmp_path))
    assert re.search(naming(path, "`opsearch solve"), sentence)


@pytest.mark.parametrize("command", ["show", "eval"])
def test_a_missing_policy_is_named(opsearch, tmp_path, command):
    sentence = error(opsearch(command, tmp_path / "none"))
    assert re.search(naming(f"{tmp_path}/none", "policy_config.json"), sentence)


@pytest.mark.parametrize("text", ["[/bold] mine", "[red]mine", "mine [1]"])
def test_what_a_policy_file_says_is_printed_as_it_is(opsearch, tmp_path, text):
    code, printed, said = opsearch(
        "show", policy_file(tmp_path, name=text, provenance={"by": text})
    )
    assert code == 0, said
    assert printed.startswith(text)
    assert printed.endswith(f"by: {text}")


@pytest.mark.parametrize("count", [0, -3])
def test_show_needs_at_least_one_visual_token(opsearch, tmp_path, count):
    code, printed, said = opsearch("show", policy_file(tmp_path), f"--visual-tokens={count}")
    assert (code != 0, printed) == (True, "")
    assert re.search(naming("--visual-tokens", 1), said)


def test_a_figure_of_an_unknown_kind_is_refused(opsearch, tmp_path):
    code, _, said = opsearch("show", policy_file(tmp_path), "--figure", tmp_path / "a.doc")
    assert code == 1
    assert "--debug" not in said
    assert "svg" in said


# Run folders


def test_a_folder_without_a_run_is_named(opsearch, tmp_path):
    sentence = error(opsearch("solve", tmp_path))
    assert f"{tmp_path}/run.yaml" in sentence


def test_a_report_on_no_run_is_one_sentence(opsearch, tmp_path):
    sentence = error(opsearch("report", tmp_path / "none"))
    assert f"{tmp_path}/none/run.yaml" in sentence
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_written_is_named(opsearch, tmp_path):
    (tmp_path / "file").write_text("")
    sentence = error(opsearch("run", *FEW, "--out", tmp_path / "file"))
    assert re.search(naming(f"{tmp_path}/file", "--out"), sentence)


def test_a_damaged_store_is_named(opsearch, folder, tmp_path):
    (tmp_path / "run.yaml").write_text((folder / "run.yaml").read_text())
    (tmp_path / "measurements.db").write_text("damaged")
    sentence = error(opsearch("solve", tmp_path))
    assert re.search(naming(f"{tmp_path}/measurements.db", "file is not a database"), sentence)


# The exit code and the traceback


def test_debug_shows_the_traceback(folder):
    command = [sys.executable, "-m", "opsearch", "show", folder / "none"]
    plain = subprocess.run(command, capture_output=True, text=True)
    debug = subprocess.run([*command, "--debug"], capture_output=True, text=True)
    assert (plain.returncode, debug.returncode) == (1, 1)
    assert plain.stderr.startswith("error: ")
    assert len(plain.stderr.splitlines()) == 1
    assert "Traceback (most recent call last)" in debug.stderr
    assert "PolicyError" in debug.stderr


def test_ctrl_c_is_told_that_nothing_is_lost(opsearch, folder, monkeypatch):
    """Ctrl-C while a command works, wherever it is at that moment."""

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Policy, "from_pretrained", interrupt)
    code, printed, said = opsearch("show", folder)
    assert (code, printed) == (130, "")
    assert said
    assert "error" not in said


def full_device():
    raise torch.OutOfMemoryError("the device is full")


def full_driver():
    raise RuntimeError("CUDA error: out of memory")


TOO_MUCH = 2**50  # elements: more than a process can address


@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        (full_device, r"the device is full"),
        (full_driver, r"CUDA error: out of memory"),
        (lambda: torch.empty(TOO_MUCH), r"[\w ']+: you tried to allocate \d+ bytes\..*"),
        (lambda: np.empty(TOO_MUCH), r"Unable to allocate .*"),
        (lambda: bytearray(2**62), r"no message"),
    ],
    ids=["device", "driver", "torch on the CPU", "numpy", "python"],
)
def test_memory_that_runs_out_is_no_defect(opsearch, folder, monkeypatch, fail, reason):
    monkeypatch.setattr(Policy, "from_pretrained", lambda path: fail())
    said = error(opsearch("bench", folder))
    assert re.search(rf"\({reason}\).* --dtype bfloat16\b.* --memory\b", said)


def test_eval_loads_the_attention_that_is_asked_for(opsearch, folder, monkeypatch):
    loaded = []
    monkeypatch.setattr(
        "opsearch.models.loading.load_weights",
        lambda *asked: loaded.append(load_weights(*asked)) or loaded[0],
    )
    code, printed, _ = opsearch("eval", folder, "--samples=5", "--attention=eager")
    assert code == 0
    assert loaded[0].config.get_text_config()._attn_implementation == "eager"
    assert opsearch("eval", folder, "--samples=5")[1] == printed


def test_an_attention_that_cannot_run_is_refused(opsearch, folder):
    said = error(opsearch("eval", folder, "--attention=flash"))
    assert re.search(
        naming("--attention 'flash'", "'sdpa'", "'eager'", "'flash_attention_2'"), said
    )
    said = error(opsearch("eval", folder, "--attention=flash_attention_2"))
    assert re.search(naming("float32", "--dtype bfloat16"), said)


@pytest.mark.parametrize("command", ["run", "eval", "bench"])
def test_a_device_without_memory_is_refused(opsearch, folder, tmp_path, command):
    target = ["--out", tmp_path / "x"] if command == "run" else [folder]
    said = error(opsearch(command, *target, "--device=meta"))
    assert re.search(naming("'meta'", "--device cpu"), said)
