"""What happened: windows of behaviour, and resources."""
