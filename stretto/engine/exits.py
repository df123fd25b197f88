"""Which exits of a model an engine uses, and what a draft by one costs."""

from typing import cast

from stretto.engine.backends import Backend
from stretto.engine.backends.drafting import Drafting
from stretto.engine.speculation import Speculation
from stretto.errors import ConfigError
from stretto.models import MultiStreamLM
from stretto.models.exits import ExitHead, Exits


def exit_shares(
    backend: Backend,
    lm: MultiStreamLM,
    exits: Exits | None,
    exit_layer: int | None,
    speculation: Speculation | None,
) -> dict[int, float]:
    """Give a back end the exits that it is to use.

    Returns:
        for each that may draft, its cost as a part of the whole model's: weights read.

    Raises:
        ConfigError: an exit is asked for that cannot be had, or speculation without the whole
            model.
    """
    wanted = [exit_layer] if exit_layer is not None else []
    if speculation is not None:
        if exit_layer is not None:
            raise ConfigError("exit_layer leaves no layers to check drafts: give no speculation")
        wanted = list(speculation.exit_layers or ())
        if "exit" not in speculation.drafters:
            return {}
    elif exit_layer is None:
        return {}
    offers = hasattr(backend, "set_exits")
    if wanted and not offers:
        raise ConfigError("this back end offers no exits: choose native")
    missing = set(wanted) - set(exits.heads if exits else ())
    if missing:
        known = ", ".join(map(str, exits.layers)) if exits else "none"
        raise ConfigError(f"no exit after layer {min(missing)}; the model's exits: {known}")
    if exits is None or not offers:
        return {}
    cast("Drafting", backend).set_exits(exits, lm)
    if exit_layer is not None:
        return {}
    layers = wanted or exits.layers
    return {layer: _share(lm, exits.heads[layer]) for layer in layers}


def _share(lm: MultiStreamLM, head: ExitHead) -> float:
    """Weights that a draft at an exit reads, over those of a whole step."""
    layers = lm.config.num_hidden_layers
    hidden = lm.stream_embedding.shape[1]
    unembedding = (lm.vocab_size + 2) * hidden
    decoder = lm.base.get_decoder()
    layer = sum(p.numel() for p in decoder.layers[0].parameters())
    adapter = 3 * head.inner * hidden + len(head.ids) * hidden
    return (head.layer * layer + adapter) / (layers * layer + unembedding)
