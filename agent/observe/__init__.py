"""What happened: windows of behaviour, resources, and the reports made of them."""
