"""What the relay's tables must hold after a storm of webhooks, worked out without the relay.

Nothing here imports `relay` or `worker`: deliveries are made and signed after the vendors' own documentation, the
expected rows come from a model of their lives, and the actual ones are read by plain SQL.
"""
