"""One episode as a state machine over (world, policy), and the token columns it yields. Knows no verl and no torch."""

from actfocus_verl.rollout.beside import beside_loop
from actfocus_verl.rollout.chat import ChatCodec
from actfocus_verl.rollout.columns import ReadReply, read_reply, token_roles
from actfocus_verl.rollout.conversation import require_text
from actfocus_verl.rollout.decoding import TokenDecoder
from actfocus_verl.rollout.episode import Episode
from actfocus_verl.rollout.feedback import InformedContext, feedback_columns, informed_context
from actfocus_verl.rollout.forking import ForkedGroup, ForkPoint, PlayedEpisode, ReplayMismatchError
from actfocus_verl.rollout.parsing import ParsedReply, parse_reply
from actfocus_verl.rollout.probes import ForcedAnswer, forced_answer, probe_columns
from actfocus_verl.rollout.spans import ActionSpan, build_action_span, span_roles
from actfocus_verl.rollout.standstill import StandstillWatch, end_process, waiting_elsewhere
from actfocus_verl.rollout.trajectory import Policy, Reply, StopReason, Trajectory, TurnText

__all__ = [
    "ActionSpan",
    "ChatCodec",
    "Episode",
    "ForcedAnswer",
    "ForkPoint",
    "ForkedGroup",
    "InformedContext",
    "ParsedReply",
    "PlayedEpisode",
    "Policy",
    "ReadReply",
    "ReplayMismatchError",
    "Reply",
    "StandstillWatch",
    "StopReason",
    "TokenDecoder",
    "Trajectory",
    "TurnText",
    "beside_loop",
    "end_process",
    "build_action_span",
    "feedback_columns",
    "forced_answer",
    "informed_context",
    "parse_reply",
    "probe_columns",
    "read_reply",
    "require_text",
    "span_roles",
    "token_roles",
    "waiting_elsewhere",
]
