"""The process of one worker: the application behind its HTTP server, until SIGTERM or SIGINT."""

import asyncio
import os
import signal
import sys

import uvloop

from servicedesk.collector import collect_seldom
from servicedesk.environment import Address
from servicedesk.logs import Log, capture_library_logs
from ticketd.app import YOUNG_OBJECTS, build_app, build_server
from ticketd.config import Config
from ticketd.metrics import write_as

BACKLOG = 4096


def run(address: Address, number: int) -> None:
    """Ends the process with code 1 when the start fails. `number`: no other worker has it now."""
    write_as(number)
    config = Config.from_environment(os.environ)
    log = Log("ticketd", level=config.log_level)
    capture_library_logs(log)
    sys.exit(uvloop.run(_serve(config, address, log)))


async def _serve(config: Config, address: Address, log: Log) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    app = build_app(config, log, in_tasks=False)
    server = build_server(config, app.pipeline)
    collect_seldom(YOUNG_OBJECTS)
    sweeping = asyncio.create_task(server.sweep())
    try:
        await app.service.start()
        await server.start(address.host, address.port, backlog=BACKLOG)
    except Exception as error:  # the boundary of the process
        log.error("start_failed", error=error)
        return 1
    await stop.wait()
    app.service.announce_stop()
    await server.stop()
    sweeping.cancel()
    await app.service.stop()
    return 0
