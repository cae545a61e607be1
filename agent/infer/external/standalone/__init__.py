"""Programs that run beside the agent and import nothing of it; each file stands alone."""
