"""A town hall: all villagers speak at once, as streams of one multi-stream model.

The moderator's stream brings the report; each villager is an output stream of the same model, and
a row gives a token of each who speaks. So a meeting takes as many rows as its longest speech, where
turns take as many as all speeches together; what is said is another thing, for nobody waits to hear
the others out.

It is a way to talk, and no more: what villagers decide they decide as before, by the models of
their seats. **No checkpoint of stretto is trained for town halls.** The stream sets are there
(``townhall:N``), training data are not; a model that does not know the streams is refused.
"""

from collections import Counter
from typing import Any, Protocol

from stretto.commons.seeds import seed_of
from stretto.commons.villager import Answer, Ask, News, Question, Situation
from stretto.errors import ConfigError, StrettoError
from stretto.protocols import Session
from stretto.streams.sets import townhall
from stretto.streams.stream import StreamSet

NAME = "Town hall"
MODERATOR = "moderator"


class Hall(Protocol):
    """A multi-stream model that can be opened with a set of its streams, as an ``Engine`` can."""

    @property
    def streams(self) -> StreamSet:
        """All that it knows."""
        ...

    def open(self, streams: str, *, prompts: Any = None, seed: int = 0) -> Session:
        """A session with the streams of a set."""
        ...


class TownHall:
    """Who answers the question ``townhall``: everybody's speech of a meeting at once.

    Args:
        hall: speaks for all.
        villagers: how many can be there, newcomers too.
        rows: most in a meeting.
        seed: of the sampling, with the month.

    Raises:
        ConfigError: the model lacks the streams of a town hall of so many.
    """

    name = NAME

    def __init__(self, hall: Hall, villagers: int, *, rows: int = 200, seed: int = 0) -> None:
        known = {stream.name for stream in hall.streams}
        lacking = [stream.name for stream in townhall(villagers) if stream.name not in known]
        if lacking:
            raise ConfigError(
                f"talk: townhall: the model knows no stream {', '.join(lacking)}; train one with "
                f"the stream set townhall:{villagers} (none is shipped), or take talk: meeting"
            )
        self._hall, self._rows, self._seed = hall, rows, seed
        self.model = str(getattr(hall, "name", "stream model"))
        self.scripted = bool(getattr(hall, "scripted", False))

    async def answer(self, question: Question, situation: Situation) -> Answer:
        """``rows`` that it took, and by stream ``said`` and ``tokens``."""
        # The framework's view of a village has a column for each who is there.
        count = situation.view.demands.shape[1]
        said: Counter[str] = Counter()
        texts: dict[str, list[str]] = {f"villager_{i}": [] for i in range(1, count + 1)}
        rows = 0
        try:
            seed = seed_of(self._seed, "townhall", situation.month) % 2**31
            opened = self._hall.open(
                f"townhall:{count}", prompts={MODERATOR: question.text}, seed=seed
            )
            async with opened as session:
                session.close(MODERATOR)
                async for row in session:
                    rows += 1
                    said.update(name for name in row.tokens if name in texts)
                    for name, text in row.text.items():
                        if name in texts:
                            texts[name].append(text)
                    if rows >= self._rows:
                        session.cancel("long enough")
                        break
        except StrettoError as error:
            return Answer(None, "error", why=str(error), model=self.model, scripted=self.scripted)
        value = {
            "rows": rows,
            "said": {name: "".join(parts).strip() for name, parts in texts.items()},
            "tokens": {name: said[name] for name in texts},
        }
        return Answer(value, model=self.model, scripted=self.scripted)

    def see(self, news: News) -> None:
        """It hears only the moderator."""

    async def digest(self, ask: Ask, situation: Situation) -> None:
        """Nothing."""

    async def reflect(self, ask: Ask, situation: Situation) -> None:
        """Nothing."""
