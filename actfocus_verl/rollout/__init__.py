"""One episode as a state machine over (world, policy), and the token columns it yields. Knows no verl and no torch."""

from actfocus_verl.rollout.chat import ChatCodec
from actfocus_verl.rollout.columns import ReadReply, read_reply, token_roles
from actfocus_verl.rollout.episode import Episode
from actfocus_verl.rollout.forking import ForkedGroup, ForkPoint, Line, ReplayMismatchError
from actfocus_verl.rollout.parsing import ParsedReply, parse_reply
from actfocus_verl.rollout.trajectory import Policy, Reply, StopReason, Trajectory, TurnText

__all__ = [
    "ChatCodec",
    "Episode",
    "ForkPoint",
    "ForkedGroup",
    "Line",
    "ParsedReply",
    "Policy",
    "ReadReply",
    "ReplayMismatchError",
    "Reply",
    "StopReason",
    "Trajectory",
    "TurnText",
    "parse_reply",
    "read_reply",
    "token_roles",
]
