"""From a recipe and raw data sets to shards: draw examples, lay them out, describe the result."""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from stretto.config import Recipes, dump
from stretto.errors import ConfigError, InputError
from stretto.streams import sgd
from stretto.streams.alignment import Lag, align, audit, single
from stretto.streams.arrival import PREFILLED, random_arrival, ticks
from stretto.streams.examples import GENERATED, Example, load_examples, task_names
from stretto.streams.sets import stream_set, union
from stretto.streams.shards import Sample, Shards, load_shards, save_shards
from stretto.streams.statistics import Statistics
from stretto.streams.table import StreamTable
from stretto.streams.tokens import StreamCodec

_LAGS: dict[Lag, float] = {0: 0.15, 1: 0.4, 2: 0.15, 3: 0.1, "all": 0.2}


@dataclass(frozen=True)
class Source:
    """A share of a recipe.

    Attributes:
        task: name of a task, or ``sgd``.
        set: stream set of its tables; ``agent`` is for ``sgd`` and only for it.
        count: tables to make.
        file: raw data, relative to the source folder; none for a generated task.
        skip: examples of the task left to other sources, so that they share none.
        repeat: tables made of one example, each with another lag and arrival.
        lags: share of each lag; they need not add up to 1.
        error_rate: share of audit tables with a planted error.
    """

    task: str
    set: Literal["read", "audit", "agent"]
    count: int
    file: str | None = None
    skip: int = 0
    repeat: int = 1
    lags: dict[Lag, float] = field(default_factory=lambda: dict(_LAGS))
    error_rate: float = 0.0

    def __post_init__(self) -> None:
        if (self.task == "sgd") != (self.set == "agent"):
            raise ConfigError(f"{self.task}: set agent is for task sgd, and only for it")
        if self.task not in (*task_names(), "sgd"):
            raise ConfigError(f"no task {self.task!r}; choose from {', '.join(task_names())}, sgd")
        if (self.file is None) != (self.task in GENERATED):
            reason = "it is generated, drop file" if self.file else "file is missing"
            raise ConfigError(f"{self.task}: {reason}")
        if self.count < 1 or self.skip < 0 or self.repeat < 1:
            raise ConfigError(f"{self.task}: count and repeat start at 1, skip at 0")
        if not self.lags or min(self.lags.values()) < 0 or sum(self.lags.values()) <= 0:
            raise ConfigError(f"{self.task}: lags need weights from 0 on, not all of them 0")
        if not 0 <= self.error_rate <= 1 or (self.error_rate and self.set != "audit"):
            raise ConfigError(f"{self.task}: error_rate lies in 0 to 1 and is for the set audit")


@dataclass(frozen=True)
class Recipe:
    """What data to build.

    Attributes:
        sources: shares of the mixture, in order.
        like: name of a shipped recipe whose sources and limits are taken.
        single: write each example as one ordinary stream; agent dialogues are left out.
        max_cells: longer tables are dropped (judged before ``single``: both drop the same).
    """

    sources: tuple[Source, ...] = ()
    like: str | None = None
    single: bool = False
    max_cells: int = 768

    def __post_init__(self) -> None:
        if bool(self.sources) == bool(self.like):
            raise ConfigError("a data recipe has either sources or like")
        if self.max_cells < 16:
            raise ConfigError(f"max_cells: must be at least 16, got {self.max_cells}")


_RECIPES = Recipes(Recipe, "data", ("stretto.streams", "recipes"))


def recipe_names() -> list[str]:
    """Names of the data recipes that ship with stretto."""
    return _RECIPES.names()


def load_recipe(name_or_path: str) -> Recipe:
    """A shipped recipe by name, or a YAML file; ``like`` is resolved.

    Raises:
        ConfigError: as :meth:`Recipes.load`.
    """
    recipe = _RECIPES.load(name_or_path)
    if recipe.like is None:
        return recipe
    model = load_recipe(recipe.like)
    return replace(model, single=recipe.single)


