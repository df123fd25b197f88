"""``stretto models``: pull, list and show models."""

from typing import Annotated

from cyclopts import App, Parameter

from stretto.cli.output import console, emit
from stretto.models import store

app = App(name="models", help="Pull, list and show models.")

AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]


@app.command
def pull(
    name: Annotated[str, Parameter(help="A base model's name; see `stretto models list`.")],
    /,
    *,
    force: Annotated[
        bool, Parameter(negative="", help="Fetch it again even if it is here.")
    ] = False,
) -> None:
    """Fetch a base model into the cache, checked and converted; print its folder."""
    print(store.pull(name, force=force))


@app.command(name="list")
def list_(*, json: AsJson = False) -> None:
    """List the models that have a name: base models and the adapters shipped with stretto."""
    rows = store.list_models()
    if json:
        emit(rows, ["name", "kind", "in_cache", "bytes", "licence", "path"], "json")
        return
    for row in rows:
        row["in_cache"] = "yes" if row["in_cache"] else "no"
        row["size"] = "" if row["bytes"] is None else f"{row['bytes'] / 1e6:.1f} MB"
    emit(rows, ["name", "kind", "in_cache", "size", "licence", "path"], "table")


@app.command
def show(
    name: Annotated[str, Parameter(help="A model's name, hub name or folder.")],
    /,
    *,
    verify: Annotated[
        bool, Parameter(negative="", help="Read every file and compare it with its checksum.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Show what a model on this machine is: architecture, size, streams, licence, source."""
    facts = store.show(name)
    if verify:
        console.print(f"{store.verify(name)} files match their checksums", highlight=False)
    if json:
        emit([facts], list(facts), "json")
        return
    rows = [{"key": key, "value": value} for key, value in facts.items() if value is not None]
    emit(rows, ["key", "value"], "table")
