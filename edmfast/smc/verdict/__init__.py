"""The judgement of a run's weights, with reasons and advice."""
