"""What the devices say, and the only way to answer them: broker, intake, dispatch."""
