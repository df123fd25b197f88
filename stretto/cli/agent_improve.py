"""``stretto agent improve``: a model tries, what ran rightly is learnt; before and after."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from stretto.cli.output import console


def improve(
    *,
    model: str = "smollm2-135m",
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("runs/improve"),
    resume: bool = False,
    problems: int = 320,
    held_back: int = 192,
    samples: int = 4,
    temperature: float = 0.8,
    rounds: int = 1,
    epochs: float = 3,
    learning_rate: float = 5e-4,
    bfcl: Path | None = None,
    backend: str = "auto",
    sandbox: Literal["auto", "bubblewrap", "landlock"] = "auto",
    seed: int = 0,
) -> None:
    """Let a model learn to fill the arguments of tools from its own attempts.

    It writes calls for generated requests; those that run to the right result in the sandbox are
    what it is tuned on. Other tools and requests, never trained on, tell what it was worth. Takes
    about a quarter of an hour on two idle cores; Ctrl-C stops, --resume goes on.

    Args:
        model: with one stream; its tuned form is written to ROUND/train/model in the run folder.
        output: run folder.
        resume: go on with the run in that folder, with the same settings.
        problems: requests to train on.
        held_back: requests to measure with.
        samples: attempts at each request, in each round.
        temperature: of the attempts.
        rounds: of attempts and tuning.
        epochs: times a round goes through what is learnt.
        learning_rate: of the adapter.
        bfcl: folder of BFCL data, measured before and after as well.
        backend: of the engine.
        sandbox: which one runs the calls.
        seed: of everything drawn.
    """
    from stretto.evals.improve import ImproveConfig
    from stretto.evals.improve import improve as run

    config = ImproveConfig(
        model=model,
        backend=backend,
        problems=problems,
        held_back=held_back,
        samples=samples,
        temperature=temperature,
        rounds=rounds,
        epochs=epochs,
        learning_rate=learning_rate,
        bfcl=bfcl,
        sandbox=sandbox,
        seed=seed,
    )
    try:
        report = run(config, output, resume=resume, tell=lambda line: console.print(
            line, highlight=False))  # fmt: skip
    except KeyboardInterrupt:
        arguments = sys.argv[1:] if "--resume" in sys.argv else [*sys.argv[1:], "--resume"]
        print(f"stretto: interrupted; go on with {shlex.join(['stretto', *arguments])}",
              file=sys.stderr)  # fmt: skip
        sys.exit(130)
    print(report, end="")
