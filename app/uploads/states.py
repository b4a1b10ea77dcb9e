"""An upload's life: pending → completing → completed, or → cancelled, or → expired.

`completing` is inside only, on the wire it is `pending`: one request puts the parts together, under a lease. Ended by a
crash, it is as good as pending once the lease has run out; ended by an error, it is pending at once.
"""

PENDING = "pending"
COMPLETING = "completing"
COMPLETED = "completed"
CANCELLED = "cancelled"
EXPIRED = "expired"

ALL = (PENDING, COMPLETING, COMPLETED, CANCELLED, EXPIRED)
