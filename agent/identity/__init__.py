"""Who am I, and whom do I believe? The device key, enrolment, and trusted time."""
