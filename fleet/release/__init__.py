"""From a file to a signable release: admit, quantise, golden vectors, candidates."""
