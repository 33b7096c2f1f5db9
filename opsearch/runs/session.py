"""A session: folder, model, store, workers and engine of one search, opened and closed together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opsearch.costs.shape import Shape
from opsearch.errors import RunFolderError
from opsearch.measure.engine import Engine
from opsearch.measure.planning.memory import memory_for
from opsearch.measure.storage.records import CALIBRATION, StoredSample
from opsearch.measure.storage.store import ENGINE_VERSION, Store
from opsearch.measure.workers.cluster import Workers, started
from opsearch.measure.workers.worker import WorkerModel
from opsearch.models.digests import processor_digest, settings_text
from opsearch.models.encoding import Sample
from opsearch.models.fingerprint import fingerprint
from opsearch.models.spec import ModelSpec
from opsearch.progress import Progress
from opsearch.runs.latency_file import write_table
from opsearch.runs.prepare import Prepared
from opsearch.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from opsearch.measure.workers.ray_workers import MeasureWorkers


@dataclass(frozen=True)
class Session:
    """The opened resources of a search, while its folder is locked.

    Attributes:
        folder: The run folder.
        engine: Measures with the model, and writes to the store.
        progress: Shows the stages.
    """

    folder: RunFolder
    engine: Engine
    progress: Progress

    @property
    def model(self) -> Any:
        """The loaded model."""
        return self.engine.model

    @property
    def store(self) -> Store:
        """The measurements of the run folder."""
        return self.engine.store


@contextmanager
def open_session(
    prepared: Prepared,
    folder: RunFolder,
    progress: Progress,
    workers: Workers | None = None,
    model: Any = None,
    *,
    continued: bool = False,
) -> Iterator[Session]:
    """Lock the folder, load the model, start the workers, and open the store.

    Args:
        prepared: The search.
        folder: Where the store is.
        progress: Shows the stages.
        workers: Processes that measure; None: this one does.
        model: A loaded model; None: loaded as the settings say. Workers load theirs by its name.
        continued: The measurements belong to the finished run of the folder, if there is one.

    Raises:
        RunFolderError: The folder is in use or cannot be written, or the run that is continued was
            measured with another model.
        ModelError: The model cannot be loaded, or workers load another one.
    """
    settings = prepared.settings
    spec = settings.model
    loaded = WorkerModel(spec, settings.positions)
    with folder.locked(), started(workers, loaded, progress.say) as measure_workers:
        if prepared.table is not None:  # so that runs and solves in this folder use the same
            write_table(prepared.table, folder.latency)
        if model is None:
            with progress.stage("loading the model"):
                model = spec.load()
                _meet(measure_workers, model)
        else:
            _meet(measure_workers, model)
        facts = measurement_facts(
            model, prepared.processor, spec, prepared.shape, settings.positions
        )
        if continued:
            _check_unchanged(folder, facts)
        with Store(folder.measurements, facts, folder.name) as store:
            memory = memory_for(model, settings.memory)
            engine = Engine(model, store, settings.positions, memory, progress.say, measure_workers)
            yield Session(folder, engine, progress)


def _meet(workers: MeasureWorkers | None, model: Any) -> None:
    """Wait for the first worker, if there are any; all must have loaded the same model."""
    if workers:
        workers.meet(fingerprint(model))


def _check_unchanged(folder: RunFolder, facts: dict[str, Any]) -> None:
    """Raise RunFolderError if the finished run of a folder was measured with other facts.

    Its samples and numbers would otherwise no longer be found: a folder shows its latest facts.
    """
    if not folder.measurements.exists():
        return
    with Store(folder.measurements, result=folder.name) as store:
        finished, before = store.samples(CALIBRATION), store.facts
    changed = [name for name, value in facts.items() if before.get(name) != value]
    if finished and changed:
        raise RunFolderError(
            f"{', '.join(changed)} changed since the run in {folder.path} (the model also with the "
            f"versions of torch and transformers); `opsearch run --config {folder.config}` "
            "measures it anew first"
        )


def measurement_facts(
    model: Any, processor: Any, spec: ModelSpec, shape: Shape, positions: int
) -> dict[str, Any]:
    """Return what the measurements of a store depend on, and what solving again needs.

    Args:
        model: The loaded model.
        processor: Its processor.
        spec: Its data type and attention implementation.
        shape: The decoder's dimensions, with the data type that the model runs in.
        positions: Number of answer tokens that are compared.
    """
    return model_facts(model, processor, spec) | {
        "positions": positions,
        "model_type": model.config.model_type,
        "shape": dataclasses.asdict(shape),
    }


def model_facts(model: Any, processor: Any, spec: ModelSpec) -> dict[str, Any]:
    """Return what every stored number and answer depends on, besides sample and policy."""
    return {
        "model": fingerprint(model),
        "dtype": spec.dtype,
        "attention": spec.attention,
        "processor": processor_digest(processor),
        "generation": _generation(model),
        "engine": ENGINE_VERSION,
    }


def _generation(model: Any) -> dict[str, Any]:
    """Return what answers depend on besides the weights and their maximum length.

    An answer is stored with its length, which tells under which maximum it would be the same.
    """
    settings = model.generation_config.to_diff_dict()
    settings.pop("transformers_version", None)  # part of the model's fingerprint
    return {"settings": settings_text(settings)}


def stored_samples(samples: Sequence[Sample]) -> list[StoredSample]:
    """Return samples as the store keeps them."""
    return [_stored(sample) for sample in samples]


def _stored(sample: Sample) -> StoredSample:
    return StoredSample(
        item=sample.digest,
        name=sample.item.id,
        family=sample.item.family,
        n_visual=sample.n_visual,
        n_other=sample.n_other,
        content=sample.content,
        image_flops=sample.image_flops,
        original=None if sample.original is None else _stored(sample.original),
    )
