"""One episode as a state machine over (world, policy).

    state -> prompt ids -> sampled ids -> text with offsets -> parsed actions -> world steps -> next state

`start` gives the first context, `receive` takes a reply and gives the next context, or None once the episode is over;
`play` drives the two with a policy. `replay` takes a reply that another episode sampled, which is context here and
nothing to train on: that is how a forked episode comes to the state it starts from (see `forking`).
Sampled ids go into the next context as they are: they are never encoded again.
What a turn's actions do is said at `environments.execute_turn`.
"""

from __future__ import annotations

from actfocus_verl.credit.tokens import TokenRole
from actfocus_verl.environments import World
from actfocus_verl.errors import ConfigurationError
from actfocus_verl.rollout.beside import beside_loop
from actfocus_verl.rollout.chat import ChatCodec
from actfocus_verl.rollout.conversation import conversation
from actfocus_verl.rollout.feedback import InformedContext, informed_context
from actfocus_verl.rollout.templates import Message
from actfocus_verl.rollout.trajectory import Policy, Reply, StopReason, Trajectory, TurnText, state_of


class Episode:
    """One play of `world`, which must be fresh. codec: with the opening of the world's limits, else a ValueError.

    max_context_tokens: prompt and response together. max_response_tokens: everything after the first prompt, where the
    trainer bounds that on its own. The episode ends before a turn whose message and longest reply would not fit.
    ask_answers: ask the world for its known answer before every turn; else they are all None.
    give_feedback: keep what each turn's context would have been with the feedback on it; else nothing is kept.
    """

    def __init__(
        self,
        world: World,
        codec: ChatCodec,
        *,
        max_context_tokens: int,
        max_response_tokens: int | None = None,
        ask_answers: bool = False,
        give_feedback: bool = False,
    ) -> None:
        if world.limits.opening != codec.opening:
            raise ValueError(f"replies open with {world.limits.opening!r} (env.prefill), the codec's {codec.opening!r}")
        self.world = world
        self._talk = conversation(world, codec)
        self._codec = self._talk.codec
        self._max_context = max_context_tokens
        self._max_response = max_response_tokens
        self._ask_answers = ask_answers
        self._give_feedback = give_feedback
        self._context: list[int] = []
        self._prompt_length = 0
        self._sampled: list[int] = []
        self._mask: list[int] = []
        self._log_probs: list[float] | None = []
        self._roles: list[int] = []
        self._turn_ids: list[int] = []
        self._turns = self._talk.turns
        self._messages = [{"role": "system", "content": world.system_prompt()}]
        self._anchors: list[int] = []
        self._states: list[int] = []
        self._replies: list[Reply] = []
        self._replayed = 0
        self._texts: list[TurnText] = []
        self._parsed_turns = 0
        self._starts: list[int] = []
        self._answers: list[str | None] = []
        self._informed: list[InformedContext] = []
        self._stop_reason: StopReason | None = None

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the episode ended; None while it waits for a reply."""
        return self._stop_reason

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation so far, {"role", "content"} a message: what a chat API takes instead of the context.

        As the chat template takes them: without a system message where it has none. Replies begin with the opening.
        """
        return self._codec.messages(self._messages)

    async def play(self, policy: Policy) -> Trajectory:
        """Play to the end. Raises ConfigurationError when not even one turn fits."""
        return await self.play_on(policy, await beside_loop(self.world.slow, self.start))

    async def play_on(self, policy: Policy, context: list[int] | None) -> Trajectory:
        """Play to the end from the context that `start` or `replay` gave."""
        while context is not None:
            reply = await policy.generate(context, max_new_tokens=self.world.limits.max_turn_tokens)
            context = await beside_loop(self.world.slow, self.receive, reply)
        return self.trajectory()

    def start(self) -> list[int]:
        """The ids the first reply continues. Raises ConfigurationError where the world shows images."""
        if self._context:
            raise RuntimeError("Episode.start was called twice")
        self._ask()
        prompt = self._codec.initial_ids(self._messages)
        self._require_room(len(prompt))
        self._context, self._prompt_length = prompt, len(prompt)
        return list(self._context)

    def receive(self, reply: Reply) -> list[int] | None:
        """Take the reply to the present context; return the next context, or None when the episode is over.

        Raises ValueError for a reply longer than was asked for, or with log-probs of another length.
        """
        return self._take(reply, sampled=True)

    def replay(self, reply: Reply) -> list[int] | None:
        """Take a reply that was sampled in this context by another episode; the same as `receive` to the world.

        Its tokens are marked as not sampled here. Raises RuntimeError once this episode has taken one of its own.
        """
        if self._replayed < len(self._replies):
            raise RuntimeError("Episode.replay after a turn of its own")
        self._replayed += 1
        return self._take(reply, sampled=False)

    def _take(self, reply: Reply, *, sampled: bool) -> list[int] | None:
        if not self._context or self._stop_reason is not None:
            raise RuntimeError("Episode.receive outside of a turn")
        self._require_bounds(reply)
        self._states.append(state_of(self._context))
        self._replies.append(reply)
        state, anchor = self._talk.state(), self.world.anchor()
        self._starts.append(len(self._context) - self._prompt_length)
        self._answers.append(self.world.known_answer() if self._ask_answers else None)
        read = self._talk.read(reply.token_ids)
        self._messages.append({"role": "assistant", "content": f"{self._codec.opening}{read.message}"})
        if sampled:
            self._append_reply(reply, read.roles)
        else:
            self._append_foreign(reply.token_ids)
        turn = self._talk.act(read)
        self._parsed_turns += read.parses
        self._anchors.append(anchor)
        self._texts.append(TurnText(state, read.text, turn.valid))
        self._stop_reason = self._reason_to_stop(reply)
        context = self._continue(reply) if self._stop_reason is None else None
        if self._give_feedback:
            self._informed.append(self._inform(over=context is None))
        return context

    def _inform(self, *, over: bool) -> InformedContext:
        """The context of the turn that was just played, with the feedback on it."""
        feedback = self._talk.feedback(over=over)
        before = len(self._replies) - 2
        kept = 0 if before < 0 else self._prompt_length + self._starts[before] + len(self._replies[before].token_ids)
        closed = before < 0 or self._codec.is_closed(self._replies[before].token_ids)
        messages = self._messages[: 2 * len(self._replies)]  # of the system, of the user, a reply, of the user, ...
        return informed_context(self._codec, messages, feedback, kept=kept, closed=closed)

    def difference(self, other: Trajectory) -> str | None:
        """What `other` had otherwise in the turns played so far, or in the state after them; None when nothing."""
        turns = len(self._turns.rewards)
        compared = {
            "the token prefix": ([*self._states, state_of(self._context)], other.states[: turns + 1]),
            "the state of the world": ([*self._anchors, self.world.anchor()], other.anchors[: turns + 1]),
            "a reward": (self._turns.rewards, other.turn_rewards[:turns]),
        }
        return next((name for name, (own, theirs) in compared.items() if own != theirs), None)

    def trajectory(self) -> Trajectory:
        """The finished episode. Raises RuntimeError while it still runs."""
        if self._stop_reason is None:
            raise RuntimeError("Episode.trajectory before the end")
        response = self._context[self._prompt_length :]
        sampled = [token for token, mask in zip(response, self._mask, strict=True) if mask]
        assert sampled == self._sampled, "the context does not hold the sampled ids"
        return Trajectory(
            prompt_ids=self._context[: self._prompt_length],
            response_ids=response,
            response_mask=self._mask,
            log_probs=self._log_probs,
            token_roles=self._roles,
            turn_ids=self._turn_ids,
            turn_rewards=self._turns.rewards,
            anchors=self._anchors,
            states=self._states,
            replies=self._replies,
            replayed=self._replayed,
            stop_reason=self._stop_reason,
            success=self.world.success,
            outcome=dict(self.world.outcome()),
            actions=self._turns.actions,
            parsed_turns=self._parsed_turns,
            valid_turns=sum(text.valid for text in self._texts),
            texts=self._texts,
            final_state=self._talk.state(),
            turn_starts=self._starts,
            known_answers=self._answers,
            informed=self._informed,
            final_anchor=self.world.anchor(),
        )

    def _ask(self) -> list[Message]:
        """What stands before the next reply, which the conversation then holds."""
        messages = self._talk.ask()
        self._messages.extend(messages)
        return messages

    def _reason_to_stop(self, reply: Reply) -> StopReason | None:
        if self.world.done:
            return StopReason.SUCCESS if self.world.success else StopReason.FAILURE
        if reply.finish_reason == "abort":
            return StopReason.ABORTED
        if self._turns.actions_left <= 0:
            return StopReason.MAX_ACTIONS
        return StopReason.MAX_TURNS if self._turns.over else None

    def _continue(self, reply: Reply) -> list[int] | None:
        """Append the next user message, or stop because it and a full reply to it do not fit."""
        between = self._codec.continuation_ids(self._ask(), closed=self._codec.is_closed(reply.token_ids))
        if self._missing_room(len(self._context) + len(between)) > 0:
            self._stop_reason = StopReason.CONTEXT_FULL
            return None
        self._append_foreign(between)
        return list(self._context)

    def _append_reply(self, reply: Reply, roles: list[TokenRole]) -> None:
        self._sampled.extend(reply.token_ids)
        if reply.log_probs is None:
            self._log_probs = None
        self._append(reply.token_ids, mask=1, turn=len(self._turns.rewards), roles=roles, log_probs=reply.log_probs)

    def _append_foreign(self, ids: list[int]) -> None:
        self._append(ids, mask=0, turn=-1, roles=[TokenRole.ENVIRONMENT] * len(ids), log_probs=None)

    def _append(
        self, ids: list[int], *, mask: int, turn: int, roles: list[TokenRole], log_probs: list[float] | None
    ) -> None:
        self._context.extend(ids)
        self._mask.extend([mask] * len(ids))
        self._turn_ids.extend([turn] * len(ids))
        self._roles.extend(int(role) for role in roles)
        if self._log_probs is not None:
            self._log_probs.extend([0.0] * len(ids) if log_probs is None else log_probs)

    def _missing_room(self, context_length: int) -> int:
        """Tokens by which a full reply after `context_length` ids is too long; at most 0 when it fits."""
        longest = context_length + self.world.limits.max_turn_tokens
        missing = longest - self._max_context
        if self._max_response is not None and self._prompt_length:
            missing = max(missing, longest - self._prompt_length - self._max_response)
        return missing

    def _require_room(self, prompt_length: int) -> None:
        reply = self.world.limits.max_turn_tokens
        if prompt_length + reply > self._max_context:
            raise ConfigurationError(
                "max_context_tokens",
                self._max_context,
                f"too short for one turn: the first prompt has {prompt_length} tokens and a reply up to {reply}",
                f"Raise it to {prompt_length + reply} at least, or lower env.max_turn_tokens",
            )
        if self._max_response is not None and reply > self._max_response:
            raise ConfigurationError(
                "max_response_tokens",
                self._max_response,
                f"too short for one turn: a reply has up to {reply} tokens",
                f"Raise it to {reply} at least, or lower env.max_turn_tokens",
            )

    def _require_bounds(self, reply: Reply) -> None:
        count, most = len(reply.token_ids), self.world.limits.max_turn_tokens
        if count > most:
            raise ValueError(f"the policy sampled {count} tokens, more than max_new_tokens={most}")
        if reply.log_probs is not None and len(reply.log_probs) != count:
            raise ValueError(f"the policy gave {len(reply.log_probs)} log-probs for {count} tokens")
