"""A policy, or a set of policies, from its folder or file."""

from __future__ import annotations

from pathlib import Path

from opsearch.adaptive.policy_set import PolicySet
from opsearch.policy.file import SET_FILE
from opsearch.policy.policy import Policy

Method = Policy | PolicySet
"""What prunes a model: one policy, or a set of which each request runs one."""


def load_method(path: Path) -> Method:
    """Return the policy or the set at a path.

    Raises:
        PolicyError: A file is missing, damaged, or of another format.
    """
    return PolicySet.from_pretrained(path) if holds_set(path) else Policy.from_pretrained(path)


def holds_set(path: Path) -> bool:
    """Return whether a path is that of a policy set: its folder or its file."""
    return path.name == SET_FILE or (path / SET_FILE).exists()


def members(method: Method) -> tuple[Policy, ...]:
    """Return the policies of a set, or the policy itself."""
    return method.policies if isinstance(method, PolicySet) else (method,)
