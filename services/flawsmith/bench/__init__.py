"""In&Out's grid of trainings, run on the platform, and the report about it."""
