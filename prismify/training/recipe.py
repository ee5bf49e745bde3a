"""Read recipes: YAML in, checked dataclasses out, and back."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..checkpoint import Trust
from ..checkpoint.hub.names import hub_name
from ..checkpoint.shipped import folder_of, shipped_models
from ..errors import PlanError, RecipeError
from ..validation import build, shown
from .own import is_own, own_recipe, schema_of
from .plain_yaml import Word, as_declared, meant, read_text, read_yaml, yaml_text
from .schema import SCHEMAS, Data, ModelSource, Recipe

#: Where a recipe names a file or folder: section, key.
_PATHS = (
    ("data", "path"),
    ("data", "validation_path"),
    ("loss.lpips", "weights"),
    ("latents", "path"),
    ("condition", "encoder"),
)
_MODELS = ("model", "teacher", "autoencoder")
#: What only a person grants, and how.
_TRUST = {"trust_code": "--trust-code", "trust_pickle": "--trust-pickle", "allow": "--allow CLASS"}
#: What earlier versions called recipes of denoisers.
_EARLIER = ("latent_diffusion", "single_image")
NO_TRUST = Trust()
#: What stands for the bytes of a file's name that is no text.
_NO_TEXT = re.compile("[\ud800-\udfff]")


def shipped_configs() -> dict[str, Any]:
    """The recipes that come with prismify: name -> file."""
    folder = files("prismify.recipes").joinpath("configs")
    return {f.name.removesuffix(".yaml"): f for f in sorted(folder.iterdir(), key=lambda f: f.name)}


def read_recipe(path: str | Path, sets: Iterable[str] = (), *, trust: Trust = NO_TRUST) -> Recipe:
    """The recipe in a YAML file, or a shipped one by its name, with some values set otherwise.

    Relative paths in a file are looked up from the file's folder; those of a shipped recipe and of `sets` from
    the current one.

    Args:
        sets: `section.key=value`, the value as YAML.
        trust: what the person lets it do: a recipe of one's own is a function, which says what its file may say.

    Raises:
        SourceError: it names a function that is not trusted, or not there.
        RecipeError: there is no such file, it is not YAML, or says what no recipe knows.
    """
    file = Path(path)
    shipped = shipped_configs()
    if file.is_file():
        text, base = read_text(file), file.absolute().parent
    elif str(path) in shipped:
        text, base = shipped[str(path)].read_text(encoding="utf-8"), Path.cwd()
    elif file.is_dir():
        raise RecipeError(f"{path} is a folder: name the recipe in it, such as {file / 'recipe.yaml'}")
    else:
        raise RecipeError(f"{path}: no such file, and no recipe that prismify ships ({', '.join(shipped)})")
    sets = tuple(sets)
    said, changed = _emptied(_parse(text, str(path)), sets), _changes(sets)
    name = _resolved_name(said, base) if "recipe" not in changed else _resolved_name(changed, Path.cwd())
    schema = _schema_of(name, str(path), trust)
    content, changes = (as_declared(words, schema) for words in (said, changed))
    _resolve_paths(content, base)
    _resolve_paths(changes, Path.cwd(), by_a_person=True)
    return recipe_from(_merged(content, changes), str(path), schema=schema)


def recipe_from(content: dict[str, Any], where: str, *, schema: type[Recipe] | None = None) -> Recipe:
    """The recipe that plain data describe.

    Args:
        schema: what a recipe of one's own may say.

    Raises:
        RecipeError: a key is unknown, missing, or holds something else than it may.
    """
    name = content.get("recipe")
    if name in _EARLIER:
        raise RecipeError(
            f"{where}: recipe {name} was a sketch of recipe diffusion, with other settings: convert the model again "
            "for a recipe.yaml that trains it"
        )
    if not (is_own(name) and schema is not None):
        schema = SCHEMAS.get(name) if isinstance(name, str) else None
    if schema is None:
        raise RecipeError(f"{where}: recipe {shown(name)} is not one of {', '.join(SCHEMAS)}")
    content = _without_trust(content, where)
    try:
        return build(schema, content, where)
    except PlanError as error:
        raise RecipeError(str(error)) from error
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") if not str(error).startswith(where) else error from error


def recorded_recipe(content: dict[str, Any], where: str) -> Recipe:
    """The recipe that a run noted; the trust that earlier versions noted with it grants nothing.

    Raises:
        RecipeError: see `recipe_from`.
    """
    content = _dropping_trust(content)
    if not is_own(content.get("recipe")):
        return recipe_from(content, where)
    known = {field.name for field in dataclasses.fields(Recipe)}  # what is a function's own takes its code to read
    return recipe_from({key: value for key, value in content.items() if key in known}, where, schema=Recipe)


def recorded_data(content: dict[str, Any], where: str) -> dict[str, Any]:
    """The same as plain data, with what is a function's own as it was noted."""
    return {**_dropping_trust(content), **recipe_data(recorded_recipe(content, where))}


