"""tau2-bench's telecom domain without a user; the README says what is the benchmark's and what is ours."""

from actfocus_verl.environments.tau2_telecom.world import Tau2Telecom

__all__ = ["Tau2Telecom"]
