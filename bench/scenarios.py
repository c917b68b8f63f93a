"""The loads, by name."""

from dataclasses import dataclass
from typing import Literal

# closed: as fast as the connections allow; latency and overload: an open model around capacity.
Model = Literal["closed", "latency", "overload"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """`script` is in bench/wrk/ and bench/k6/scenarios/. `writes` leave the database changed."""

    script: str
    connections: int
    writes: bool
    model: Model = "closed"


SCENARIOS = {
    "read": Scenario(script="read", connections=64, writes=False),
    "list": Scenario(script="list", connections=64, writes=False),
    "create": Scenario(script="create", connections=128, writes=True),
    "patch": Scenario(script="patch", connections=64, writes=True),
    "mix": Scenario(script="mix", connections=64, writes=True),
    "alone": Scenario(script="create", connections=1, writes=True),
    "latency": Scenario(script="create", connections=0, writes=True, model="latency"),
    "overload": Scenario(script="create", connections=0, writes=True, model="overload"),
}