def read_recorded(file: Path) -> Recipe:
    """The recipe that a run wrote beside its results; see `recorded_recipe`."""
    said = _parse(read_text(file), str(file))
    name = as_declared(said.get("recipe"), str)
    content = as_declared(said, SCHEMAS.get(name, Recipe) if isinstance(name, str) else Recipe)
    _resolve_paths(content, file.absolute().parent)
    return recorded_recipe(content, str(file))


def changed_data(data: Data, sets: Iterable[str]) -> Data:
    """How images are read, with some values set otherwise.

    Args:
        sets: `data.key=value`, the value as YAML.

    Raises:
        RecipeError: another section is named, or what `data` does not know.
    """
    changes: dict[str, Any] = {}
    for change in sets:
        _set(changes, change)
        if set(changes) != {"data"} or not isinstance(changes["data"], dict):
            raise RecipeError(f"--set {change!r}: here only how images are read is set, as data.size=64")
    changed = as_declared(changes.get("data", {}), Data)
    try:
        return build(Data, {**_plain(dataclasses.asdict(data)), **changed}, "data")
    except PlanError as error:
        raise RecipeError(str(error)) from error


def named_references(sets: Iterable[str]) -> frozenset[str]:
    """The model references that a person wrote at the command line, as `read_recipe` resolves them."""
    found: list[Any] = []
    for schema in SCHEMAS.values():  # which of them is not known yet
        changes = as_declared(_changes(sets), schema)
        _resolve_paths(changes, Path.cwd(), by_a_person=True)
        tables = (changes[key] for key in _MODELS if isinstance(changes.get(key), dict))
        found += [changes.get("recipe"), *(table.get(name) for table in tables for name in ("source", "architecture"))]
    return frozenset(text for text in found if isinstance(text, str))


