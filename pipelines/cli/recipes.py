"""The recipes that come with rm-rec: YAML files that a job's `--config` may name without a path."""

import difflib
from pathlib import Path

import pipelines
from pipelines.errors import SettingsError

RECIPES = Path(pipelines.__path__[0]) / "recipes"


def recipe_names() -> list[str]:
    """List the recipes that come with rm-rec, by the names that `find_recipe` takes.

    >>> [name for name in recipe_names() if name in ("quickstart", "models/din_50")]
    ['quickstart', 'models/din_50']
    """
    files = sorted(RECIPES.rglob("*.yaml"), key=lambda file: (len(file.relative_to(RECIPES).parts), file))
    return [file.relative_to(RECIPES).with_suffix("").as_posix() for file in files]


def find_recipe(given: str) -> Path:
    """Return the file that `--config` means: an existing file, else the recipe of that name.

    What ends in .yaml or .yml is always a path. Raises SettingsError where a name is neither a file nor a recipe.
    """
    path = Path(given)
    if path.suffix in (".yaml", ".yml") or (path.exists() and not path.is_dir()):  # a pipe of the shell is a file too
        return path
    names = recipe_names()
    if given in names:
        return RECIPES / f"{given}.yaml"
    near = difflib.get_close_matches(given, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"give a YAML file, or one of {', '.join(names)}"
    raise SettingsError(f"{given}: neither a file nor a recipe that comes with rm-rec; {hint}")
