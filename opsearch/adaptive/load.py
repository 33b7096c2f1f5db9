"""A policy, or a set of policies, from its folder or file."""

from __future__ import annotations

from pathlib import Path

from opsearch.adaptive.policy_set import PolicySet
from opsearch.policy.file import holds_set
from opsearch.policy.policy import Policy

Method = Policy | PolicySet
"""What prunes a model: one policy, or a set of which each request runs one."""


def load_method(path: Path) -> Method:
    """Return the policy or the set at a path; the policy, if a folder holds both.

    Raises:
        PolicyError: A file is missing, damaged, or of another format.
    """
    return PolicySet.from_pretrained(path) if holds_set(path) else Policy.from_pretrained(path)


def members(method: Method) -> tuple[Policy, ...]:
    """Return the policies of a set, or the policy itself."""
    return method.policies if isinstance(method, PolicySet) else (method,)
