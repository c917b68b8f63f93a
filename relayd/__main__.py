"""`python -m relayd` relays the outbox into Kafka; with a command it shows and mends the outbox.

Exit codes: 0 after SIGTERM, 1 on a failure, 2 on a wrong setting; a command's are in its help.
"""

import os
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence
from functools import partial

from confluent_kafka import KafkaException

from relayd.config import Config, database_url, letter_topic
from relayd.relay import Relay
from servicedesk.environment import Environment, SettingError
from servicedesk.logs import Log, capture_library_logs
from servicedesk.mending.command import mend
from servicedesk.queue.lease_store import BucketCountError
from servicedesk.queue.tables import OUTBOX
from servicedesk.shutdown import run, stop_event


async def relay(config: Config) -> int:
    log = Log("relayd", level=config.log_level)
    capture_library_logs(log)
    owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    try:
        return await Relay(config, log, owner).run(stop_event())
    except SettingError:
        raise
    except (BucketCountError, KafkaException) as error:
        print(f"error: {error}", file=sys.stderr)
    except Exception as error:  # the boundary of the process: told whole, then ended
        log.error("failed", error=error)
    return 1


def main(arguments: Sequence[str], values: Mapping[str, str]) -> int:
    try:
        if arguments:
            return mend(
                arguments,
                program="python -m relayd",
                tables=OUTBOX,
                database_url=partial(database_url, Environment(values)),
                letters=partial(letter_topic, Environment(values)),
            )
        return run(relay(Config.from_environment(values)))
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
