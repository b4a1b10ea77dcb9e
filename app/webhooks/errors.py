"""What can be wrong with a request about webhook endpoints."""

from app.errors import BadRequest, NotFound, quoted


class EndpointNotFound(NotFound):
    """Could not find the webhook endpoint."""

    param = "webhook_endpoint_id"

    def __init__(self, endpoint_id: str) -> None:
        super().__init__(f"No such webhook endpoint: {quoted(endpoint_id)}")


class DeliveryNotFound(NotFound):
    """Could not find the delivery."""

    param = "delivery_id"

    def __init__(self, delivery_id: str) -> None:
        super().__init__(f"No such delivery: {quoted(delivery_id)}")


class UrlRefused(BadRequest):
    """The URL is not one that this server sends to."""

    code = "invalid_value"
    param = "url"


class TooManyEndpoints(BadRequest):
    """The project has as many webhook endpoints as it may."""

    code = "webhook_endpoint_limit_exceeded"


class WebhooksNotOffered(BadRequest):
    """This server offers no webhooks: it has no keys to keep signing secrets under."""


class SecretUnreadable(BadRequest):
    """The endpoint's signing secret cannot be read any more; rotate it."""


class NoAnswer(BadRequest):
    """The endpoint did not answer."""

    code = "webhook_endpoint_unreachable"
