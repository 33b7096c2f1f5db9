"""The policies that a set is chosen from, searched for other budgets, and what they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from opsearch.adaptive.read import read_features
from opsearch.adaptive.table import Part, Table
from opsearch.commands.run import answered
from opsearch.data.item import all_answered
from opsearch.errors import InfeasibleBudgetError
from opsearch.evaluation.answers import answer
from opsearch.measure.relaxed.gradient import bounded
from opsearch.models.encoding import Sample
from opsearch.policy.builders import identity
from opsearch.policy.policy import Policy
from opsearch.problem.budget import Budget
from opsearch.rankers.base import Features
from opsearch.runs.adaptive import sample_costs
from opsearch.runs.prepare import Prepared, at_budget
from opsearch.runs.session import Session
from opsearch.solvers.gradient import GradientDescent


@dataclass(frozen=True)
class Candidate:
    """A policy to choose from.

    Attributes:
        policy: The policy.
        budget: The budget that it was searched for; None: the original.
    """

    policy: Policy
    budget: Budget | None = None


@dataclass(frozen=True, eq=False)
class Candidates:
    """A search of policies to choose from.

    Attributes:
        prepared: The run.
        session: Its open session.
        reads: Selector, as typed.
        selector: The same.
    """

    prepared: Prepared
    session: Session
    reads: str
    selector: Features

    def search(self, own: Policy, budgets: Sequence[Budget]) -> tuple[list[Candidate], Part]:
        """Return the policies, and what they do on the calibration samples.

        They are the run's own and the original, in the order of `Measured`, and those of other
        budgets.

        Args:
            own: The policy of the run.
            budgets: The other budgets.
        """
        prepared = self.prepared
        others = [each for each in budgets if self._is_possible(each)]
        self.session.progress.total += self._stages * len(others)
        whole = replace(identity(prepared.shape.layers), model_type=prepared.model_type)
        found = [Candidate(own, prepared.settings.budgets[0]), Candidate(whole)]
        found += (self._searched(budget) for budget in others)
        return found, self.measured(found, prepared.calibration)

    @property
    def _stages(self) -> int:
        """Stages of the search of one policy."""
        return 1 + isinstance(self.prepared.choice.solver, GradientDescent)

    def _is_possible(self, budget: Budget) -> bool:
        """Return whether some policy of the space keeps a budget, and say if none does."""
        try:
            at_budget(self.prepared, budget)
        except InfeasibleBudgetError as error:
            self.session.progress.say(f"a policy of {budget.text} is left out: {error}")
            return False
        return True

    def _searched(self, budget: Budget) -> Candidate:
        """Return the policy of another budget.

        Ctrl-C ends a descent with what it has; here it ends the command, which goes on there.
        """
        self.session.progress.say(f"a policy of {budget.text}:")
        _, solution, _ = answered(at_budget(self.prepared, budget), self.session)
        if solution.stopped:
            raise KeyboardInterrupt
        assert solution.policy is not None  # answered() raises otherwise
        return Candidate(replace(solution.policy, model_type=self.prepared.model_type), budget)

    def measured(self, candidates: Sequence[Candidate], samples: Sequence[Sample]) -> Part:
        """Measure every policy on samples."""
        policies = [candidate.policy for candidate in candidates]
        model, session = self.session.model, self.session
        kl = np.zeros((len(samples), len(policies)))
        with session.progress.stage(f"measuring {len(policies)} policies", "FLOPs") as tick:
            if samples:
                kl = session.engine.measure(policies, samples, tick).T
        # Without samples one of the others tells the number of features.
        read = samples or self.prepared.calibration[:1]
        features = read_features(model, read, self.selector)[: len(samples)]
        costs = sample_costs(self.prepared, policies, samples)
        table = Table(features, bounded(kl), costs, self.reads)
        return Part(table, kl, tuple(sample.item.family for sample in samples))

    def judged(self, candidates: Sequence[Candidate]) -> Part:
        """Measure every policy on the held-out samples, and score its answers if there are any."""
        prepared, session = self.prepared, self.session
        part, samples = self.measured(candidates, prepared.heldout), prepared.heldout
        if not samples or not all_answered([sample.item for sample in samples]):
            session.progress.total -= 1
            return part
        found = []
        with session.progress.stage(f"answering {len(samples)} held-out questions") as tick:
            for candidate in candidates:
                answers = answer(
                    session.model,
                    prepared.processor,
                    samples,
                    candidate.policy,
                    session.store,
                    answer_tokens=prepared.settings.answer_tokens,
                )
                found.append(answers.scores)
                tick(len(found), len(candidates))
        return replace(part, scores=np.stack(found, axis=1))
