"""A villager whose answers come from a chat model.

Two profiles. ``paper``: memories with importance, two thoughts after each meeting, insights at the
end of each month (7n + 2 + u + nA requests a month, n villagers, u utterances, A insights each).
``lean``: one request a month, which gives the harvest, a message to the others and a note to
oneself; what was seen, heard and noted of late is shown in full, nothing is embedded.
"""

from collections.abc import Sequence
from datetime import date
from typing import Literal

from stretto.commons import prompts
from stretto.commons.answers import ask_model, together
from stretto.commons.calendar import first_day, last_day
from stretto.commons.memory import KEPT, Embedder, Memory, MemoryStream
from stretto.commons.seeds import seed_of
from stretto.commons.switches import Switches
from stretto.commons.villager import Answer, Ask, News, Question, Situation
from stretto.protocols import ChatModel, Message

Profile = Literal["paper", "lean"]
INSIGHTS = 3
LATEST = 40  # memories that a lean villager is shown
LARGE = 10**9  # beyond any rating; numbers stay numbers
# What is kept although what was seen is forgotten.
_LASTING = ("limit", "note", "arrival", "rule")
_THOUGHT = {
    "type": "object",
    "properties": {"thought": {"type": "string"}},
    "required": ["thought"],
}


class ChatVillager:
    """One seat, played by a model.

    Args:
        name: in the village.
        chat: answers.
        profile: how much it thinks.
        switches: the reference's defects.
        embedder: of its memories.
        act: what it does for a living, as in "catch"; what it thinks about.
        attempts: how often it is asked for a usable answer.
        timeout: seconds for each attempt; None: any.
        temperature: of its answers.
        max_tokens: of each answer.
        has_memory: without, it knows only what belongs to the present month, and does not think
            about what it will have forgotten.
        seed: of its model's sampling.
        voice: says its utterances instead of ``chat``.
    """

    def __init__(
        self,
        name: str,
        chat: ChatModel,
        *,
        embedder: Embedder,
        profile: Profile = "paper",
        switches: Switches | None = None,
        act: str = "harvest",
        attempts: int = 3,
        timeout: float | None = None,
        temperature: float | None = 0.0,
        max_tokens: int = 1000,
        has_memory: bool = True,
        seed: int = 0,
        voice: ChatModel | None = None,
    ) -> None:
        self.name, self.chat, self.model, self.scripted = name, chat, chat.name, chat.scripted
        self._profile, self._switches = profile, switches or Switches()
        self._act, self._attempts, self._timeout = act, attempts, timeout
        self._temperature, self._max_tokens, self._seed = temperature, max_tokens, seed
        self._voice, self.has_memory = voice, has_memory
        self.stream = MemoryStream(embedder, self._switches, seed_of(seed, "memory", name))
        self._heard: list[News] = []
        self._later: list[Memory] = []

    async def answer(self, question: Question, situation: Situation) -> Answer:
        """Show the rules, what comes to mind and the question; read the answer."""
        today = date.fromisoformat(situation.date)
        told = self._recall(question, today)
        text = prompts.render("memories", memories=told, date=situation.date)
        messages = [
            Message("system", situation.rules_text),
            Message("user", f"{text}\n\n{question.text}"),
        ]
        once = self._switches.parsing == "paper"
        chat = (self._voice if question.kind == "utterance" else None) or self.chat
        return await ask_model(
            chat, messages, question,
            seed=seed_of(self._seed, situation.month, question.purpose, self.name) % 2**31,
            attempts=1 if once else self._attempts, timeout=self._timeout,
            temperature=self._temperature, max_tokens=self._max_tokens,
        )  # fmt: skip

    def see(self, news: News) -> None:
        """Remember it for this month, and for later as far as the rules of memory go."""
        day, end = news.day or first_day(news.month), last_day(news.month)
        lean, forgets = self._profile == "lean", self._switches.expiry == "paper"
        if news.kind in ("said", "report") and not lean:
            self._heard.append(news)
            if news.kind == "said" or forgets:
                return  # it is remembered by the thoughts about it
        # Nobody needs last month's threshold.
        gone = news.kind == "threshold" or (forgets and news.kind not in _LASTING)
        expires = end if gone else day + KEPT
        always = expires if news.kind == "limit" else first_day(news.month + 1)
        importance = 5.0 if news.kind == "said" else 10.0
        memory = Memory(
            _told(news), day, expires, "seen", importance,
            always if news.always or news.kind == "limit" else None,
        )  # fmt: skip
        if news.kind == "report" and not lean:
            # While they talk about it, it stands in what was said so far.
            self._later.append(memory)
        else:
            self.stream.add(memory)

    async def digest(self, ask: Ask, situation: Situation) -> None:
        """Two thoughts about the talk, each with its importance, at once."""
        self._settle()
        heard, self._heard = self._heard, []
        if not heard or not self.has_memory:
            return
        transcript = [{"who": news.who, "text": news.text} for news in heard]
        chat = " ".join(f"{line['who']}: {line['text']}" for line in transcript)
        day = date.fromisoformat(situation.date)

        async def think(kind: str) -> Memory | None:
            answer = await ask(_thought(kind, prompts.render(kind, transcript=transcript)))
            thought = answer.value["thought"] if answer.outcome == "ok" else ""
            if self._switches.sentences == "paper":
                thought = thought.split(".")[0] + "."
            return await self._rated(ask, thought, day, kind)

        # However late an answer is, memories come in this order.
        self._keep(
            await together(self._rated(ask, chat, day, "chat"), think("plan"), think("memorable"))
        )

    async def reflect(self, ask: Ask, situation: Situation) -> None:
        """Insights from what comes to mind, each with its importance."""
        self._settle()
        self._heard.clear()
        if not self.has_memory:
            self.stream.forget_all()
        if self._profile == "lean":
            return
        day = date.fromisoformat(situation.date)
        memories = self.stream.retrieve(["harvesting"], 10, day)
        if not memories:
            return
        most = min(len(memories), INSIGHTS)
        text = prompts.render("insights", memories=_lines(memories), act=self._act, most=most)
        schema = {
            "type": "object", "required": ["insights"],
            "properties": {"insights": {"type": "array", "items": {"type": "string"}}},
        }  # fmt: skip
        answer = await ask(Question("insights", text, schema, default={"insights": []}))
        if answer.outcome == "ok":
            kept = answer.value["insights"][:most]
            self._keep(
                await together(
                    *(self._rated(ask, one, day, f"insight.{n}") for n, one in enumerate(kept, 1))
                )
            )

    def note(self, text: str, month: int) -> None:
        """What a lean villager wrote down for itself."""
        if text.strip() and self.has_memory:
            self.see(News("note", text, month))

    def _settle(self) -> None:
        """The talk is over: what was seen meanwhile is a memory."""
        self._keep(self._later)
        self._later = []

    def _keep(self, memories: Sequence[Memory | None]) -> None:
        for memory in memories:
            if memory is not None:
                self.stream.add(memory)

    async def _rated(self, ask: Ask, text: str, day: date, of: str) -> Memory | None:
        """A thought, or a whole chat, with the importance it is given; None of no words."""
        if not text.strip(" ."):
            return None
        wild = self._switches.importance == "paper"
        least, most = (0, LARGE) if wild else (1, 10)
        number = {"type": "integer", "minimum": least, "maximum": most}
        schema = {"type": "object", "properties": {"rating": number}, "required": ["rating"]}
        question = Question(
            f"importance.{of}", prompts.render("importance", text=text), schema,
            default={"rating": 5},
        )  # fmt: skip
        answer = await ask(question)
        rating = float(answer.value["rating"]) if answer.outcome == "ok" else 5.0
        return Memory(text, day, day + KEPT, "chat" if of == "chat" else "thought", rating)

    def _recall(self, question: Question, today: date) -> list[dict[str, str]]:
        if not question.focus:
            return []
        if self._profile == "lean":
            return _lines(self.stream.latest(LATEST, today))
        return _lines(self.stream.retrieve(question.focus, question.memories, today))


def _thought(purpose: str, text: str) -> Question:
    return Question(purpose, text, _THOUGHT, default={"thought": ""})


def _told(news: News) -> str:
    return f"{news.who}: {news.text}" if news.kind == "said" else news.text


def _lines(memories: Sequence[Memory]) -> list[dict[str, str]]:
    """For a prompt: each on one line, so that no text can pass for another's."""
    return [
        {"date": memory.date.isoformat(), "text": " ".join(memory.text.split())}
        for memory in memories
    ]