def build(
    recipe: str | Recipe,
    folder: str | Path,
    *,
    codec: StreamCodec,
    source: str | Path | None = None,
    seed: int = 0,
    limit: int | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Build shards.

    Args:
        recipe: shipped name, YAML path, or the recipe itself.
        folder: where to; see :mod:`stretto.streams.shards`.
        codec: the tokeniser.
        source: folder of the raw files that the recipe names.
        seed: of the choice of examples, lags, arrivals and errors.
        limit: the most tables a source, for a quick look.
        report: told of each source when it is done.

    Returns:
        the manifest; ``statistics`` is in it.

    Raises:
        ConfigError: the recipe is faulty, or needs ``source``.
        InputError: a raw file is missing or malformed.
    """
    name = recipe if isinstance(recipe, str) else "custom"
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    sources = [s for s in recipe.sources if not (recipe.single and s.set == "agent")]
    if limit is not None:
        sources = [replace(s, count=min(s.count, limit)) for s in sources]
    set_names = ["single"] if recipe.single else list(dict.fromkeys(s.set for s in sources))
    sets = {set_name: stream_set(set_name) for set_name in set_names}
    inventory = union(sets.values())
    samples: list[Sample] = []
    statistics, dropped = Statistics(), 0
    for part in sources:
        kept = 0
        for table, alone in _tables(part, recipe, codec, source, seed):
            if len(table.cells()) > recipe.max_cells:
                dropped += 1
                continue
            table = table if alone is None else alone
            statistics.add(table)
            samples.append(Sample.of(table, inventory))
            kept += 1
        report(f"{part.task} ({part.set}): {kept} tables")
    about = {
        "recipe": {"name": name, **dump(replace(recipe, sources=tuple(sources)))},
        "seed": seed,
        "tokenizer_sha256": hashlib.sha256(codec.tokenizer_json.encode()).hexdigest(),
        "dropped": dropped,
        "statistics": statistics.summary(),
    }
    return save_shards(Path(folder), samples, inventory, codec.special, sets, about)


def _tables(
    part: Source, recipe: Recipe, codec: StreamCodec, source: str | Path | None, seed: int
) -> Iterator[tuple[StreamTable, StreamTable | None]]:
    """Tables of one source, each with its single-stream twin if that is what is wanted."""
    path = _path(part, source)
    if part.task == "sgd":
        assert path is not None
        yield from ((table, None) for table in _dialogues(part, path, codec, seed))
        return
    examples = _draw(part, path, seed)
    for i, example in enumerate(examples * part.repeat):
        if i == part.count:
            return
        rng = random.Random(f"{seed} {part.set} {example.id} {i}")
        table = _lay_out(part, example, codec, rng)
        yield table, single(example, codec) if recipe.single else None


def _lay_out(part: Source, example: Example, codec: StreamCodec, rng: random.Random) -> StreamTable:
    lag = rng.choices(list(part.lags), list(part.lags.values()))[0]
    arrival = random_arrival(rng)
    if part.set == "audit":
        return audit(example, codec, lag=lag, arrival=arrival, rng=rng, error_rate=part.error_rate)
    return align(example, codec, lag=lag, arrival=arrival, rng=rng)


def _path(part: Source, source: str | Path | None) -> Path | None:
    if part.file is None:
        return None
    if source is None:
        raise ConfigError(f"{part.task} needs {part.file}: give --source DIR with the raw data")
    return Path(source) / part.file


def _draw(part: Source, path: Path | None, seed: int) -> list[Example]:
    """The source's own examples; all sources of a task see them in the same order.

    Raises:
        InputError: there are too few.
    """
    wanted = -(-part.count // part.repeat)
    stop = part.skip + wanted
    examples = load_examples(part.task, path, limit=stop if path is None else None)
    if path is not None:
        random.Random(f"{seed} {part.task}").shuffle(examples)
    if len(examples) < stop:
        raise InputError(
            f"{part.task}: {stop} examples wanted (skip {part.skip}), but there are {len(examples)}"
        )
    return examples[part.skip : stop]


def _dialogues(part: Source, path: Path, codec: StreamCodec, seed: int) -> list[StreamTable]:
    """Tables of dialogues spread evenly over the file, which is sorted by service."""
    try:
        with path.open("rb") as lines:
            num_dialogues = sum(1 for _ in lines)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    every = max(1, num_dialogues // (part.skip + part.count))
    tables = list(sgd.tables(path, codec, seed=seed, arrival=_burst_sizes, every=every))
    random.Random(f"{seed} sgd").shuffle(tables)
    chosen = list(islice(tables, part.skip, part.skip + part.count))
    for table in chosen:
        table.meta["set"] = "agent"
    return chosen


def _burst_sizes(num_tokens: int, rng: random.Random) -> list[int]:
    """A user turn is never known before it begins, so it is not ``prefilled``."""
    arrival = random_arrival(rng)
    while arrival == PREFILLED:
        arrival = random_arrival(rng)
    return ticks(num_tokens, arrival, rng)


__all__ = [
    "Recipe",
    "Sample",
    "Shards",
    "Source",
    "build",
    "load_recipe",
    "load_shards",
    "recipe_names",
]
