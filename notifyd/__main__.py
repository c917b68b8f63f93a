"""`python -m notifyd` notifies; with a command it shows and mends the queue of deliveries.

Exit codes: 0 after SIGTERM, 1 on a failure, 2 on a wrong setting; a command's are in its help.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial

from confluent_kafka import KafkaException

from notifyd.app import serve
from notifyd.config import Config, database_url, letter_topic
from servicedesk.environment import Environment, SettingError
from servicedesk.logs import Log, capture_library_logs
from servicedesk.mending.command import mend
from servicedesk.queue.lease_store import BucketCountError
from servicedesk.queue.tables import DELIVERY
from servicedesk.shutdown import run


def notify(config: Config) -> int:
    log = Log("notifyd", level=config.log_level)
    capture_library_logs(log)
    try:
        return run(serve(config, log))
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
                program="python -m notifyd",
                tables=DELIVERY,
                database_url=partial(database_url, Environment(values)),
                letters=partial(letter_topic, Environment(values)),
            )
        return notify(Config.from_environment(values))
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
