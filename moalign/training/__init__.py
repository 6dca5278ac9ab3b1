"""One trial: rollout, scoring, weighting, loss, checkpoint."""
