"""Loss curves of a training run as a picture, from its events."""

from pathlib import Path

from stretto.runs import Run


def plot_losses(run: Run, path: Path) -> None:
    """Draw content and silence loss, training and held out, over steps.

    Events that a resumed run wrote twice for a step count once, the last time. A model of one
    stream is never silent: its picture has one panel.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    by_step: dict[tuple[str, int], float] = {}
    for event in run.events("log"):
        for name in ("content", "silence", "eval_content", "eval_silence"):
            if event.get(name) is not None:
                by_step[name, event["step"]] = event[name]
    seen = {name.removeprefix("eval_") for name, _ in by_step}
    kinds = [kind for kind in ("content", "silence") if kind in seen] or ["content"]
    size = (4.5 * len(kinds), 3.2)
    figure, axes = pyplot.subplots(1, len(kinds), figsize=size, squeeze=False, layout="constrained")
    for axis, kind in zip(axes[0], kinds, strict=True):
        for name, style in ((kind, "-"), (f"eval_{kind}", "o-")):
            points = sorted((step, loss) for (n, step), loss in by_step.items() if n == name)
            if points:
                label = "held out" if name.startswith("eval") else "training"
                axis.plot(*zip(*points, strict=True), style, markersize=3, label=label)
        axis.set(title=f"{kind} loss", xlabel="optimiser step", ylabel="nats per token")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
        if kind == "silence":
            axis.set_yscale("log")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
