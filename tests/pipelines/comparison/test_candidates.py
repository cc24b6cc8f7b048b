"""A candidate is a name: what it means, how large its state is, and one line where it means nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from feature_store.errors import DataError
from pipelines.cli import load_settings
from pipelines.comparison.candidates import MODELS, RECIPES, candidate, check_names, log_file
from pipelines.comparison.names import short_name
from pipelines.errors import SettingsError
from pipelines.train_ctr import TrainCtr
from rm_rec.config import NoMachine, RehearsalConfig
from rm_rec.machines import MACHINES, build_machine
from rm_rec.machines.sizes import state_bytes

LOG, LOG_PATH = "delicious_tags", Path("logs/a.parquet")
MODEL_NAMES = sorted(file.stem for file in MODELS.glob("*.yaml"))


def settings_of(name: str, num_bytes: int = 2048, *arguments: str, log: str = LOG) -> TrainCtr:
    return candidate(name, log, LOG_PATH, num_bytes, arguments)


def recipe(*names: str) -> TrainCtr:
    files = [part for name in names for part in ("--config", str(RECIPES / f"{name}.yaml"))]
    return load_settings(TrainCtr, files, prog="", description="")


@pytest.mark.parametrize("name", sorted({*MACHINES, *MODEL_NAMES}))
def test_every_kind_and_every_model_fits_the_bytes(name: str) -> None:
    model = settings_of(name, 1500).model
    machine = build_machine(model.machine, model.token_dim)
    if machine is None:
        assert name in ("din_50", "din_full", "window_only")
        return
    found = state_bytes(machine)
    assert found <= 1500
    if machine.size_setting is not None:
        size = getattr(model.machine, machine.size_setting)
        larger = type(model.machine).model_validate(model.machine.model_dump() | {machine.size_setting: size + 1})
        grown = build_machine(larger, model.token_dim)
        assert grown is not None
        assert state_bytes(grown) > 1500


def test_a_kind_is_that_machine_in_the_logs_own_model() -> None:
    found, whole = settings_of("ntm").model, recipe(LOG).model
    assert found.machine.kind == "ntm"
    assert found.model_copy(update={"machine": whole.machine}) == whole


@pytest.mark.parametrize("name", ["din_50", "din_full", "tommy", "memnn"])
def test_a_model_is_its_recipe_over_the_logs(name: str) -> None:
    found, whole = settings_of(name).model, recipe(LOG, f"models/{name}").model
    assert found.model_copy(update={"machine": whole.machine}) == whole
    assert found.machine.kind == whole.machine.kind


def test_no_machine_stays_none() -> None:
    for num_bytes in (1, 4096):
        assert settings_of("din_full", num_bytes).model.machine == NoMachine()


def test_the_logs_recipe_and_path_are_taken(tmp_path: Path) -> None:
    found = settings_of("ntm", log="quickstart")
    whole = recipe("quickstart")
    assert found.data == whole.data.model_copy(update={"log": str(LOG_PATH)})
    mine = tmp_path / "mine.yaml"
    mine.write_text("data: {log: x/y.parquet, seed: 5}\n")
    assert settings_of("ntm", log=str(mine)).data.seed == 5


def test_a_file_lies_over_the_logs_recipe_and_arguments_over_both(tmp_path: Path) -> None:
    log, mine = tmp_path / "log.yaml", tmp_path / "mine.yaml"
    log.write_text("data: {log: a.parquet}\nmodel: {segment_length: 4, token_dim: 8}\ntraining: {epochs: 2}\n")
    mine.write_text("model: {segment_length: 16, machine: {kind: rum, slot_dim: 8}}\ntraining: {epochs: 3, seed: 9}\n")
    found = settings_of(str(mine), 512, "--training.epochs", "5", log=str(log))
    assert (found.model.token_dim, found.model.segment_length) == (8, 16)
    assert (found.training.epochs, found.training.seed) == (5, 9)
    assert (found.model.machine.kind, found.model.machine.num_slots) == ("rum", 32)  # type: ignore[union-attr]  # a rum


def test_rehearsal_is_off_unless_asked_for(tmp_path: Path) -> None:
    assert settings_of("ntm").rehearsal is None
    assert settings_of("ntm+rehearsal").rehearsal == RehearsalConfig()
    without = settings_of("rum+rehearsal")
    assert without.model_copy(update={"rehearsal": None}) == settings_of("rum")
    mine, off = tmp_path / "mine.yaml", tmp_path / "off.yaml"
    mine.write_text("rehearsal: {recollection_weight: 0.7}\nmodel: {machine: {kind: rum}}\n")
    off.write_text("rehearsal: null\nmodel: {machine: {kind: rum}}\n")
    assert settings_of(str(mine)).rehearsal is None
    assert settings_of(f"{mine}+rehearsal").rehearsal == RehearsalConfig(recollection_weight=0.7)
    assert settings_of(f"{off}+rehearsal").rehearsal == RehearsalConfig()


def test_rehearsal_that_does_not_fit_the_model_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("model: {token_dim: 30, machine: {kind: mean_pool}}\nrehearsal: {num_heads: 4}\n")
    assert settings_of(str(mine)).rehearsal is None
    with pytest.raises(SettingsError, match=r"rehearsal.num_heads is 4, which does not divide model.token_dim 30"):
        settings_of(f"{mine}+rehearsal")


def test_names_of_what_is_given_as_a_file() -> None:
    assert short_name("a/b/mine.yml") == "mine"
    assert short_name("a/b/mine.v2.yaml+rehearsal") == "mine.v2+rehearsal"
    assert short_name("ntm+rehearsal") == "ntm+rehearsal"
    assert short_name("din_50") == "din_50"


def check(logs: tuple[str, ...], names: tuple[str, ...], data: Path, num_bytes: int = 2048) -> None:
    check_names(logs, names, data, data / "out", num_bytes)


def assert_one_line(error: BaseException, *parts: str) -> None:
    text = str(error)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


@pytest.mark.parametrize("name", ["nmt", "no/such.yaml", "nmt+rehearsal"])
def test_an_unknown_candidate_is_told_what_there_is(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        check(("quickstart",), ("ntm", name), tmp_path)
    plain = name.removesuffix("+rehearsal")
    assert_one_line(
        caught.value,
        f"{plain}: no such candidate; expected a YAML file, package.module:Class, or one of ",
        "din_50",
        "ntm",
    )


def test_an_unknown_log_is_told_what_there_is(tmp_path: Path) -> None:
    for log in ("delicius", str(tmp_path / "none.yaml")):
        with pytest.raises(SettingsError) as caught:
            check((log,), ("ntm",), tmp_path)
        assert_one_line(caught.value, f"{log}: no such recipe; expected one of ", "delicious_tags, foursquare_nyc")


def test_a_log_that_is_not_there_is_named_with_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        check(("quickstart", LOG), ("ntm",), tmp_path)
    path = tmp_path / "delicious_tags.parquet"
    assert_one_line(
        caught.value,
        f"{path}: the log of {LOG} does not exist; expected delicious_tags.parquet in --data, {tmp_path}",
    )
    path.touch()
    check(("quickstart", LOG), ("ntm",), tmp_path)


def test_what_cannot_be_fitted_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        check(("quickstart",), ("din_50", "mimn"), tmp_path, 20)
    assert_one_line(caught.value, "mimn: machine mimn cannot be fitted to 20 bytes a user")


def test_a_candidates_broken_settings_are_named(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("model: {machine: {kind: rum, num_slotss: 4}}\n")
    with pytest.raises(SettingsError) as caught:
        check(("quickstart",), (str(mine),), tmp_path)
    assert_one_line(caught.value, f"({mine})", "num_slotss")


def test_the_made_log_is_made_only_where_none_is_given(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    assert log_file("quickstart", data, out) == out / "synthetic.parquet"
    assert log_file(LOG, data, out) == data / "delicious_tags.parquet"
    data.mkdir()
    (data / "synthetic.parquet").touch()
    assert log_file("quickstart", data, out) == data / "synthetic.parquet"


FADING = "acme_memory.machines:FadingMeanMachine"


def test_a_class_of_another_package_is_a_candidate_where_it_is_allowed(
    acme: Callable[[], bool], tmp_path: Path
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "delicious_tags.parquet").touch()
    with pytest.raises(SettingsError, match=f"{FADING}: machine.kind {FADING} needs code of package 'acme_memory'"):
        check_names([LOG], [FADING], tmp_path / "logs", tmp_path, 2048)
    assert not acme()
    check_names([LOG], [FADING], tmp_path / "logs", tmp_path, 2048, ["--allow_package=acme_memory,other"])
    found = settings_of(FADING, 512, "--allow_package", "acme_memory")
    assert found.model.machine.model_dump() == {"kind": FADING, "num_means": 7, "longest": 64.0}
    assert found.allow_package == ("acme_memory",)
    assert settings_of(f"{FADING}+rehearsal", 512, "--allow_package", "acme_memory").rehearsal is not None
