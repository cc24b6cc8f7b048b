"""Layers of config: what wins, what a change of kind drops, and what each mistake says."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from pipelines.cli import flatten, load_settings, resolved
from pipelines.errors import SettingsError
from rm_rec.config.base import Settings


class Mean(Settings):
    """Averages."""

    kind: Literal["mean_pool"] = "mean_pool"
    decay: float = Field(0.5, ge=0, le=1)
    """Weight of the past."""


class Slots(Settings):
    """Writes to slots."""

    kind: Literal["slots"] = "slots"
    num_slots: int = Field(8, ge=1)
    """Rows of the state."""
    decay: float = 0.9


class Rehearsal(Settings):
    weight: float = 1.0


class Model(Settings):
    machine: Annotated[Mean | Slots, Field(discriminator="kind")] = Slots(num_slots=4)
    dim: int = Field(16, ge=1)


class Optimizer(Settings):
    lr: float = Field(0.001, gt=0, lt=1)
    """Step size."""
    schedule: Literal["none", "cosine"] = "none"


class Job(Settings):
    log: str
    """Where the events are."""
    model: Model = Model()
    optimizer: Optimizer = Optimizer(lr=0.01)
    rehearsal: Rehearsal | None = None
    columns: tuple[str, ...] = ()
    sizes: Annotated[tuple[int, ...], Field(min_length=1)] = (1,)
    weights: dict[str, float] = Field(default_factory=dict)
    path: Path | None = None
    shuffle: bool = False
    epochs: Annotated[int, Field(ge=1)] | None = None
    first: int = 0
    last: int = 9

    @model_validator(mode="after")
    def ordered(self) -> "Job":
        if self.first > self.last:
            raise ValueError("first must not be after last")
        return self


def load(*argv: str) -> Job:
    return load_settings(Job, ["--log", "x", *argv], prog="python -m job", description="Does it.")


def refused(*argv: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(*argv)
    return str(caught.value)


def write(folder: Path, text: str, name: str = "a.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_layers_merge_and_the_later_wins(tmp_path: Path) -> None:
    first = write(tmp_path, "optimizer: {lr: 0.1, schedule: cosine}\nmodel: {dim: 4}\nweights: {a: 1, b: 2}", "1.yaml")
    second = write(tmp_path, "optimizer: {lr: 0.2}\nweights: {b: 3}\nmodel:\n", "2.yaml")
    job = load("--config", first, "--optimizer.lr=0.3", f"--config={second}", "--weights.c", "4")
    assert (job.optimizer.lr, job.optimizer.schedule, job.model.dim) == (0.3, "cosine", 4)
    assert job.weights == {"a": 1, "b": 3, "c": 4}
    assert load("--config", second, "--config", first).optimizer.lr == 0.1


def test_a_default_block_keeps_its_own_values_when_another_key_is_given() -> None:
    assert load("--optimizer.schedule", "cosine").optimizer.lr == 0.01
    assert load("--model.machine.decay", "0.1").model.machine == Slots(num_slots=4, decay=0.1)


@pytest.mark.parametrize("order", [0, 1])
def test_a_new_kind_drops_the_keys_of_the_old_one_and_keeps_its_own(tmp_path: Path, order: int) -> None:
    file = write(tmp_path, "model: {machine: {kind: slots, num_slots: 3, decay: 0.7}, dim: 5}")
    own = ["--model.machine.kind", "mean_pool", "--model.machine.decay", "0.2"]
    job = load("--config", file, *(own if order else own[2:] + own[:2]))
    assert job.model == Model(machine=Mean(decay=0.2), dim=5)
    assert load("--config", file, *own[:2]).model.machine == Mean()
    same = load("--config", file, "--model.machine.kind", "slots")
    assert same.model.machine == Slots(num_slots=3, decay=0.7)


def test_a_key_of_another_kind_lists_the_keys_of_this_one(tmp_path: Path) -> None:
    file = write(tmp_path, "model: {machine: {kind: mean_pool, num_slots: 3}}")
    message = refused("--config", file)
    assert message == (
        f"model.machine.num_slots ({file}): model.machine of kind mean_pool has no such key; it has kind, decay"
    )
    assert "must be one of mean_pool, slots" in refused("--model.machine.kind", "mean")


def test_typed_text_stays_text_where_the_field_is_text() -> None:
    assert load("--log", "007").log == "007"
    assert load("--columns", "a,007", "--columns", "[yes]").columns == ("a", "007", "yes")
    assert load("--path", "1.50").path == Path("1.50")
    assert load("--path", "null").path is None
    assert load("--sizes", "1,2", "--sizes=3").sizes == (1, 2, 3)
    assert load("--optimizer.lr", "1e-3").optimizer.lr == 0.001
    assert load("--shuffle").shuffle
    assert load("--shuffle", "true").shuffle
    assert not load("--shuffle=false").shuffle
    assert load("--first", "-3").first == -3
    assert load("--epochs", "null").epochs is None
    assert load("--epochs", "2").epochs == 2


def test_an_optional_block_appears_with_a_key_and_goes_with_null(tmp_path: Path) -> None:
    file = write(tmp_path, "rehearsal: {weight: 3}")
    assert load().rehearsal is None
    assert load("--rehearsal.weight", "2").rehearsal == Rehearsal(weight=2)
    assert load("--config", file, "--rehearsal", "null").rehearsal is None


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--optimizr.lr", "1"], "optimizr (command line): unknown key; did you mean optimizer?"),
        (["--optimizer.lrr", "1"], "optimizer.lrr (command line): unknown key; did you mean optimizer.lr?"),
        (["--lr", "1"], "lr (command line): unknown key; did you mean optimizer.lr?"),
        (["--optimizer.lr", "1"], "optimizer.lr = 1 (command line): must be less than 1"),
        (["--optimizer.lr", "true"], "optimizer.lr = True (command line): must be a number"),
        (["--epochs", "0"], "epochs = 0 (command line): must be greater than or equal to 1"),
        (["--model.machine.num_slots", "0"], "model.machine.num_slots = 0 (command line): must be greater than or"),
        (["--sizes", "1,b"], "sizes = 'b' (command line): must be a valid integer"),
        (["--sizes", "[1,"], "sizes = '[1,' (command line): not YAML"),
        (["--sizes", "[]"], "sizes = [] (command line): must have 1 or more"),
        (["--columns", "[a"], "columns = '[a' (command line): the list has no closing bracket"),
        (["--optimizer", "3"], "optimizer = 3 (command line): a block: give its keys"),
        (["--optimizer.lr"], "--optimizer.lr needs a value (command line)"),
        (["--optimizer", "3", "--optimizer.lr", "1"], "optimizer.lr (command line): optimizer is already given a"),
        (["recipe.yaml"], "'recipe.yaml' is not expected here (command line): options are `--key value`"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml: cannot be read: No such file or directory"),
        (["--first", "10"], "first must not be after last"),
    ],
)
def test_each_mistake_is_one_line(argv: list[str], message: str) -> None:
    found = refused(*argv)
    assert found.startswith(message)
    assert "\n" not in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1\nc: 2", "FILE, line 3: broken YAML: "),
        ("- 1", "FILE: expected keys and values at the top, found a list"),
        ("log: 7", "log = 7 (FILE): must be a valid string; quote it"),
        ("optimizer.lr: 1", "optimizer.lr (FILE): unknown key; write it as nested blocks, without dots"),
        ("model: {machine: {kind: slots, decay: x}}", "model.machine.decay = 'x' (FILE): must be a valid number"),
    ],
)
def test_a_mistake_in_a_file_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load_settings(Job, ["--config", file, *([] if "log" in text else ["--log", "x"])], prog="p", description="d")
    assert str(caught.value).startswith(message.replace("FILE", file))


def test_several_mistakes_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(Job, ["--epochs", "0", "--nonsense", "1"], prog="p", description="d")
    lines = sorted(str(caught.value).splitlines())
    assert [line.split()[0].rstrip(":") for line in lines] == ["epochs", "log", "nonsense"]
    assert lines[1] == "log: required; give it in a --config file or as --log"


def test_help_lists_every_key_within_the_width(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load_settings(Job, ["--help"], prog="python -m job", description="Does it.")
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert max(map(len, text.splitlines())) <= 100
    assert text.index("python -m job --config recipe.yaml") < text.index("--log (text; required)")
    assert "--optimizer.lr (number; above 0; below 1; default 0.01)\n      Step size." in text
    assert "--model.machine.kind (one of mean_pool, slots; default slots)" in text
    assert "kind slots: Writes to slots.\n      --model.machine.num_slots (integer; at least 1; default 4)" in text
    assert "--epochs (integer or null; at least 1; default null)" in text
    assert "rehearsal: Off (null) by default." in text
    assert "--columns (a,b: list of text; default [])" in text


def test_resolved_and_flatten_are_plain() -> None:
    flat = flatten(resolved(load("--path", "a/b", "--columns", "x")))
    assert flat["model.machine.num_slots"] == 4
    assert flat["path"] == "a/b"
    assert flat["columns"] == '["x"]'
    assert flat["weights"] == "{}"
    assert flat["rehearsal"] is None


class Reserved(Settings):
    start_from: str | None = Field(None, alias="from")
    """Where to begin."""
    dry_run: bool = False


def test_a_key_that_python_reserves_is_an_alias_and_hyphens_are_underscores(capsys: pytest.CaptureFixture[str]) -> None:
    settings = load_settings(Reserved, ["--from", "here", "--dry-run"], prog="job", description="")
    assert (settings.start_from, settings.dry_run) == ("here", True)
    assert resolved(settings) == {"from": "here", "dry_run": True}
    with pytest.raises(SettingsError, match="start_from"):
        load_settings(Reserved, ["--start_from", "here"], prog="job", description="")
    with pytest.raises(SystemExit):
        load_settings(Reserved, ["--help"], prog="job", description="")
    assert "--from" in capsys.readouterr().out
