"""A kind that names a class of a package: its keys are its own, and layers of config join them all the same."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import ConfigDict, Field, PlainValidator

from pipelines.cli import load_settings
from pipelines.errors import SettingsError
from rm_rec.config.base import Settings


def write(folder: Path, text: str, name: str = "a.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


class Named(Settings):
    kind: str


class AnyClass(Named):
    """Somebody's class."""

    model_config = ConfigDict(extra="allow")


def read(value: dict[str, Any]) -> Named:
    kinds: dict[str, type[Named]] = {"mean_pool": KnownMean}
    return kinds.get(value["kind"], AnyClass).model_validate(value)


class KnownMean(Named):
    """Averages."""

    kind: Literal["mean_pool"] = "mean_pool"
    decay: float = 0.5


class Open(Settings):
    machine: Annotated[KnownMean | AnyClass, PlainValidator(read)] = KnownMean()
    sources: dict[str, Annotated[AnyClass, PlainValidator(read)]] = Field(default_factory=dict)
    """Further ones."""


def opened(*argv: str) -> Open:
    return load_settings(Open, argv, prog="python -m open", description="Opens.")


def dumped(*argv: str) -> dict[str, Any]:
    return opened(*argv).machine.model_dump()


def test_a_kind_that_names_a_class_takes_any_keys_and_the_later_layer_wins(tmp_path: Path) -> None:
    file = write(tmp_path, "machine: {kind: 'acme.m:Fading', num: 3, inner: {a: 1, b: 2}, names: [x]}")
    assert dumped("--config", file) == {
        "kind": "acme.m:Fading",
        "num": 3,
        "inner": {"a": 1, "b": 2},
        "names": ["x"],
    }
    own = ("--machine.num", "4", "--machine.inner.b", "true", "--machine.names", "[y, 1]", "--machine.rate=0.5")
    assert dumped("--config", file, *own) == {
        "kind": "acme.m:Fading",
        "num": 4,
        "inner": {"a": 1, "b": True},
        "names": ["y", 1],
        "rate": 0.5,
    }
    assert dumped("--machine.kind", "acme.m:Fading", "--machine.num", "4") == {"kind": "acme.m:Fading", "num": 4}
    assert dumped("--config", file, "--machine.kind", "acme.m:Other") == {"kind": "acme.m:Other"}
    assert dumped("--config", file, "--machine.kind", "mean_pool") == {"kind": "mean_pool", "decay": 0.5}
    later = write(tmp_path, "machine: {kind: 'acme.m:Fading', num: 9}", "later.yaml")
    assert dumped("--config", file, "--config", later)["num"] == 9


def test_a_block_that_a_user_names_is_joined_like_any_other(tmp_path: Path) -> None:
    file = write(tmp_path, "sources: {counts: {kind: 'acme:Counts', size: 1, decay: 2}, other: {kind: 'acme:Other'}}")
    own = ("--sources.counts.size", "7", "--sources.third.kind", "acme:Third", "--sources.other", "null")
    found = {name: source.model_dump() for name, source in opened("--config", file, *own).sources.items()}
    assert found == {"counts": {"kind": "acme:Counts", "size": 7, "decay": 2}, "third": {"kind": "acme:Third"}}
    changed = opened("--config", file, "--sources.counts.kind", "acme:Mine").sources["counts"]
    assert changed.model_dump() == {"kind": "acme:Mine"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--machine.kind", "mean"],
            "machine.kind = 'mean' (command line): must be one of mean_pool, package.module:C",
        ),
        (["--machine.kind", "acme:M", "--machine.num"], "--machine.num needs a value (command line)"),
        (["--machine.num", "3"], "machine.num (command line): machine of kind mean_pool has no such key; it has kind,"),
        (["--sources.counts.size", "3"], "sources.counts.kind (command line): must be package.module:Class"),
        (
            ["--sources.counts.kind", "counts"],
            "sources.counts.kind = 'counts' (command line): must be package.module:Cl",
        ),
        (["--sources", "3"], "sources = 3: must be a valid dictionary"),
    ],
)
def test_a_mistake_about_a_class_is_one_line(argv: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        opened(*argv)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_help_says_that_a_kind_may_name_a_class(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        opened("--help")
    text = capsys.readouterr().out
    assert "--machine.kind (one of mean_pool, package.module:Class; default mean_pool)" in text
    assert "kind package.module:Class: Somebody's class.\n    --machine.KEY (a value in YAML: 3, true, [a, b])" in text
    assert "--sources.NAME.kind (package.module:Class)" in text
