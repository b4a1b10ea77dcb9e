"""The life of a delivery: pending, until an attempt succeeds or its time is over."""

PENDING = "pending"
DELIVERED = "delivered"
GIVEN_UP = "given_up"

ALL = (PENDING, DELIVERED, GIVEN_UP)
