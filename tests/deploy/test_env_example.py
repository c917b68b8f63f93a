""".env.example tells of every setting, and each of its values is one that the daemons take."""

import re

import notifyd.config
import relayd.config
import ticketd.config
from deploy.local.config import Config as StackConfig
from tests.support.processes import PROJECT

SETTING = re.compile(r"^#?([A-Z][A-Z0-9_]+)=(.*)$", re.MULTILINE)
# ticketd gives it to its own workers.
NOT_FOR_PEOPLE = {"PROMETHEUS_MULTIPROC_DIR"}


class Asked(dict[str, str]):
    """Remembers the names that were looked up."""

    def __init__(self, values: dict[str, str]) -> None:
        super().__init__(values)
        self.names: set[str] = set()

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override] # narrower on purpose
        self.names.add(name)
        return super().get(name, default)


def example() -> dict[str, str]:
    return dict(SETTING.findall((PROJECT / ".env.example").read_text()))


def test_every_setting_is_listed_and_every_value_is_taken() -> None:
    given = example() | {"NOTIFYD_CHANNELS": "log,webhook,smtp"}
    daemons = Asked(given)
    ticketd.config.Config.from_environment(daemons)
    relayd.config.Config.from_environment(daemons)
    notifyd.config.Config.from_environment(daemons)
    stack = Asked({name: value for name, value in given.items() if name != "METRICS_ADDR"})
    StackConfig.from_environment(stack)
    asked = daemons.names | stack.names
    assert asked - NOT_FOR_PEOPLE - example().keys() == set()
    assert example().keys() - asked == set()