def recipe_data(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain data: every value, defaults too."""
    plain: dict[str, Any] = _plain(dataclasses.asdict(recipe))
    return plain


def asked_of(recipe: Recipe) -> dict[str, Any]:
    """What decides what a recipe finds, as plain data that JSON keeps: not where it is written, nor what is told."""
    asked = {key: value for key, value in recipe_data(recipe).items() if key not in ("output", "log", "checkpoint")}
    if recipe.data.path is not None:
        asked["data"] = {**asked["data"], "path": str(Path(recipe.data.path).absolute())}
    made: dict[str, Any] = json.loads(json.dumps(asked))
    return made


def recipe_yaml(recipe: Recipe) -> str:
    """A recipe as YAML: every value, defaults too."""
    return yaml_text(recipe_data(recipe))


def going_on(recipe: Recipe) -> Recipe:
    """The same training of the weights that it left in a folder, written there; whose images, a person says."""
    data = dataclasses.replace(recipe.data, path=None, validation_path=None, validation_select=None)
    output = f"runs/{Path(recipe.output).name}"
    return dataclasses.replace(recipe, model=ModelSource(source="."), data=data, output=output)


def changed_keys(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both values."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found |= changed_keys(old, new, f"{prefix}{key}.")
        elif old != new:
            found[f"{prefix}{key}"] = (old, new)
    return found


def _parse(text: str, where: str) -> dict[str, Any]:
    content = read_yaml(text, where)
    if not isinstance(content, dict):
        data = meant(content)
        found = "a list" if isinstance(data, list) else "empty" if data is None else shown(data)
        raise RecipeError(f"{where}: a recipe is a table of keys, this is {found}")
    _spell_out(content)
    return content


def _resolved_name(said: dict[str, Any], base: Path) -> Any:
    """What `recipe:` says, a Python file of a person's own looked for from `base`."""
    name = as_declared(said.get("recipe"), str)
    return _resolved_source(name, base) if is_own(name) else name


def _schema_of(name: Any, where: str, trust: Trust) -> type[Recipe]:
    """What the rest of a recipe must look like, where its name is known."""
    if is_own(name):
        return schema_of(own_recipe(name, where, trust), name)
    return SCHEMAS.get(name, Recipe) if isinstance(name, str) else Recipe


def _spell_out(content: dict[str, Any]) -> None:
    """`model: folder` is short for `model: {source: folder}`."""
    for key in _MODELS:
        if key in content:
            content[key] = _spelled_out(content[key])


def _spelled_out(model: Any) -> Any:
    is_word = isinstance(model, str) or (isinstance(model, Word) and model.value is not None)
    return {"source": model} if is_word else model


def _changes(sets: Iterable[str]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for change in sets:
        _set(changes, change)
    return changes


def _emptied(said: dict[str, Any], sets: Iterable[str]) -> dict[str, Any]:
    """What was said, without what is set to an empty mapping, as `model.arguments={}`: the rest is merged into it."""
    for change in sets:
        key, _, value = change.partition("=")
        if value.strip() == "{}":
            *sections, last = key.split(".")
            table: Any = said
            for section in sections:
                table = table.get(section) if isinstance(table, dict) else None
            if isinstance(table, dict) and isinstance(table.get(last), dict):
                table[last] = {}
    return said


def _without_trust(content: dict[str, Any], where: str) -> dict[str, Any]:
    """The recipe without keys by which files once trusted themselves.

    Raises:
        RecipeError: one of them is set.
    """
    tables: dict[str, Any] = {"": content, **{f"{key}.": content.get(key) for key in _MODELS}}
    for section, table in tables.items():
        for word, flag in _TRUST.items():
            if isinstance(table, dict) and table.get(word):
                raise RecipeError(
                    f"{where}: {section}{word} is for the person to say, not for a file: drop it, and give {flag} on "
                    "the command line"
                )
    return _dropping_trust(content)


def _dropping_trust(content: dict[str, Any]) -> dict[str, Any]:
    tables = {key: content[key] for key in _MODELS if isinstance(content.get(key), dict)}
    return {**content, **{key: {k: v for k, v in table.items() if k not in _TRUST} for key, table in tables.items()}}


def _set(content: dict[str, Any], change: str) -> None:
    key, equals, value = change.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {change!r} is not KEY=VALUE, such as train.batch_size=64")
    parsed = _value(value, change)
    *sections, last = key.split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise RecipeError(f"--set {change!r}: {section} is set as a whole already")
    content[last] = _spelled_out(parsed) if key in _MODELS else parsed


def _value(text: str, change: str) -> Any:
    if text[:1] in ("#", "*") or _NO_TEXT.search(text):
        return text  # a colour, a pattern, a file's name: to YAML a comment, an alias and an error
    try:
        return read_yaml(text, f"--set {shown(change)}")
    except RecipeError as error:
        if error.__cause__ is not None:
            raise RecipeError(f"--set {shown(change)}: the value is not YAML") from error
        raise


def _merged(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(content)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _resolve_paths(content: dict[str, Any], base: Path, *, by_a_person: bool = False) -> None:
    for section, key in _PATHS:
        table: Any = content
        for part in section.split("."):
            table = table.get(part) if isinstance(table, dict) else None
        if isinstance(table, dict) and isinstance(table.get(key), str):
            table[key] = str(base / table[key])
    if is_own(content.get("recipe")):
        content["recipe"] = _resolved_source(content["recipe"], base)
    if isinstance(content.get("output"), str):
        content["output"] = str(base / content["output"])
    for key in _MODELS:
        table = content.get(key)
        if isinstance(table, dict):
            for name in ("source", "architecture"):
                if isinstance(table.get(name), str):
                    table[name] = _resolved_source(table[name], base, by_a_person)


def _resolved_source(source: str, base: Path, by_a_person: bool = False) -> str:
    """A path from `base`; a reference to a Python file likewise; any other reference or name as it is.

    Where a person wrote it, a hub's repository becomes its folder here; no file makes prismify ask a hub.
    """
    prefix, colon, target = source.rpartition(":")
    if source in shipped_models() and not (base / source).exists():
        return source
    if by_a_person and not (base / source).exists() and hub_name(source) is not None:
        source = str(folder_of(source))
    if not colon:
        return str((base / source).resolve())
    return f"{base / prefix}:{target}" if prefix.endswith(".py") else source


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
