"""Models that run in a process beside the agent: started, limited, spoken to and ended."""
