"""Take part in a round: decide on an offer, train on local samples that never leave."""
