"""The world: a ticket, the functions of an agent and of the user's phone, the package's assertions as judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from actfocus_verl.checks import require_choice
from actfocus_verl.environments.settings import Limits
from actfocus_verl.environments.splits import hex_digest
from actfocus_verl.environments.tau2_telecom.tasks import FULL, OFFICIAL, entries, issue_and_faults, names_of
from actfocus_verl.environments.tau2_telecom.ticket import Ticket, functions
from actfocus_verl.environments.tools import Schema, ToolCall, ToolWorld, ToolWorldConfig, function_schema

WHOLE, SHORT = "full", "short"
DONE: Final = "done"
_MOST_ERRORS: Final = 10
"""max_errors of the package: calls that fail before it gives up."""

_TASK: Final = (
    "You are a service agent of a phone company and solve the ticket that you are given. Nobody can be asked: you act "
    "by calling functions alone, on the company's records and the user's phone. Call done when the ticket is solved: "
    "that ends it, and so does a reply without a call."
)
_SHORT_POLICY: Final = """\
Rules. Make one call at a time. Find the customer by the phone number first, then the line with that number.
- No service: airplane mode must be off, the SIM card seated, not locked and active. Reset a wrong APN and reboot. A
  line suspended for an overdue bill is resumed once the bill is paid, then reboot; send the payment request for an
  overdue bill, accept it on the phone only if the ticket permits payments. A line whose contract has ended stays
  suspended.
- Mobile data: data must be on, the saver off, the network mode one with 4G or 5G, no VPN that slows it down. Abroad,
  roaming must be on, on the phone and for the line (free of charge). Above the plan's limit, add at most the data that
  the ticket accepts (up to 2 GB), or change the plan if it says so. The speed test should say excellent.
- Picture messages: service, data and at least 3G as above, a working APN with an MMSC address, Wi-Fi calling off,
  permission of the messaging app for storage and sms.
- Transfer to a human only where none of this can solve it, such as a locked SIM card or an ended contract."""


@dataclass(frozen=True, kw_only=True)
class Tau2Config(ToolWorldConfig):
    """policy: `full` shows the package's policy whole, some 5,000 tokens; `short` one in our words.

    max_turns: 100 replies, which are the package's 200 steps.
    """

    policy: str = WHOLE
    max_turns: int = 100

    def __post_init__(self) -> None:
        require_choice("env.policy", self.policy, choices=(WHOLE, SHORT))
        super().__post_init__()


class Tau2Telecom(ToolWorld):
    """One ticket. Reward: 1 when it was closed with `done` and the package's assertions hold."""

    name = "tau2_telecom"
    configs: ClassVar[Mapping[str, Tau2Config]] = {OFFICIAL: Tau2Config(), FULL: Tau2Config()}

    def __init__(self, name: str, policy: str, *, preset: str, split: str, index: int, limits: Limits) -> None:
        super().__init__(preset=preset, split=split, index=index, limits=limits)
        self.task_name = name
        self._ticket = Ticket(entries()[name])
        self._policy = policy
        self._performed = 0
        self._done = False
        self._solved = False

    @classmethod
    def split_size(cls, preset: str, split: str) -> int | None:
        return len(names_of(preset, split))

    @classmethod
    def create(cls, config: Any, *, preset: str, split: str, index: int, episode_seed: int) -> Tau2Telecom:
        name = names_of(preset, split)[index]
        world = cls(name, config.policy, preset=preset, split=split, index=index, limits=config.limits())
        world.tool_format = config.tool_format
        return world

    def system_prompt(self) -> str:
        policy = self._ticket.policy if self._policy == WHOLE else _SHORT_POLICY
        return f"{_TASK}\n\n{policy}"

    def tools(self) -> Sequence[Schema]:
        return [*functions(), function_schema(DONE, "Close the ticket.")]

    def render(self) -> str:
        return f"Ticket: {self._ticket.task.ticket}"

    def begin_reply(self, names: Sequence[str]) -> None:
        """As in the package, a reply that calls `done` performs nothing else."""
        if DONE in names:
            self._solved = self._ticket.solved()
            self._done = True

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        self._performed += 1
        said = self._ticket.call(name, arguments)
        self._done = self._ticket.errors >= _MOST_ERRORS
        return said

    def no_call(self) -> str | None:
        """In solo mode, a reply without a call is an agent's error, and the end."""
        self._done = True
        return None

    def unknown(self, name: str) -> str:
        """The package's own words, which it compares when it judges a conversation; counted among the errors."""
        said = self._ticket.call(name, {})
        self._done = self._ticket.errors >= _MOST_ERRORS
        return said

    @property
    def done(self) -> bool:
        return self._done

    @property
    def success(self) -> bool:
        return self._solved

    def reseed(self, episode_seed: int) -> None:
        """Nothing is random during play."""

    def board_hash(self) -> str:
        """Of issue and faults: a persona changes nothing where no user speaks."""
        return hex_digest(f"tau2_telecom/{issue_and_faults(self.task_name)}")

    def stratum(self) -> int:
        """Faults."""
        return len(issue_and_faults(self.task_name)[1])

    def optimal_return(self) -> float:
        return 1.0

    def oracle(self) -> Sequence[str]:
        """The package's next call, then `done`."""
        gold = self._ticket.gold
        return [str(ToolCall(*gold[self._performed]) if self._performed < len(gold) else ToolCall(DONE))]
