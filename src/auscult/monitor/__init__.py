"""A fitted model listens to a machine day and night: sources, sliding judgement, alarms, history."""
