"""A villager whose answers come from a chat model.

Two profiles. ``paper``: memories with importance, two thoughts after each meeting, insights at the
end of each month (7n + 2 + u + nA requests a month, n villagers, u utterances, A insights each).
``lean``: one request a month, which gives the harvest, a message to the others and a note to
oneself; what was seen and noted is shown in full.
"""

import asyncio
from collections.abc import Sequence
from datetime import date
from typing import Literal

from stretto.commons import prompts
from stretto.commons.answers import ask_model
from stretto.commons.calendar import first_day, last_day, meeting_day
from stretto.commons.memory import KEPT, Embedder, Memory, MemoryStream
from stretto.commons.seeds import seed_of
from stretto.commons.switches import Switches
from stretto.commons.villager import Answer, Ask, News, Question, Situation
from stretto.protocols import ChatModel, Message

Profile = Literal["paper", "lean"]
INSIGHTS = 3
_THOUGHT = {
    "type": "object",
    "properties": {"thought": {"type": "string"}},
    "required": ["thought"],
}
_RATING = {"type": "object", "properties": {"rating": {"type": "integer"}}, "required": ["rating"]}


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
        timeout: seconds for each attempt.
        temperature: of its answers.
        has_memory: without, it knows only what belongs to the present month.
        seed: of its model's sampling.
    """

    scripted = False

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
        timeout: float = 120.0,
        temperature: float | None = 0.0,
        has_memory: bool = True,
        seed: int = 0,
    ) -> None:
        self.name, self.chat, self.model, self.scripted = name, chat, chat.name, chat.scripted
        self._profile, self._switches = profile, switches or Switches()
        self._act, self._attempts, self._timeout = act, attempts, timeout
        self._temperature, self._seed = temperature, seed
        self.has_memory = has_memory
        self.stream = MemoryStream(embedder, self._switches, seed_of(seed, "memory", name))
        self._now: list[News] = []
        self._heard: list[News] = []

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
        return await ask_model(
            self.chat, messages, question,
            seed=seed_of(self._seed, situation.month, question.purpose, self.name) % 2**31,
            attempts=1 if once else self._attempts, timeout=self._timeout,
            temperature=self._temperature,
        )  # fmt: skip

    def see(self, news: News) -> None:
        """Remember it for this month, and for later as far as the rules of memory go."""
        if self._now and self._now[-1].month != news.month:
            self._now.clear()
        self._now.append(news)
        if news.kind == "said":
            self._heard.append(news)
            if self._profile == "paper":
                return  # what is said is remembered by the thoughts about it
        when = last_day(news.month) if news.kind in ("report", "limit") else first_day(news.month)
        lasts = news.kind in ("limit", "note", "arrival", "rule") or (
            self._switches.expiry == "corrected"
        )
        expires = when + KEPT if lasts else last_day(news.month)
        if news.kind == "stock":
            return  # stands in the question itself
        importance = 10.0 if news.always or news.kind != "said" else 5.0
        self.stream.add(
            Memory(_told(news), when, expires, "seen", importance, always=news.kind == "limit")
        )

    async def digest(self, ask: Ask, situation: Situation) -> None:
        """Two thoughts about the talk, each with its importance, at once."""
        heard, self._heard = self._heard, []
        if self._profile == "lean" or not heard:
            return
        transcript = [{"who": news.who, "text": news.text} for news in heard]
        chat = " ".join(f"{line['who']}: {line['text']}" for line in transcript)
        slow = self._switches.clock == "paper" and situation.place > 0
        day = first_day(situation.month) if slow else meeting_day(situation.month)

        async def think(kind: str) -> None:
            answer = await ask(_thought(kind, prompts.render(kind, transcript=transcript)))
            if answer.outcome == "ok":
                await self._keep(ask, answer.value["thought"], day, kind)

        async def rate_chat() -> None:
            rating = await self._rate(ask, chat, "chat")
            self.stream.add(Memory(chat, day, day + KEPT, "chat", rating))

        await asyncio.gather(rate_chat(), think("plan"), think("memorable"))

    async def reflect(self, ask: Ask, situation: Situation) -> None:
        """Insights from what comes to mind, each with its importance."""
        day = last_day(situation.month)
        if not self.has_memory:
            self.stream.forget_all()
        if self._profile == "lean":
            return
        memories = self.stream.retrieve([f"how to {self._act}"], 10, day)
        if not memories:
            return
        most = min(len(memories), INSIGHTS)
        text = prompts.render("insights", memories=_lines(memories), act=self._act, most=most)
        schema = {
            "type": "object", "required": ["insights"],
            "properties": {"insights": {"type": "array", "items": {"type": "string"}}},
        }  # fmt: skip
        default = {"insights": []}
        answer = await ask(Question("insights", text, schema, default=default))
        if answer.outcome == "ok":
            kept = answer.value["insights"][:most]
            await asyncio.gather(
                *(self._keep(ask, text, day, f"insight.{n}") for n, text in enumerate(kept, 1))
            )

    def note(self, text: str, month: int) -> None:
        """What a lean villager wrote down for itself."""
        if text.strip() and self.has_memory:
            self.see(News("note", text.strip(), month, always=True))

    async def _keep(self, ask: Ask, thought: str, day: date, purpose: str) -> None:
        if self._switches.sentences == "paper":
            thought = thought.split(".")[0] + "."
        rating = await self._rate(ask, thought, purpose)
        self.stream.add(Memory(thought, day, day + KEPT, "thought", rating))

    async def _rate(self, ask: Ask, text: str, of: str) -> float:
        wild = self._switches.importance == "paper"

        def check(value: dict) -> str:
            good = wild or 1 <= value["rating"] <= 10
            return "" if good else f"rating: {value['rating']} is not between 1 and 10"

        question = Question(
            f"importance.{of}", prompts.render("importance", text=text), _RATING, check,
            default={"rating": 5},
        )  # fmt: skip
        answer = await ask(question)
        return float(answer.value["rating"]) if answer.outcome == "ok" else 5.0

    def _recall(self, question: Question, today: date) -> list[dict[str, str]]:
        if not question.focus:
            return []
        if self._profile == "lean":
            everything = self.stream.retrieve(["."], len(self.stream) or 1, today)
            return _lines(everything[-40:])
        return _lines(self.stream.retrieve(question.focus, question.memories, today))


def _thought(purpose: str, text: str) -> Question:
    return Question(purpose, text, _THOUGHT, default={"thought": ""})


def _told(news: News) -> str:
    return f"{news.who}: {news.text}" if news.kind == "said" else news.text


def _lines(memories: Sequence[Memory]) -> list[dict[str, str]]:
    return [{"date": memory.date.isoformat(), "text": memory.text} for memory in memories]
