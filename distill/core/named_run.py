"""The run that a person names: by its folder, or by the recipe that made it."""

from pathlib import Path

from distill.core.run_folder import RunFolder
from distill.errors import MissingError, nearest_names
from distill.recipe import Recipe, load_recipe

SHOWN_RUNS = 5


def open_run(run: str) -> tuple[Recipe, RunFolder]:
    """Return the recipe and the folder of a run, given as either.

    Raises MissingError, naming what is near, where there is neither.
    """
    path = Path(run).expanduser()
    if path.is_file():
        recipe = load_recipe(path)
        return recipe, RunFolder.of(recipe)
    if (path / "recipe.yaml").is_file():
        folder = RunFolder(path.resolve())
        recipe = load_recipe(folder.path / "recipe.yaml", [f"run_folder={folder.path}"])
        return recipe, folder
    raise MissingError(f"{path}: neither a run folder nor a recipe; {_known_runs(path)}")


def _known_runs(path: Path) -> str:
    """Return the run that a path may have meant, or some that are there."""
    recipes = (*Path("runs").glob("*/recipe.yaml"), *path.parent.glob("*/recipe.yaml"))
    folders = {recipe.parent.name: recipe.parent for recipe in recipes}
    near = nearest_names(path.name, folders)
    if near:
        return f"did you mean {folders[near[0]]}?"
    shown = [str(folder) for folder in folders.values()][:SHOWN_RUNS]
    return f"known: {', '.join(shown) or 'no run'}"
