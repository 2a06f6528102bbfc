"""Error codes of judging NetworkPolicies."""

from __future__ import annotations

from cellward.errors import InvalidInput, define

BAD_POLICY = define(
    "isolation/bad-policy", InvalidInput, "A NetworkPolicy says something that an API server refuses.",
    hint="Run `kubectl apply --dry-run=server` on the policy; the API server names the field.",
)  # fmt: skip
