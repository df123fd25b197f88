"""One run of an agent: turn after turn, until there is an answer or a limit."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from stretto.agents import observe, prompting
from stretto.agents.answers import REFUSALS, Answer
from stretto.agents.broker import Broker, Budgets
from stretto.agents.dialects import MARK, Dialect
from stretto.agents.endings import (
    REFUSED,
    EndError,
    break_of,
    called,
    end_of,
    is_break,
    partial,
    words_of,
)
from stretto.agents.events import VERSION, AgentEvent
from stretto.agents.feedback import Feedback
from stretto.agents.hands import Caller, Hands, shown
from stretto.agents.recording import (
    BreakError,
    Past,
    Recording,
    completion_from_json,
    completion_to_json,
    message_to_json,
)
from stretto.errors import ConfigError, InputError, LimitError, SandboxError, StrettoError
from stretto.protocols import Completion, Message, Usage
from stretto.runs import Run

if TYPE_CHECKING:
    from stretto.agents.agent import Agent

MEMORY_CHARS = 2000
_GLANCE_S = 0.005  # how often a record is looked at for what broke in
_CHARS_A_TOKEN = 4  # where nobody tells


class Turns:
    """One run.

    Args:
        agent: whose.
        task: what to do.
        dialect: how the model writes.
        run: folder, if any.
        past: what is on record already.
        tell: is given each event.
    """

    def __init__(
        self,
        agent: "Agent",
        task: str,
        dialect: Dialect,
        run: Run | None,
        past: Past,
        tell: Callable[[AgentEvent], None],
    ) -> None:
        self.recording = Recording(run, past, tell)
        self._agent, self._task, self._dialect, self._past = agent, task, dialect, past
        broker = Broker(
            agent.registry,
            authorise=agent.authorise,
            approve=agent.approve,
            budgets=Budgets(calls=max(0, agent.limits.calls - called(past)), block_calls=None),
        )
        self._caller = Caller(agent.registry, broker, self.recording)
        self._messages = [Message("user", task)]
        self._usage, self._tokens, self._turn = Usage(), 0, 0
        self._hands: Hands | None = None
        self._answer: Answer | None = None
        self._spoken: list[str] = []
        self._speaking = asyncio.Event()
        self._skills: list[str] = []
        self._skill_stubs = self._memory = ""

    def speak(self, text: str) -> None:
        """Somebody interrupts."""
        self._spoken.append(text)
        self._speaking.set()

    async def run(self) -> None:
        """All of it, from the ``start`` event to the ``end``."""
        source = self._start()
        try:
            async with AsyncExitStack() as stack:
                if self._dialect.code:
                    scouts = 0 if self._past.strict else 4
                    hands = Hands(self._agent.sandbox, self._agent.policy, source, scouts)
                    self._hands = await stack.enter_async_context(hands)
                while True:
                    await self._one_turn()
        except EndError as end:
            self._end(end)
        except BreakError as broken:
            if broken.event is not None:
                raise AssertionError(broken.event) from None
        except asyncio.CancelledError:
            if not self._past.strict:
                self._end(EndError("cancelled", "cancelled"))
            raise

    def _start(self) -> str:
        """Tell how the run begins; the source of the skills it has."""
        agent, past = self._agent, self._past
        source = ""
        if past.events:
            source = past.events[0].data["skill_source"]
            self._skills = past.events[0].data["skills"]
        elif agent.skills is not None and self._dialect.code:
            self._skills = [found.name for found in agent.skills.find(self._task)]
            source = agent.skills.source(self._skills) if self._skills else ""
        if not past.strict:
            if agent.skills is not None and self._skills:
                self._skill_stubs = agent.skills.stub(self._skills)
            if agent.memory is not None:
                self._memory = agent.memory.to_prompt(self._task, MEMORY_CHARS)
        data: dict[str, Any] = past.events[0].data if past.strict else {
            "version": VERSION,
            "task": self._task,
            "model": agent.model.name,
            "scripted": agent.model.scripted,
            "tools": dict(agent.registry.effects),
            "dialect": self._dialect.name,
            "prompt": {"name": self._dialect.name, "sha256": prompting.digest(self._dialect)},
            "policy": asdict(agent.policy),
            "limits": asdict(agent.limits),
            "seed": agent.seed,
            "level": agent.level,
            "skills": self._skills,
            "skill_source": source,
        }  # fmt: skip
        self.recording.emit("start", "user", **data)
        return source

    async def _one_turn(self) -> None:
        """A turn, or what broke into it."""
        self._check_limits()
        self._answer = None
        self._turn += 1
        self._caller.begin(self._turn)
        work = asyncio.create_task(self._work())
        breaking = asyncio.create_task(self._break())
        left = None if self._past.strict else self._agent.limits.seconds - self.recording.now
        try:
            await asyncio.wait({work, breaking}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if work.done() and not is_break(work):
                work.result()
                return
            broken = break_of(breaking, work)
        finally:
            for task in (work, breaking):
                task.cancel()
            await asyncio.wait({work, breaking})
        if isinstance(broken, str):
            self._interrupted(broken)
        elif broken is None:
            raise EndError("limit", "seconds")
        else:
            raise broken

    async def _break(self) -> str:
        """Wait until something breaks in: what somebody says.

        Raises:
            BreakError: on record, it was an end or a kill.
        """
        while len(self.recording.events) < len(self._past.events) or self._past.strict:
            if (broken := self.recording.broken()) is not None:
                return words_of(broken)
            await asyncio.sleep(_GLANCE_S)
        await self._speaking.wait()
        self._speaking.clear()
        text, self._spoken = "\n".join(self._spoken), []
        return text

    def _interrupted(self, text: str) -> None:
        """The model was stopped by words; its code, if any was going on, is forgotten."""
        answer = self._answer
        self.recording.emit("interrupt", "user", text=text)
        said = ""
        if answer is not None:
            if answer.completion is None:
                answer.broken = True
                answer.completion = self._note(Completion(answer.text))
            answer.tell()
            said = answer.completion.text
            if answer.stream is not None and answer.report is None:
                self.recording.emit("abandon", "code", statements=None)
            self._tell_unused()
            calls = (event.data for event in self.recording.events if event.kind == "call")
            made = [
                c["tool"] for c in calls if c["turn"] == self._turn and c["kind"] not in REFUSED
            ]
            undone = ", and what it did to variables is undone" if answer.stream is not None else ""
            text += f"\n(Your answer was abandoned{undone}. Calls that were made: "
            text += f"{', '.join(made) or 'none'}.)"
        if said:
            self._messages.append(Message("assistant", said))
        self._messages.append(Message("user", text))

    async def _work(self) -> None:
        """Prompt, answer, actions, feedback.

        Raises:
            EndError: there is an answer, or none is to be had.
        """
        around = self._surroundings()
        if self._hands is not None:
            await self._hands.offer(around.effects)
        messages = [Message("system", around.system), *self._messages]
        self.recording.emit(
            "prompt", turn=self._turn, messages=[message_to_json(each) for each in messages],
            tools=dict(around.effects), shown=list(around.shown),
        )  # fmt: skip
        answer = self._answer = Answer(
            self._dialect.parser(), self.recording, self._caller, self._hands
        )

        async def ask(hear: Callable[[str], None]) -> Completion:
            return await self._ask(messages, around, hear)

        lost = ""
        try:
            await answer.run(ask, self._note)
        except SandboxError as error:
            if self._hands is None:
                raise
            self.recording.emit("abandon", "code", statements=None)
            is_lost = await self._hands.mend()
            state = "all variables are lost: begin anew" if is_lost else "the block was undone"
            lost = f"the sandbox gave up ({error}); {state}"
        assert answer.completion is not None
        if answer.completion.finish_reason in REFUSALS:
            raise EndError("refused", answer.completion.finish_reason, answer.completion.text)
        parts = [observe.wrong(lost)] if lost else []
        await self._feed_back(answer, parts)

    async def _feed_back(self, answer: Answer, parts: list[Feedback]) -> None:
        """Run calls, tell the model what came of everything, or end with its answer."""
        completion = answer.completion
        assert completion is not None
        asked = [(call.name, call.args, call.kwargs) for call in answer.calls]
        records = [record async for record in self._caller.several(asked)]
        self._tell_unused()
        if answer.report is not None:
            parts += observe.of_code(answer.report, answer.outputs)
            self._note_skills(answer)
        if not parts and not answer.malformed and answer.final is not None:
            raise EndError("answered", "", answer.final)
        ended = self._caller.answer and answer.report is not None and answer.report.ok
        if ended and not answer.malformed:
            raise EndError("answered", "", shown(self._caller.answer[0]))
        of_calls = [observe.of_call(record) for record in records]
        wrongs = [observe.wrong(item.hint) for item in answer.malformed]
        named = [*zip(answer.calls, of_calls, strict=True), *zip(answer.malformed, wrongs,
                                                                 strict=True)]  # fmt: skip
        ids = {item.id: part for item, part in named if item.id}
        self._messages.append(Message(
            "assistant", completion.text, tuple(c for c in completion.tool_calls if c.id in ids)
        ))  # fmt: skip
        for call_id, part in ids.items():
            text = self._tell(part, [part]).removeprefix(MARK.strip()).strip()
            self._messages.append(Message("tool", text, tool_call_id=call_id))
        parts += [part for item, part in named if not item.id]
        if parts:
            self._messages.append(Message("user", self._tell(parts[-1], parts)))
        if self._caller.exhausted:
            raise EndError("limit", "calls")

    def _tell(self, last: Feedback, parts: list[Feedback]) -> str:
        text = observe.told(parts, self._agent.level)
        event = self.recording.emit(
            "feedback", "result", turn=self._turn, kind=last.kind, source=last.source,
            ok=last.good, text=text, level=self._agent.level,
        )  # fmt: skip
        return event.data["text"]

    def _note_skills(self, answer: Answer) -> None:
        skills, report = self._agent.skills, answer.report
        if skills is None or self._past.strict or report is None:
            return
        for name in self._skills:
            if name in answer.text:
                skills.note(name, report.ok)

    def _tell_unused(self) -> None:
        for record in self._caller.unused():
            self.recording.emit("call", "result", **record)

    def _surroundings(self) -> prompting.Surroundings:
        """As on record, or as things are now."""
        past = self._past.turn_event("prompt", self._turn)
        if past is not None:
            system = past.data["messages"][0]["content"]
            return prompting.Surroundings(system, past.data["tools"], tuple(past.data["shown"]))
        about = "\n".join([self._task, self._messages[-1].content])
        return prompting.surroundings(
            self._dialect, self._agent.registry, about, used=self._caller.used,
            skills=self._skill_stubs, memory=self._memory,
        )  # fmt: skip

    async def _ask(
        self, messages: list[Message], around: prompting.Surroundings, hear: Callable[[str], None]
    ) -> Completion:
        past = self._past.completions.get(self._turn)
        if past is not None or self._past.strict:
            hear(past["text"] if past is not None else self._past.heard.get(self._turn, ""))
        if self._past.strict if past is None else past["interrupted"]:
            await asyncio.Event().wait()  # something is about to break in
        if past is not None:
            return completion_from_json(past)
        try:
            return await self._agent.model.complete(
                messages,
                tools=around.schemas,
                seed=self._agent.seed + self._turn - 1,
                stop=(MARK,),
                max_tokens=max(1, self._agent.limits.tokens - self._tokens),
                on_text=hear,
            )
        except LimitError as error:
            raise EndError("limit", str(error)) from None
        except (ConfigError, InputError):
            raise
        except (StrettoError, OSError) as error:
            told = " ".join(f"{type(error).__name__}: {error}".split())
            raise EndError("failed", told) from None

    def _note(self, completion: Completion) -> Completion:
        """Take an answer down, and what it took."""
        answer, usage = self._answer, completion.usage
        assert answer is not None
        if answer.broken:
            model = self._agent.model
            completion = replace(completion, model=model.name, scripted=model.scripted)
        if self._turn in self._past.completions:
            completion = completion_from_json(self._past.completions[self._turn])
            usage = completion.usage
        else:
            data = completion_to_json(completion) | {"interrupted": answer.broken}
            self.recording.note("received", turn=self._turn, completion=data)
        self._tokens += usage.completion_tokens or len(completion.text) // _CHARS_A_TOKEN
        self._usage = Usage(
            self._usage.prompt_tokens + usage.prompt_tokens,
            self._usage.completion_tokens + usage.completion_tokens,
            self._usage.cost + usage.cost,
        )
        return completion

    def _check_limits(self) -> None:
        if self._past.strict:
            broken = self.recording.broken()
            if broken is not None and broken.event is None:
                raise broken
            if broken is not None and broken.event is not None and broken.event.kind == "end":
                raise end_of(broken)
        limits = self._agent.limits
        if self._turn >= limits.turns:
            raise EndError("limit", "turns")
        if self._tokens >= limits.tokens:
            raise EndError("limit", "tokens")
        if limits.dollars is not None and self._usage.cost >= limits.dollars:
            raise EndError("limit", "dollars")
        if not self._past.strict and self.recording.now >= limits.seconds:
            raise EndError("limit", "seconds")

    def _end(self, end: EndError) -> None:
        heard = self._answer
        if heard is not None and heard.completion is None and not self._past.strict:
            self.recording.note("heard", turn=self._turn, text=heard.text)
        answer = end.answer if end.answer is not None else partial(self.recording.events)
        made = [e.data["kind"] for e in self.recording.events if e.kind == "call"]
        self.recording.emit(
            "end", "say", outcome=end.outcome, answer=answer, reason=end.reason,
            usage=asdict(self._usage), turns=self._turn,
            calls=sum(kind not in REFUSED for kind in made),
        )  # fmt: skip
