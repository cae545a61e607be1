"""The operator's commands, a surface over the running manager."""
