"""The service in a whole machine of its own: an image for it, the machine, and what must be true of it after a power cut."""
