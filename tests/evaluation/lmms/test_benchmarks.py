"""The thirteen benchmarks' real prompts, filters and metrics, on made data; no model is needed."""

import pytest

from opsearch.data.lmms import lmms_item, load_task
from opsearch.errors import DataError
from opsearch.evaluation.lmms.answering import build_requests, results
from opsearch.evaluation.lmms.benchmarks import BENCHMARKS, benchmark_of, task_name
from tests.evaluation.lmms.data import PER_TASK, SOURCES, examples, write_task
from tests.support.messages import naming

SINGLE_WORD = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
# End of the benchmark's prompt, after the question, and its figure when half the answers are
# right: MME adds 100 per pair that is right and 50 per question, in each of its two categories.
EXPECTED = {
    "textvqa": (SINGLE_WORD, 0.5),
    "vqav2": (SINGLE_WORD, 0.5),
    "gqa": (SINGLE_WORD, 0.5),
    "vizwiz": ("respond with 'Unanswerable'.\n" + SINGLE_WORD, 0.5),
    "scienceqa": ("A. north\nB. south\nC. west\nD. east\n" + LETTER, 0.5),
    "seedbench": ("D. option d\n" + LETTER, 0.5),
    "mme": (SINGLE_WORD, 200),
    "pope": (SINGLE_WORD, 0.5),
    "mmbench": ("D. option D\n\n" + LETTER, 50),
    "mmbench_cn": ("D. option D\n\n请直接使用所提供的选项字母作为答案回答。", 50),
    "ai2d": ("D. east\n" + LETTER, 0.5),
    "chartqa": ("Answer the question with a single word.", 0.5),
    "ocrbench": ("", 0.5),
}


@pytest.fixture(params=list(BENCHMARKS))
def name(request):
    return request.param


@pytest.fixture
def task(name, tmp_path):
    return load_task(task_name(write_task(tmp_path, name)))


def test_prompts_are_the_benchmarks_own(name, task):
    behind, _ = EXPECTED[name]
    for index, example in enumerate(examples(SOURCES[name].family)):
        item = lmms_item(task, index)
        assert example.question.casefold() in item.question.casefold()
        assert item.question.endswith(behind)
        (image,) = item.load_images()
        assert image.tobytes() == example.pixels.tobytes()


def test_right_answers_score_one_and_wrong_ones_zero(name, task):
    right = [example.answer for example in examples(SOURCES[name].family)]
    texts = [text if row < PER_TASK // 2 else "wrong" for row, text in enumerate(right)]
    benchmark = benchmark_of(task)
    for _ in range(2):  # OCRBench's own figure would add up
        found = results(task, build_requests(task, None), texts)
        assert [benchmark.sample(each) for each in found] == [1.0, 1.0, 0.0, 0.0]
        _, figure = EXPECTED[name]
        assert benchmark.figure(task, found) == pytest.approx(figure)


def test_a_limit_takes_the_first_documents(task):
    assert [request.doc_id for request in build_requests(task, 3)] == [0, 1, 2]


def test_videos_of_seed_bench_do_not_count(tmp_path):
    task = load_task(task_name(write_task(tmp_path, "seedbench")))
    said = {"pred": "A", "answer": "A", "question_id": "7"}
    assert benchmark_of(task).sample({"seed_video": said, "seed_all": said}) is None


def test_another_task_is_scored_by_its_mean_metric(tmp_path):
    name = write_task(tmp_path, "chartqa", task="mine")
    task = load_task(name.replace("chartqa", "mine"))
    benchmark = benchmark_of(task)
    assert (benchmark.task, benchmark.official) == ("mine", ("relaxed_overall",))
    assert benchmark.sample({"relaxed_overall": 1.0}) == 1.0
    for value in (7, "right", {"score": 1}):
        with pytest.raises(DataError, match=naming(repr(value), 0, 1)):
            benchmark.sample({"relaxed_overall": value})


def test_a_metric_that_cannot_be_averaged_is_named(tmp_path):
    name = write_task(tmp_path, "mme", task="mine")
    with pytest.raises(DataError, match=naming("mine", "mme_perception_score", "mme_cogn")):
        benchmark_of(load_task(name.replace("mme", "mine")))
