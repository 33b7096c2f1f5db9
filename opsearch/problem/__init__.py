"""The search problem: spaces, objectives, constraints, solutions."""
