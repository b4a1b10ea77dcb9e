"""What this process does webhooks with, from the settings."""

from dataclasses import dataclass

from app import egress
from app.addresses import InvalidUrl, parse
from app.config import Settings
from app.egress import Egress, Refused
from app.secrets import Vault
from app.slots import Slots
from app.webhooks.errors import UrlRefused, WebhooksNotOffered


@dataclass(frozen=True)
class Runtime:
    """The door out, the keys, and how many requests may wait on receivers and name servers at once."""

    egress: Egress
    vault: Vault
    slots: Slots

    def check_offered(self) -> None:
        """Raise WebhooksNotOffered if there are no keys to keep secrets under."""
        if not self.vault.usable:
            raise WebhooksNotOffered

    def check_url(self, url: str, *, own: str) -> None:
        """Raise UrlRefused unless the URL is one to send to. own: host and port by which the client calls us."""
        try:
            self.egress.check(url)
            if parse(url).authority == own.lower():
                raise UrlRefused("The URL is refused: it leads back to this server.")
        except (Refused, InvalidUrl) as error:
            raise UrlRefused(f"The URL is refused: {error}.") from None


def open_runtime(settings: Settings) -> Runtime:
    """The runtime the settings ask for. Connects to nothing."""
    return Runtime(
        egress=egress.open_egress(settings),
        vault=Vault(settings.secret_keys.get_secret_value()),
        slots=Slots(settings.webhook_tests, settings.webhook_tests_per_project),
    )
