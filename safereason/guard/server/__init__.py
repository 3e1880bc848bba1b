"""HTTP server for a guard: the Moderation API for existing clients, and an endpoint with the full verdict."""
