"""RunConfig: the settings of `opsearch run`, which run.yaml stores for --config."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from opsearch.adaptive.load import load_method
from opsearch.data.item import SAMPLES
from opsearch.errors import PATH, OpsearchError, PolicyError, RunFolderError, echo, shortened
from opsearch.files import write_text
from opsearch.formatting import on_screen, parse_memory
from opsearch.models.spec import ModelSpec
from opsearch.policy.counts import parse_share
from opsearch.policy.ranker import parse_ranker, ranker_as_registered
from opsearch.problem.spaces.base import STAGES
from opsearch.problem.spaces.operations import check_groups
from opsearch.rankers import known_ranker, make_ranker
from opsearch.registry import as_registered
from opsearch.runs.run_folder import RunFolder, folder_of

IN_MEMORY = "items in memory"
"""`data` of a run whose items came from Python, and not from a file."""
AS_OBJECT = " (an object)"
"""End of `space` in a run whose space was an object from Python, and not a name."""
_STANDARD = ("16", "8")  # numbers of standard shares n_v
_DIGITS = 12  # of a number in the settings, at most
_LAST = "out"  # last setting of the file, so that its absence shows a truncated file


SHARES = "shares"
"""The space that is searched where nothing is said of the space, the objective or the solver."""
SHARES_SAMPLES = 1024
_OWN_SOLVER = "gradient"
_OF_OTHERS = (
    *("objective", "solver", "kv", "stages", "tie", "groups", "n_v"),
    *("points", "pairs", "verify", "evaluations", "complete"),
)


def default_space(given: Mapping[str, Any]) -> str:
    """Return the space of settings that name none.

    It is `shares`, and `dop` where an objective, a solver other than its own, a setting of another
    space, or a ranker is given whose order depends on the number of tokens or arises inside the
    decoder.

    Args:
        given: Settings by name, not yet checked; those with their default value do not count.
    """
    fields = RunConfig.model_fields
    if str(given.get("solver")).casefold() == _OWN_SOLVER:
        return SHARES
    named = (given.get(name, fields[name].default) != fields[name].default for name in _OF_OTHERS)
    return "dop" if any(named) or not _nested(given.get("ranker")) else SHARES


def _nested(ranker: Any) -> bool:
    """Return whether a ranker orders tokens before the decoder, equally for all their numbers."""
    if not isinstance(ranker, str):
        return True
    spec = parse_ranker(ranker)
    known_ranker(spec)  # which names those inside the decoder, too
    return not spec.inside and make_ranker(spec).nested


class RunConfig(BaseModel):
    """Settings of a run, as options and run.yaml give them.

    Attributes:
        model: `demo`, a local folder, or a hub id.
        dtype: Precision of the weights.
        device: Torch device, or `auto` for all GPUs.
        attention: Attention implementation.
        data: Data file, or `lmms:TASK`; None: the embedded tasks.
        samples: Number of calibration samples; None: by the space, see `drawn_samples`.
        heldout: Number of held-out samples; none shares an image or a group with a calibration
            sample.
        seed: Draws the samples and seeds the solver.
        space: Space of policies, with parameters where it takes some.
        kv: `leaves` or `stays`, for the space dop.
        stages: Maximum number of stages, for the space stages.
        keep: Operations that are never pruned, e.g. `0,1:mlp`.
        tie: `q=kv`, for the space layers.
        groups: Rising shares of the visual tokens, 1 the last, for the space operations; None:
            1/4 and 1.
        n_v: Shares of the visual tokens: 16 or 8 standard ones, or a list.
        ranker: Ranker of the visual tokens; None: that of the model's family, or divprune in the
            space shares where the family's is not nested.
        budget: One budget per cost.
        images: Image settings to search among, as shares of the visual tokens that the processor
            makes by itself.
        objective: None: chosen by the time that measuring takes.
        points: Values that the additive proxy measures per parameter; None: all.
        pairs: Pairs that the pairwise proxy measures: adjacent, all, or a number.
        positions: Answer tokens over which KL is averaged.
        solver: None: chosen by the form of the objective.
        verify: Proposals of a proxy that are measured per round; 0: none.
        evaluations: Maximum number of measured policies; None: the solver's default.
        effort: Seconds of measurement that the joint objective may take by default; None: by the
            time of a forward, 60 for the embedded model.
        complete: Measure every feasible policy on all samples, also those that cannot be the best.
        memory: Memory for the states of one pass, e.g. 8GB; None: by the device.
        answer_tokens: Maximum number of tokens per answer; None: by the accepted answers.
        out: Run folder; by default that of the model, e.g. runs/demo.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = "demo"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "cpu"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    data: Path | None = None
    samples: int | None = Field(None, ge=1, lt=10**_DIGITS)
    heldout: int = Field(300, ge=0, lt=10**_DIGITS)
    seed: int = Field(0, ge=0, lt=10**_DIGITS)
    space: str = "dop"
    kv: Literal["leaves", "stays"] = "leaves"
    stages: int = Field(STAGES, ge=1, le=3)
    keep: str | None = None
    tie: Literal["q=kv"] | None = None
    groups: tuple[str, ...] | None = None
    n_v: tuple[str, ...] | Literal["16", "8"] = "16"
    ranker: str | None = None
    budget: tuple[str, ...] = ("30%",)
    images: tuple[str, ...] = ("1",)
    objective: str | None = None
    points: int | None = Field(None, ge=2, lt=10**_DIGITS)
    pairs: str = "adjacent"
    positions: int = Field(1, ge=1, lt=10**_DIGITS)
    solver: str | None = None
    verify: int = Field(0, ge=0, lt=10**_DIGITS)
    evaluations: int | None = Field(None, ge=1, lt=10**_DIGITS)
    effort: float | None = Field(None, ge=0)
    complete: bool = False
    memory: str | None = None
    answer_tokens: int | None = Field(None, ge=1, lt=10**_DIGITS)
    out: Path = Field(default_factory=lambda data: Path("runs") / Path(data["model"]).name)

    @field_validator("n_v", "groups", "budget", "images", mode="before")
    @classmethod
    def _as_texts(cls, value: Any, field: ValidationInfo) -> Any:
        """Take one value or several, texts or numbers, as YAML and Python write them."""
        if isinstance(value, str | int | float | Fraction):
            value = [value] if field.field_name == "budget" else str(value).split(",")
        elif not isinstance(value, list | tuple):
            return value
        texts = tuple(str(each).strip() for each in value)
        standard = field.field_name == "n_v" and len(texts) == 1 and texts[0] in _STANDARD
        return texts[0] if standard else texts

    @field_validator("space", "objective", "solver")
    @classmethod
    def _in_any_case(cls, value: str | None, field: ValidationInfo) -> str | None:
        return None if value is None else as_registered(f"{field.field_name}s", value)

    @field_validator("ranker")
    @classmethod
    def _ranker_in_any_case(cls, value: str | None) -> str | None:
        return None if value is None else ranker_as_registered(value)

    @field_validator("n_v", "groups", "images")
    @classmethod
    def _shares(cls, value: Any, field: ValidationInfo) -> Any:
        for text in () if isinstance(value, str | None) else value:
            try:
                share = parse_share(text)
            except ValueError as error:
                raise ValueError(
                    f"{echo(text)} is not a share such as 0.25, 1/4 or 25%: it {error}"
                ) from None
            if not 0 < share <= 1:
                nor = f", nor alone a number of standard shares ({' or '.join(_STANDARD)})"
                alone = nor if field.field_name == "n_v" else ""
                raise ValueError(f"{shortened(text)} is not a share above 0 and up to 1{alone}")
        return value

    @field_validator("groups")
    @classmethod
    def _nested(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None:
            check_groups(tuple(map(parse_share, value)))
        return value

    @field_validator("images")
    @classmethod
    def _some_images(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        shares = sorted({parse_share(text) for text in value}, reverse=True)
        if len(shares) < len(value) or not shares:
            raise ValueError("is empty or names a share twice; give shares such as 1,1/2,1/4")
        return tuple(map(str, shares))

    @field_validator("budget")
    @classmethod
    def _some_budget(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("at least one budget is needed, e.g. 30%")
        return value

    @field_validator("pairs")
    @classmethod
    def _which_pairs(cls, value: str) -> str:
        counted = value.isdecimal() and len(value) <= _DIGITS and int(value)
        if value not in ("adjacent", "all") and not counted:
            raise ValueError("is not adjacent, all, or a number such as 500")
        return value

    @field_validator("memory")
    @classmethod
    def _an_amount(cls, value: str | None) -> str | None:
        if value is not None:
            parse_memory(value)
        return value

    def __repr__(self) -> str:
        return on_screen("RunConfig", dict(self))

    __str__ = __repr__

    @property
    def drawn_samples(self) -> int:
        """Number of calibration samples to draw.

        Steps of gradient descent take a few of them at a time, so that many cost little there.
        """
        usual = SHARES_SAMPLES if self.searches_shares else SAMPLES
        return usual if self.samples is None else self.samples

    @property
    def searches_shares(self) -> bool:
        """True if the space is `shares`."""
        return self.space == SHARES

    @property
    def model_spec(self) -> ModelSpec:
        """The model to load and its settings."""
        return ModelSpec(self.model, self.dtype, self.device, self.attention)

    @property
    def memory_bytes(self) -> int | None:
        """Bytes for the states of one pass; None: by what the device has."""
        return None if self.memory is None else parse_memory(self.memory)

    @property
    def results_of(self) -> dict[str, Any]:
        """Settings that results depend on, without the run folder and the folder of the data."""
        settings = self.model_dump(mode="json", exclude={"out"})
        return settings | {"data": self.data.name if self.data else None}

    def save(self, path: Path) -> Path:
        """Write run.yaml."""
        return write_text(path, yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))

    @classmethod
    def load(cls, path: Path) -> RunConfig:
        """Read run.yaml; RunFolderError when it is missing, truncated or malformed.

        Settings missing from the file take the defaults of the command line.
        """
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunFolderError(
                f"{path} does not exist; give the folder of an earlier run"
            ) from None
        except (OSError, ValueError, yaml.YAMLError) as error:
            reason = shortened(error, PATH)
            raise RunFolderError(
                f"{path} cannot be read ({reason}); run `opsearch run` again"
            ) from error
        if not isinstance(raw, dict):
            raise RunFolderError(f"{path} is empty or truncated; run `opsearch run` again")
        if unknown := [shortened(name) for name in raw if name not in cls.model_fields]:
            raise RunFolderError(
                f"{path} has the unknown setting {shortened(', '.join(unknown), PATH)}, which is "
                "misspelt or of another version; remove it and run again"
            )
        try:
            config = cls(**{"space": default_space(raw), **raw})
        except ValidationError as error:
            raise RunFolderError(f"{path} is not valid: {explain(error)}") from error
        # A file cut at the end of a line is still YAML, and defaults would hide what is lost.
        if _LAST not in raw:
            raise RunFolderError(
                f"{path} lacks its last setting {_LAST}; if the file was truncated, run `opsearch "
                f"run` again, and if you wrote it, add the run folder, e.g. {_LAST}: runs/mine"
            )
        return config

    @classmethod
    def checked(cls, **values: Any) -> RunConfig:
        """Return a config from options; raise OpsearchError, naming the option, if one is wrong."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise OpsearchError(explain(error, "--")) from error

    def changed(self, **values: Any) -> RunConfig:
        """Return these settings with some changed; raise OpsearchError as `checked` does."""
        return RunConfig.checked(**self.model_dump() | values)


def explain(error: ValidationError, prefix: str = "") -> str:
    """Return the first validation error as one sentence."""
    problem = error.errors()[0]
    name = str(problem["loc"][0]).replace("_", "-" if prefix else "_")
    reason = problem["msg"].removeprefix("Value error, ")
    given = problem["input"]
    several = isinstance(given, tuple | list)
    shown = shortened(",".join(map(shortened, given))) if several else echo(given)
    step = "`opsearch run --help` describes it" if prefix else f"change {name} there"
    return f"{prefix}{name} {shown}: {reason}; {step}"


def policy_settings(
    path: Path | None,
    *,
    model: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    attention: str | None = None,
) -> RunConfig:
    """Return the given settings, completed from the run.yaml next to a policy or by defaults.

    Args:
        path: A run folder, a policy's file, or the folder of a policy set; None: no policy.
        model: Model, if given.
        dtype: Data type, if given.
        device: Device, if given.
        attention: Attention implementation, if given.

    Raises:
        PolicyError: The policy was searched on another model than that of the run.yaml.
        OpsearchError: A setting is wrong.
    """
    options = {"model": model, "dtype": dtype, "device": device, "attention": attention}
    given = {name: value for name, value in options.items() if value is not None}
    if path is None or given == options:
        return RunConfig.checked(**given)
    searched = load_method(path).provenance.get("model")
    file = RunFolder(folder_of(path)).config
    if not file.exists():
        return RunConfig.checked(**given)
    run = RunConfig.load(file)
    if model is None and searched not in (None, run.model):
        raise PolicyError(
            f"the policy was searched on {echo(searched, PATH)}, but {file} belongs to a run on "
            f"{echo(run.model, PATH)}; give --model, --dtype, --device and --attention"
        )
    return run.changed(**given)
