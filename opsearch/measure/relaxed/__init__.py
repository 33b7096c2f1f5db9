"""The divergence of policies with fractional token counts, and its gradient."""
