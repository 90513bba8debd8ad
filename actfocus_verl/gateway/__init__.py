"""The gateway: a server with OpenAI's API in front of the policy, for agents that know nothing of training.

A session is one conversation of an agent. It keeps the token ids that the policy saw and sampled, in chains: a request
whose messages continue a chain goes on from that chain's ids, so nothing that was sampled is encoded again.

Pure: what samples, tokenizes and parses tool calls comes in as a protocol (`session`).
"""

from actfocus_verl.gateway.agents import Endpoint, Outcome, build_agent
from actfocus_verl.gateway.chains import Chain
from actfocus_verl.gateway.requests import ApiError, Sampling
from actfocus_verl.gateway.server import Gateway
from actfocus_verl.gateway.session import Call, Limits, Sampled, Session, Tokens

__all__ = [
    "ApiError",
    "Call",
    "Chain",
    "Endpoint",
    "Gateway",
    "Limits",
    "Outcome",
    "Sampled",
    "Sampling",
    "Session",
    "Tokens",
    "build_agent",
]
