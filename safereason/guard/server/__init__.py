"""A guard behind HTTP: the Moderation API for what calls it today, and an endpoint with all that the guard says."""
