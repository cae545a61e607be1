"""FedAvg over the heads that the devices of the rounds bench train."""
