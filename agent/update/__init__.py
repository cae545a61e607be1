"""From a believed assignment to a running model, surviving a power cut at any point."""
