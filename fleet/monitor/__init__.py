"""How the fleet is doing, as numbers that a gate can judge."""
