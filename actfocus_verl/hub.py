"""Names of models on the Hugging Face hub, and what comes of one that is wrong."""

from __future__ import annotations

import re
from typing import Final

HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?\Z")
"""``organisation/name``, or the bare name of a model from before there were organisations."""

UNREADABLE: Final = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError)
"""What transformers raises for a folder or an id it cannot make sense of."""
